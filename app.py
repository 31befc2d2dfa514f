"""The web page: `python app.py`, on a laptop, a CUDA machine or a Hugging Face ZeroGPU Space."""

import spaces  # isort: skip  (first: on ZeroGPU it has to patch CUDA before torch is imported)

import importlib.util
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from map_pipeline.ui import charts, found_faces, page, results, style, texts
from map_pipeline.ui.cache import use_own_cache
from map_pipeline.ui.endpoints import Endpoints, File
from map_pipeline.ui.examples import load_examples
from map_pipeline.ui.limits import RateLimit
from map_pipeline.ui.memory import give_back_large_blocks
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import Files, Job, Progress, Protected, ProtectionService, read_photo
from map_pipeline.ui.settings import MAX_FACES, Choices, PageSettings

ZERO_GPU = bool(os.environ.get("SPACES_ZERO_GPU"))
# Quick, and nothing for programs: never waits for a photo that is being protected.
AT_ONCE = {"api_visibility": "private", "concurrency_limit": None}


def build_demo(settings: PageSettings, load: Callable[[], Any]) -> gr.Blocks:
    """Lay out the page; `start` launches it.

    Args:
        settings: what distinguishes this deployment.
        load: returns the `Models`; called in the background where the platform allows it.
    """
    studio = ProtectionService(load, background=not ZERO_GPU)
    targets = style.built_in_targets(settings.checkpoint)
    examples = load_examples(settings.examples)

    def gpu_seconds(job: Job) -> int:
        return job.choices.gpu_seconds(len(job.boxes))

    @spaces.GPU(duration=gpu_seconds)
    def run(job: Job) -> Generator[Progress | Protected, None, None]:
        with errors_in_plain_words():
            yield from studio.run(job)

    def protect_on_page(
        request: gr.Request, photo: File, own_target: File, *values: Any
    ) -> Iterator[dict]:
        for told in endpoints.work(photo, own_target, Choices(*values), request):
            if isinstance(told, Progress):
                yield {status: results.progress_bar(told)}
                continue
            job, protected, files = told
            yield {
                **show(files, protected.reports, job.choices.mode, job.choices.seed),
                status: results.progress_bar(Progress(1, 1, "Testing how sturdy it is")),
            }
            with errors_in_plain_words():
                faces = studio.check_robustness(job, protected)
            yield {out.sturdiness: "".join(map(charts.sturdiness_chart, faces)), status: ""}

    def show(files: Files, reports: list, mode: str, seed: int) -> dict:
        return {
            out.empty: gr.HTML(visible=False),
            out.area: gr.Column(visible=True),
            out.verdict: results.verdict(reports, mode),
            out.slider: (files.before, files.after),
            out.download: files.after,
            out.download_report: files.report,
            out.recognisers: charts.similarity_chart(reports),
            out.expressions: charts.emotion_chart(reports),
            out.sturdiness: texts.NOT_TESTED,
            out.numbers: results.tables(reports) + results.details(reports, seed),
            form.seed: seed,
        }

    def show_example(index: int) -> dict:
        one = examples[index]
        files = Files(str(one.photo), str(one.protected), str(one.report))
        shown = show(files, one.reports, one.mode, one.seed)
        return {**shown, top.photo: files.before, form.emotion: one.emotion, form.mode: one.mode}

    def outline_faces(photo: File, detector: str) -> dict:
        clear = {top.outlines: "", top.note: "", top.faces: gr.CheckboxGroup([], visible=False)}
        if not photo:
            return clear
        try:
            with errors_in_plain_words():
                picture = read_photo(photo["path"])
                found = studio.find_faces(picture, detector)
        except gr.Error as error:
            gr.Warning(error.message)  # an error would leave the outlines of the photo before
            return clear
        ticked = [one.number for one in found if one.clear][:MAX_FACES]
        several = len(found) > 1 or not ticked
        return {
            top.outlines: found_faces.outlines(picture.size, found),
            top.note: f'<p class="map-note">{found_faces.summary(found)}</p>',
            top.faces: gr.CheckboxGroup(found_faces.choices(found), value=ticked, visible=several),
        }

    def compare_on_page(first: File, second: File) -> str:
        return charts.comparison_chart(endpoints.compared(first, second))

    def ready() -> dict:
        with errors_in_plain_words():
            models = studio.models
        return {
            form.mode: gr.Radio(texts.mode_choices(models.seconds)),
            form.detector: gr.Dropdown(list(models.protecting)),
        }

    def forget() -> tuple[gr.HTML, gr.Column]:
        return gr.HTML(visible=True), gr.Column(visible=False)

    def busy() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=False), gr.Button(visible=True)

    def stopping() -> tuple[gr.Button, str]:
        # Until the work has ended Gradio would drop another press of the first button.
        return gr.Button(visible=False), texts.STOPPING

    def idle() -> tuple[gr.Button, gr.Button, str]:
        return gr.Button(interactive=True), gr.Button(visible=False), ""

    with gr.Blocks(
        title=texts.TITLE,
        analytics_enabled=False,
        delete_cache=(settings.keep_seconds, settings.keep_seconds),
    ) as demo:
        gr.Markdown(texts.INTRO, elem_id="intro")
        with gr.Tab("Protect"), gr.Row():
            with gr.Column(scale=5):
                top = page.photo_area(examples)
                form = page.form(top.faces, targets)
                with gr.Row():
                    button = gr.Button("Protect", variant="primary", size="lg", scale=3)
                    stop = gr.Button("Stop", variant="stop", size="lg", visible=False)
                status = gr.HTML(elem_id="status", padding=False)
                gr.Markdown(texts.PRIVACY_LINE, elem_classes="map-note")
            with gr.Column(scale=6):
                out = page.result_area()
        with gr.Tab("Check a photo"):
            check = page.check_tab()
        with gr.Tab("About"):
            page.explanations()

        limit = RateLimit(settings.rate_limit, settings.rate_seconds)
        endpoints = Endpoints(studio, run, limit, targets, top.photo.GRADIO_CACHE)
        inputs = [top.photo, form.own_target, *form.choices]
        faces_shown = [top.outlines, top.note, top.faces]
        result_shown = [status, *vars(out).values(), form.seed]
        buttons = [button, stop]
        demo.load(ready, outputs=[form.mode, form.detector], show_progress="hidden", **AT_ONCE)
        gr.on(
            [top.photo.change, form.detector.change],
            outline_faces, [top.photo, form.detector], faces_shown,
            show_progress_on=top.note, preprocess=False, **AT_ONCE,
        )  # fmt: skip
        top.photo.input(forget, outputs=[out.empty, out.area], **AT_ONCE)
        top.examples.click(
            show_example, top.examples, [*result_shown, top.photo, form.emotion, form.mode],
            show_progress="hidden", **AT_ONCE,
        ).success(None, js=page.SHOW_RESULT, api_visibility="private")  # fmt: skip
        job = button.click(busy, outputs=buttons, queue=False, **AT_ONCE).then(
            protect_on_page, inputs, result_shown, show_progress_on=status, preprocess=False,
            concurrency_id="protect", api_visibility="private",
        )  # fmt: skip
        job.success(None, js=page.SHOW_RESULT, api_visibility="private")
        for ended in (job.success, job.failure):
            ended(idle, outputs=[*buttons, status], **AT_ONCE)
        stop.click(stopping, outputs=[stop, status], cancels=job, **AT_ONCE)
        first, second, compare_button, answer = check
        compare_button.click(
            compare_on_page, [first, second], answer, preprocess=False, **AT_ONCE
        )  # fmt: skip

        # Endpoints for programs: plain values instead of the page's HTML.
        api, data = gr.Button(visible=False), gr.JSON(visible=False)
        file, text = gr.File(visible=False), gr.Textbox(visible=False)
        for endpoint, given, returned, name in (
            (endpoints.protect, inputs, [file, text, data, form.seed], "protect"),
            (endpoints.detect, [top.photo, form.detector], data, "detect"),
            (endpoints.compare, [first, second], data, "compare"),
            (endpoints.targets, None, data, "targets"),
        ):
            api.click(
                endpoint, given, returned, preprocess=False, api_name=name, concurrency_id=name
            )
    return demo


