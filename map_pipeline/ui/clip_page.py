"""A short clip on the page: its components, its preview, and what came of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from map_pipeline.config import MODES
from map_pipeline.ui import page, results, texts
from map_pipeline.ui.clip import WINKS, can_read_clips
from map_pipeline.ui.endpoints import Endpoints, File
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import Progress
from map_pipeline.ui.settings import PageSettings
from map_pipeline.ui.working import AT_ONCE, AtWork

MAX_PREVIEWS = 1  # at once, as it waits for nobody


@dataclass(frozen=True)
class ClipArea:
    """The clip, its preview and what is asked for it, then what came of it."""

    clip: gr.Video
    frame: gr.State
    looks: gr.State
    preview: gr.HTML
    note: gr.HTML
    emotion: gr.Radio
    expression_strength: gr.Slider
    faces: gr.Radio
    mode: gr.Radio
    protect: gr.Button
    stop: gr.Button
    status: gr.HTML
    verdict: gr.HTML
    result: gr.Video
    download: gr.DownloadButton


def clip_tab(settings: PageSettings) -> ClipArea | None:
    """Clip and expression on the left, what came of it on the right.

    Returns:
        None where clips can't be read, which the page says instead.
    """
    if not can_read_clips():
        gr.Markdown(texts.NO_CLIPS)
        return None
    with gr.Row():
        with gr.Column(scale=5):
            with gr.Row(elem_id="clip-pictures"):
                clip = gr.Video(
                    label="Your clip", sources=["upload"], height=200, buttons=[],
                    min_width=240, elem_id="clip",
                )  # fmt: skip
                preview = gr.HTML(elem_id="clip-preview", padding=False, min_width=200)
            frame = gr.State("")  # path of the first frame
            looks = gr.State(0)  # how often a first frame came
            note = gr.HTML(elem_id="clip-note", padding=False)
            emotion = gr.Radio(
                page.EMOTION_CHOICES, value=page.DEFAULT.emotion, label="New expression",
                elem_id="clip-emotion", elem_classes=["map-tiles", "map-emotions"],
            )  # fmt: skip
            with gr.Row():
                strength = gr.Slider(
                    0, 1, page.DEFAULT.expression_strength, step=0.05, label="How strong",
                    buttons=[], scale=3, min_width=200,
                )  # fmt: skip
                protect = gr.Button(
                    "Protect the clip", variant="primary", size="lg", scale=2, min_width=120
                )
                stop = gr.Button("Stop", variant="stop", size="lg", visible=False, min_width=80)
            faces = gr.Radio(
                texts.CLIP_FACES, value="largest", label="Protect", elem_id="clip-faces"
            )
            mode = gr.Radio(
                [(mode.capitalize(), mode) for mode in MODES], value=page.DEFAULT.mode,
                label="How thorough", info=texts.MODE_INFO,
            )  # fmt: skip
            limits = texts.clip_limits(settings.clip_seconds, settings.clip_size)
            gr.Markdown(f"{limits} {texts.CLIP_INTRO}", elem_classes="map-note")
        with gr.Column(scale=6, elem_id="clip-result"):
            status = gr.HTML(
                f'<div class="map-empty"><p>{texts.CLIP_HINT}</p></div>',
                elem_id="clip-status", padding=False,
            )  # fmt: skip
            verdict = gr.HTML(elem_id="clip-verdict", padding=False)
            result = gr.Video(
                label="Protected clip", interactive=False, visible=False, buttons=[],
                elem_id="clip-player",
            )  # fmt: skip
            download = gr.DownloadButton(
                "Download the clip (MP4)", variant="primary", visible=False,
                elem_id="clip-download",
            )  # fmt: skip
    return ClipArea(
        clip, frame, looks, preview, note, emotion, strength, faces, mode, protect, stop, status,
        verdict, result, download,
    )  # fmt: skip


def connect(area: ClipArea | None, form: page.Form, endpoints: Endpoints) -> None:
    """Have a clip previewed when it comes or a choice changes, and the button protect it."""
    if area is None:
        return
    chosen = [area.emotion, area.expression_strength, area.mode]

    def choices_of(emotion: str, strength: float, mode: str, *values: Any) -> Any:
        read = form.read(values)
        movements = {k: v for k, v in (read.action_units or {}).items() if k not in WINKS}
        return replace(
            read, emotion=emotion, expression_strength=strength, mode=mode, faces=(),
            emotions=None, action_units=movements,
        )  # fmt: skip

    def look_at_clip(clip: File, looks: int) -> tuple[str, int, str, str]:
        if not clip:
            return "", looks + 1, "", ""
        try:
            with errors_in_plain_words():
                first = endpoints.clips.first_frame(clip["path"])
        except gr.Error as error:
            return "", looks + 1, "", results.note(error.message)
        return first.path, looks + 1, "", results.note(first.note)

    def preview_clip(frame: str, faces: str, *values: Any) -> str:
        shown = ""
        if frame:
            choices = choices_of(*values)
            # What isn't possible was said when the clip came, or will be when it's protected.
            with contextlib.suppress(gr.Error), errors_in_plain_words():
                picture = endpoints.clips.preview(frame, choices, faces)
                shown = results.preview(picture, choices)
        return shown

    def protect_on_page(
        request: gr.Request, clip: File, own_target: File, faces: str, *values: Any
    ) -> Iterator[dict]:
        yield {
            area.status: "", area.verdict: "", area.result: gr.Video(value=None, visible=False),
            area.download: gr.DownloadButton(visible=False),
        }  # fmt: skip
        for update in endpoints.work_clip(clip, own_target, choices_of(*values), faces, request):
            if isinstance(update, Progress):
                yield {area.status: results.progress_bar(update)}
                continue
            job, report = update
            yield {
                area.status: "",
                area.verdict: results.clip_verdict(report),
                area.result: gr.Video(value=job.output, visible=True),
                area.download: gr.DownloadButton(value=job.output, visible=True),
            }

    area.clip.change(
        look_at_clip, [area.clip, area.looks], [area.frame, area.looks, area.preview, area.note],
        show_progress_on=area.note, preprocess=False, **AT_ONCE,
    )  # fmt: skip
    gr.on(
        [
            area.looks.change, area.emotion.input, area.expression_strength.input,
            area.faces.input,
        ],
        preview_clip, [area.frame, area.faces, *chosen, *form.given], area.preview,
        trigger_mode="always_last", preprocess=False, show_progress="hidden",
        concurrency_id="clip preview", concurrency_limit=MAX_PREVIEWS, api_visibility="private",
    )  # fmt: skip
    at_work = AtWork([area.protect], area.stop, area.status)
    work = at_work.begin(area.protect.click, [area.clip, form.own_target]).then(
        protect_on_page,
        [area.clip, form.own_target, area.faces, *chosen, *form.given],
        [area.status, area.verdict, area.result, area.download],
        show_progress_on=area.status, preprocess=False, concurrency_id="protect",
        api_visibility="private",
    )  # fmt: skip
    work.success(None, js=page.SHOW_RESULT, api_visibility="private")
    at_work.end([work])
