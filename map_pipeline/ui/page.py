"""How the page looks: its components in their places, without any behaviour (see demo.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from map_pipeline.config import EXPRESSIONS, HIDE, MODES
from map_pipeline.ui import texts
from map_pipeline.ui.examples import Example
from map_pipeline.ui.settings import MAX_SEED, MAX_STEPS, Choices
from map_pipeline.ui.style import TargetCard
from map_pipeline.ui.visit import Visit

ASSETS = Path(__file__).parent / "assets"
DEFAULT = Choices()
# Brings a new result into view, once all is in its place; on a phone it lies below the form. Gradio
# calls the pictures to choose from "Thumbnail 1 of 2", whatever is written below them.
SHOW_RESULT = """() => { setTimeout(() => {
    for (const one of document.querySelectorAll("#results [aria-label]"))
        one.removeAttribute("aria-label");
    const shown = [...document.querySelectorAll("#result, #batch-result, #clip-result")];
    shown.find(one => one.checkVisibility())?.scrollIntoView({behavior: "smooth", block: "start"});
}, 300) }"""
# Gradio's messages have a button around another one, which screen readers can't tell apart. Here
# the one that folds a message is beside the one that closes it.
SEPARATE_BUTTONS = """() => { new MutationObserver(() => {
    for (const header of document.querySelectorAll(".toast-header[role]")) {
        header.removeAttribute("role");
        header.removeAttribute("tabindex");
        const title = header.querySelector(".toast-title-row");
        title.setAttribute("role", "button");
        title.tabIndex = 0;
    }
}).observe(document.body, {childList: true, subtree: true}) }"""
# A click on a face is one on its checkbox, and on its number one on its choice of an expression.
PICK_FACE = """element.addEventListener("click", event => {
    const face = event.target.closest("[data-place]");
    const number = event.target.closest(".map-face-number");
    const inputs = document.querySelectorAll(number ? "#whose input" : "#faces input");
    if (face) inputs[Number(face.dataset.place) + (number ? 1 : 0)]?.click();
})"""
# Where several expressions are chosen: done in the browser, where nothing overtakes anything else.
KEEP_EXPRESSION = """(emotion, whose, own) => ({...own, [whose]: emotion})"""
TURN_TO_FACE = """(emotion, whose, own) => {
    const kept = {"0": emotion, ...own};
    return [kept, kept[whose] ?? kept["0"]];
}"""
EMOTION_CHOICES = [(texts.emotion_label(emotion), emotion) for emotion in EXPRESSIONS]
STEPS_INFO = texts.STEPS_INFO + ", ".join(
    f"{config.refine_steps - config.steps_saved} in {mode.capitalize()}"
    for mode, config in MODES.items()
)


@dataclass(frozen=True)
class PhotoArea:
    """The photo, its preview, and what was found in it."""

    photo: gr.Image
    newest: gr.State
    looks: gr.State
    preview: gr.HTML
    outlines: gr.HTML
    note: gr.HTML


@dataclass(frozen=True)
class Form:
    """A component for each field of `Choices`, under its name, and what stands among them.

    Two are put together from others: `action_units` from `movements`, in the order of
    `texts.MOVEMENTS`, and `emotions` from `own`, which holds the emotion of each face by its number
    as text, "0" for all others. The one of the face in `whose` is that of `emotion`.
    """

    emotion: gr.Radio
    expression_strength: gr.Slider
    target: gr.Radio
    consent: gr.Checkbox
    faces: gr.CheckboxGroup
    mode: gr.Radio
    margin: gr.Radio
    steps: gr.Slider
    detector: gr.Dropdown
    seed: gr.Number
    random_seed: gr.Checkbox
    file_type: gr.Radio
    rotate: gr.Checkbox
    expression_of: gr.Image
    people: gr.Column
    whose: gr.Radio
    own: gr.JSON
    movements: list[gr.Slider]
    reset: gr.Button
    own_target: gr.Image
    protect: gr.Button
    stop: gr.Button
    status: gr.HTML
    expected: gr.HTML

    @property
    def choices(self) -> list[gr.Component]:
        """The components of `Choices`, in the order of its fields, but the put together ones."""
        return [getattr(self, name) for name in self._names]

    @property
    def given(self) -> list[gr.Component]:
        """All components that `read` reads."""
        return [*self.choices, self.whose, self.own, *self.movements]

    def read(self, values: Sequence[Any]) -> Choices:
        """What was chosen, given the values of `given`."""
        emotion, *others = values[: len(self._names)]
        whose, own, *amounts = values[len(self._names) :]
        named = zip(texts.MOVEMENTS, amounts, strict=True)
        emotions = {**own, str(whose): emotion}
        return Choices(
            emotions.pop("0", emotion),
            *others,
            action_units={name: amount for name, amount in named if amount},
            emotions=emotions,
        )

    @property
    def _names(self) -> list[str]:
        put_together = ("action_units", "emotions")
        return [field.name for field in fields(Choices) if field.name not in put_together]


@dataclass(frozen=True)
class ResultArea:
    """What a visitor gets; `empty` is shown instead as long as there is nothing."""

    visit: gr.State
    results: gr.Gallery
    empty: gr.HTML
    area: gr.Column
    verdict: gr.HTML
    stronger: gr.Button
    slider: gr.ImageSlider
    download: gr.DownloadButton
    download_report: gr.DownloadButton
    other: gr.Image
    recognisers: gr.HTML
    expressions: gr.HTML
    robustness: gr.HTML
    numbers: gr.HTML


def photo_area() -> PhotoArea:
    """First step: the photo."""
    with gr.Column(elem_id="photo-area"):
        photo = gr.Image(
            label="Your photo", sources=["upload", "webcam", "clipboard"], format="png",
            height=300, elem_id="photo", buttons=["fullscreen"],
            alt_text="The photo to protect", placeholder=texts.UPLOAD,
        )  # fmt: skip
        preview = gr.HTML(elem_id="preview", padding=False)
        outlines = gr.HTML(elem_id="outlines", padding=False, js_on_load=PICK_FACE)
    newest = gr.State({})  # "photo" -> its path: what is asked for now, not what is worked on
    looks = gr.State(0)  # how often a preview was asked for that no choice asks for
    note = gr.HTML(elem_id="faces-note", padding=False)
    return PhotoArea(photo, newest, looks, preview, outlines, note)


def examples_row(examples: Sequence[Example]) -> gr.Dataset:
    """Photos whose results appear at a click."""
    return gr.Dataset(
        components=[gr.Image(visible=False)],
        samples=[[str(one.photo)] for one in examples],
        sample_labels=[one.caption for one in examples],
        type="index",
        label="No photo at hand? Try an example",
        elem_id="examples",
        visible=bool(examples),
    )


def form(targets: Sequence[TargetCard]) -> Form:
    """Second and third step: the expression and the button; all that has good defaults is behind
    one more. Whom it's about is only asked where several faces were found.
    """
    with gr.Column(elem_id="people", visible=False) as people:
        faces = gr.CheckboxGroup([], label="Protect", elem_id="faces")
        whose = gr.Radio([("All", 0)], value=0, label=texts.WHOSE, elem_id="whose")
    own = gr.JSON({}, visible=False)
    emotion = gr.Radio(
        EMOTION_CHOICES, value=DEFAULT.emotion, label="New expression",
        elem_id="emotion", elem_classes=["map-tiles", "map-emotions"],
    )  # fmt: skip
    with gr.Row(elem_id="go"):
        expression_strength = gr.Slider(
            0, 1, DEFAULT.expression_strength, step=0.05, label="How strong", elem_id="strength",
            buttons=[], scale=3, min_width=200,
        )  # fmt: skip
        protect = gr.Button("Protect", variant="primary", size="lg", scale=2, min_width=120)
        stop = gr.Button("Stop", variant="stop", size="lg", visible=False, min_width=80)
    status = gr.HTML(elem_id="status", padding=False)
    expected = gr.HTML(elem_id="expected", padding=False)
    gr.Markdown(texts.PRIVACY_LINE, elem_classes="map-note")
    with gr.Accordion("More", open=False, elem_id="more"):
        movements, reset = movement_sliders()
        expression_of = gr.Image(
            label=texts.COPIED, sources=["upload", "webcam", "clipboard"], format="png",
            height=220, buttons=[], alt_text="The photo whose expression is copied",
            placeholder=texts.UPLOAD, elem_id="copied",
        )  # fmt: skip
        gr.Markdown(texts.COPIED_NOTE, elem_classes="map-note")
        mode = gr.Radio(
            [(mode.capitalize(), mode) for mode in MODES], value=DEFAULT.mode,
            label="How thorough", info=texts.MODE_INFO,
        )  # fmt: skip
        margin = gr.Radio(
            texts.MARGIN_CHOICES, value=DEFAULT.margin, label="How safe", info=texts.MARGIN_INFO
        )
        composites = [(texts.caption(one.name), one.name) for one in targets]
        target = gr.Radio(
            [("Auto", "auto"), ("Nobody", HIDE), *composites],
            value=DEFAULT.target, label=texts.TARGET_LABEL, info=texts.TARGET_INFO,
            elem_id="target", elem_classes="map-tiles",
        )  # fmt: skip
        own_target = gr.Image(
            label=texts.OWN_TARGET, sources=["upload", "clipboard"], format="png",
            height=220, buttons=[], alt_text="The picture that programs should see",
            placeholder=texts.UPLOAD,
        )  # fmt: skip
        gr.Markdown(texts.TARGET_NOTICE, elem_classes="map-note")
        consent = gr.Checkbox(DEFAULT.consent, label=texts.CONSENT)
        file_type = gr.Radio(
            texts.FILE_TYPE_CHOICES, value=DEFAULT.file_type, label="File type",
            info=texts.FILE_TYPE_INFO,
        )  # fmt: skip
        steps = gr.Slider(
            0, MAX_STEPS, DEFAULT.steps, step=1, label="Steps", info=STEPS_INFO
        )  # fmt: skip
        with gr.Row():
            seed = gr.Number(
                DEFAULT.seed, precision=0, minimum=0, maximum=MAX_SEED, label="Seed",
                info=texts.SEED_INFO,
            )  # fmt: skip
            random_seed = gr.Checkbox(DEFAULT.random_seed, label="A new one each time")
        detector = gr.Dropdown(
            ["auto", "bundled"], value=DEFAULT.detector, label="How faces are found",
            info="Auto uses the best detector installed.",
        )  # fmt: skip
        rotate = gr.Checkbox(DEFAULT.rotate, label=texts.ROTATE, info=texts.ROTATE_INFO)
    return Form(
        emotion=emotion, expression_strength=expression_strength, target=target, consent=consent,
        faces=faces, mode=mode, margin=margin, steps=steps, detector=detector, seed=seed,
        random_seed=random_seed, file_type=file_type, rotate=rotate,
        expression_of=expression_of, people=people, whose=whose,
        own=own, movements=movements, reset=reset, own_target=own_target, protect=protect,
        stop=stop, status=status, expected=expected,
    )  # fmt: skip


def movement_sliders() -> tuple[list[gr.Slider], gr.Button]:
    """A slider for each single movement, and a button that puts all back."""
    with gr.Accordion("Single movements", open=False):
        gr.Markdown(texts.MOVEMENTS_INFO, elem_classes="map-note")
        with gr.Row():
            movements = [
                gr.Slider(-1, 1, 0, step=0.05, label=label, buttons=[], min_width=200)
                for label in texts.MOVEMENTS.values()
            ]
        return movements, gr.Button("Reset", size="sm")


def result_area(keep_seconds: int) -> ResultArea:
    """Verdict first, then the pictures, then the reasons.

    Args:
        keep_seconds: how long results can be gone back to.
    """
    visit = gr.State(Visit(), time_to_live=keep_seconds)
    results = gr.Gallery(
        label=texts.RESULTS, columns=4, object_fit="contain", allow_preview=False,
        interactive=False, buttons=[], visible=False, elem_id="results",
    )  # fmt: skip
    empty = gr.HTML(texts.EMPTY_RESULT, padding=False)
    with gr.Column(visible=False) as area:
        verdict = gr.HTML(padding=False, elem_id="verdict")
        stronger = gr.Button(texts.STRONGER, visible=False)
        slider = gr.ImageSlider(
            label="Before | after", format="png", interactive=False, max_height=640,
            buttons=["fullscreen"], elem_id="slider",
        )  # fmt: skip
        with gr.Row():
            download = download_button(None)
            download_report = gr.DownloadButton("Download the report (JSON)")
        with gr.Row(elem_id="other"):
            gr.Markdown(texts.OTHER)
            other = gr.Image(
                label="Another photo of you", sources=["upload", "webcam", "clipboard"],
                format="png", height=220, buttons=[], min_width=260,
                alt_text="Another photo of you", placeholder=texts.UPLOAD,
            )  # fmt: skip
        with gr.Accordion("What each program says", open=True):
            recognisers = gr.HTML(padding=False)
        with gr.Accordion("After sharing: compressed or made smaller", open=False):
            robustness = gr.HTML(padding=False)
        with gr.Accordion("Expression", open=False):
            expressions = gr.HTML(padding=False)
        with gr.Accordion("All numbers", open=False):
            numbers = gr.HTML(padding=False)
    return ResultArea(
        visit, results, empty, area, verdict, stronger, slider, download, download_report, other,
        recognisers, expressions, robustness, numbers,
    )  # fmt: skip


def download_button(path: str | None) -> gr.DownloadButton:
    """The button for the result at `path`, with its file type."""
    kind = "JPEG" if path and path.endswith(".jpg") else "PNG"
    return gr.DownloadButton(f"Download the photo ({kind})", value=path, variant="primary")


def check_tab() -> tuple[gr.Image, gr.Image, gr.Button, gr.HTML]:
    """Two photos, a button and the answer."""
    gr.Markdown(texts.CHECK_INTRO)
    with gr.Row():
        first, second = (
            gr.Image(
                label=label, sources=["upload", "webcam", "clipboard"], format="png", height=300,
                buttons=[], alt_text=label, placeholder=texts.UPLOAD,
            )
            for label in ("First photo", "Second photo")
        )  # fmt: skip
    button = gr.Button("Compare", variant="primary", size="lg")
    return first, second, button, gr.HTML(padding=False)


def explanations() -> None:
    """How it works in one picture, what it doesn't promise, privacy, paper."""
    picture = ASSETS / "how-it-works.svg"
    if picture.is_file():
        gr.HTML(f'<div class="map-how">{picture.read_text()}</div>', padding=False)
    for text in (texts.HOW_IT_WORKS, texts.NO_PROMISE, texts.PRIVACY, texts.PAPER):
        gr.Markdown(text)
