"""The web page: `python app.py`, on a laptop, a CUDA machine or a Hugging Face ZeroGPU Space."""

import spaces  # isort: skip  (first: on ZeroGPU it has to patch CUDA before torch is imported)

import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from map_pipeline import MAPPipeline, ui
from map_pipeline.errors import MAPError
from map_pipeline.faces.detect import Box, load_detector, select_faces
from map_pipeline.images import load_image, save_image, to_array
from map_pipeline.refine import Step
from map_pipeline.report import FaceReport

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.png"))

LAUNCH = {
    # Fonts of the visitor's own system: nothing is requested from third parties.
    "theme": gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace"]),
    "css": ui.CSS,
    "run_history": False,  # it would keep photos in the visitor's browser
    "max_file_size": "20mb",
    "enable_monitoring": False,
    "footer_links": ["api", "gradio", "settings"],
    # Ours are gr.Error and are always shown; Gradio's own texts name files on the server.
    "show_error": False,
}

logger = logging.getLogger(__name__)


def build_demo(load: Callable[[], MAPPipeline]) -> gr.Blocks:
    """Load the models and lay out the page; `queue` and `launch` are the caller's.

    Args:
        load: returns the pipeline, on the CPU. It's called here and not on the first click, as
            ZeroGPU hands over to the GPU what the main process holds when the page is launched.
    """
    pipe = load()
    # Pictures are read before the move: ZeroGPU takes "cuda" tensors away from the main process.
    targets = dict(zip(pipe.targets.names, pipe.targets.config.descriptions, strict=True))
    pictures = [(pipe.targets.picture(name), ui.caption(name)) for name in targets]
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    # Not the pipeline's own: that one is created in the GPU worker, because the threads of an
    # onnxruntime session don't survive the fork.
    detector = load_detector(pipe.config.detector)

    def gpu_seconds(_photo: Image.Image, settings: ui.PageSettings, boxes: list[Box]) -> int:
        return settings.gpu_seconds(len(boxes))

    @spaces.GPU(duration=gpu_seconds)
    def run(
        photo: Image.Image, settings: ui.PageSettings, boxes: list[Box]
    ) -> tuple[Image.Image, list[FaceReport]]:
        # Of its own: on ZeroGPU this runs in another process, where Gradio's finds the page, too.
        progress = gr.Progress()

        def on_step(_pipe: MAPPipeline, step: int, steps: int, _info: Step) -> None:
            text = ui.step_progress(step + 1, steps, len(boxes))
            progress((step + 1, steps), desc=text)

        progress(0, desc="Preparing the face")
        with errors_in_plain_words():
            output = pipe(
                photo,
                emotion=settings.emotion,
                target=settings.target,
                faces=boxes,
                mode=settings.mode,
                strength=settings.strength,
                expression_strength=settings.expression_strength,
                refine_steps=settings.steps or None,
                generator=torch.Generator().manual_seed(settings.seed),
                callback_on_step_end=on_step,
            )
        return output.images[0], output.reports[0]

    def protect(
        photo: dict[str, Any] | None,
        emotion: str,
        expression_strength: float,
        target: str,
        faces: str,
        mode: str,
        seed: int,
        strength: float,
        steps: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way)
    ) -> tuple:
        """Protect the faces of a photo from face recognition by changing their expression.

        Args:
            photo: the photo, at most 20 MB and 50 megapixels.
            emotion: angry, disgust, fear, happy, neutral, sad or surprise.
            expression_strength: how far the expression is changed, in [0, 1].
            target: "auto" or the name of a built-in target.
            faces: "largest" or "all".
            mode: "fast" or "strong".
            seed: the same seed gives the same result.
            strength: visible change that the protection may cost, in [0.05, 1].
            steps: fine-tuning steps per face; 0 is the number of the mode.

        Returns:
            original and protected photo, verdict, two tables, report, protected photo as PNG file.
        """
        with errors_in_plain_words():
            if not photo or not photo.get("path"):
                raise gr.Error("Choose a photo first.", print_exception=False)
            settings = ui.PageSettings(
                emotion, expression_strength, target, faces, mode, seed, strength, steps
            )
            settings.check(list(targets))
            progress(0, desc="Looking for faces")
            original = load_image(photo["path"])
            # Finding faces needs no GPU; a photo without any costs no GPU time.
            chosen = select_faces(detector.detect(to_array(original)), settings.faces)
            protected, reports = run(original, settings, [face.box for face in chosen])
            # Inside Gradio's cache, so that `delete_cache` knows and deletes these files.
            folder = Path(tempfile.mkdtemp(dir=slider.GRADIO_CACHE))
            before, after = str(folder / "original.png"), str(folder / "protected.png")
            save_image(original, before)
            save_image(protected, after)
        return (
            (before, after),
            ui.verdict(reports),
            ui.recogniser_rows(reports),
            ui.expression_rows(reports),
            [report.to_dict() for report in reports],
            after,
        )

    def pick_target(event: gr.SelectData) -> str:
        return list(targets)[event.index]

    def enable() -> gr.DownloadButton:
        return gr.DownloadButton(interactive=True)

    default = ui.DEFAULTS
    with gr.Blocks(title=ui.TITLE, analytics_enabled=False, delete_cache=(600, 600)) as demo:
        gr.Markdown(ui.INTRO)
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(
                    label="Your photo", sources=["upload", "webcam", "clipboard"], format="png",
                    height=360,
                )  # fmt: skip
                gr.Examples([str(path) for path in EXAMPLES], photo, cache_examples=False)
                emotion = gr.Radio(ui.EMOTION_CHOICES, value=default.emotion, label="Expression")
                expression_strength = gr.Slider(
                    0, 1, default.expression_strength, step=0.05,
                    label="How much of it", info=ui.EXPRESSION_INFO,
                )  # fmt: skip
                mode = gr.Radio(
                    ui.MODE_CHOICES, value=default.mode, label="Protection", info=ui.MODE_INFO
                )
                faces = gr.Radio(ui.FACE_CHOICES, value=default.faces, label="Faces")
                choices = [ui.AUTO_CHOICE, *((text, name) for name, text in targets.items())]
                target = gr.Dropdown(choices, value="auto", label="Target", info=ui.TARGET_INFO)
                gallery = gr.Gallery(
                    pictures, label="Built-in targets", columns=4, height=330, format="png",
                    show_label=False, allow_preview=False, interactive=False, buttons=[],
                )  # fmt: skip
                with gr.Accordion("Advanced", open=False):
                    strength = gr.Slider(
                        0.05, 1, default.strength, step=0.05, label="Strength (visible change)"
                    )
                    steps = gr.Slider(
                        0, ui.MAX_STEPS, default.steps, step=1, label="Steps", info=ui.STEPS_INFO
                    )
                    seed = gr.Number(default.seed, precision=0, minimum=0, label="Seed")
                button = gr.Button("Protect", variant="primary", size="lg")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(label="Before | after", format="png", interactive=False)
                result = gr.Markdown("The result appears here.")
                download = gr.DownloadButton("Download as PNG", interactive=False)
                table = gr.Dataframe(
                    headers=ui.RECOGNISER_COLUMNS, label=ui.TABLE_LABEL, wrap=True,
                    column_widths=ui.RECOGNISER_WIDTHS,
                )  # fmt: skip
                with gr.Accordion("Expression and full report", open=False):
                    expressions = gr.Dataframe(headers=ui.EXPRESSION_COLUMNS, label="Expression")
                    report = gr.JSON(label="Report")
        gr.Markdown(f"{ui.HOW_IT_WORKS}\n\n{ui.PRIVACY}")

        gallery.select(pick_target, outputs=target, api_visibility="private")
        button.click(
            protect,
            [photo, emotion, expression_strength, target, faces, mode, seed, strength, steps],
            [slider, result, table, expressions, report, download],
            # The package's own reader gets the upload as it is: it knows alpha, 16 bits, colour
            # profiles and size limits, and says in plain words what's wrong with a file.
            preprocess=False,
            show_progress_on=slider,
            api_name="protect",
        ).success(enable, outputs=download, api_visibility="private")
    return demo


@contextmanager
def errors_in_plain_words() -> Iterator[None]:
    """Turn every error into a `gr.Error`, the only kind that ZeroGPU passes on to the user."""
    try:
        yield
    except gr.Error:
        raise
    except MAPError as error:
        raise gr.Error(str(error).replace("`", ""), print_exception=False) from None
    except Exception as error:
        # Where it happened, without the message: that may tell something about the photo.
        places = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s at\n%s", type(error).__name__, places)
        raise gr.Error(
            "Something went wrong on our side. Please try again or choose another photo.",
            print_exception=False,
        ) from None


if __name__ == "__main__":
    build_demo(MAPPipeline.from_pretrained).queue(max_size=20).launch(**LAUNCH)