def start(settings: PageSettings, load: Callable[[], Any], **options: Any) -> gr.Blocks:
    """Build and launch the page without waiting for its end; `options` go to `launch`."""
    served = threading.Event()

    def load_once_served() -> Any:
        # Loading takes the processor, and Gradio gives its own page three seconds to answer.
        served.wait()
        return load()

    use_own_cache(settings.keep_seconds)
    demo = build_demo(settings, load if ZERO_GPU else load_once_served)
    targets = [one.picture for one in style.built_in_targets(settings.checkpoint)]
    photos = [Image.open(one.photo) for one in load_examples(settings.examples)]
    demo.queue(max_size=settings.queue_size, default_concurrency_limit=settings.concurrency)
    demo.launch(
        theme=page.theme(),
        css=style.page_css(targets, photos),
        run_history=False,  # it would keep photos in the visitor's browser
        max_file_size=f"{settings.max_upload_mb}mb",
        enable_monitoring=False,
        allowed_paths=[str(settings.examples)],  # wherever the page is started from
        footer_links=["api", "gradio", "settings"],
        # Ours are gr.Error and are always shown; Gradio's own texts name files on the server.
        show_error=False,
        mcp_server=importlib.util.find_spec("mcp") is not None,
        **{**options, "prevent_thread_lock": True},
    )
    served.set()
    return demo


def load_shipped(settings: PageSettings) -> Any:
    """The models of a checkpoint; torch is only imported here, when the page is already shown."""
    from map_pipeline.images import quiet_pillow
    from map_pipeline.ui.models import load_models

    quiet_pillow()
    give_back_large_blocks()
    return load_models(settings.checkpoint)


if __name__ == "__main__":
    settings = PageSettings.from_environment()
    start(settings, lambda: load_shipped(settings)).block_thread()
