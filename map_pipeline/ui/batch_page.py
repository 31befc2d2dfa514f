"""Several photos on the page: their components, what is shown of their progress, and the ZIP."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from map_pipeline.config import MODES
from map_pipeline.ui import page, results, texts
from map_pipeline.ui.batch import Outcome
from map_pipeline.ui.endpoints import Endpoints
from map_pipeline.ui.service import Progress
from map_pipeline.ui.working import AtWork
from map_pipeline.verdict import LEVELS


@dataclass(frozen=True)
class BatchArea:
    """The photos and what is asked for all of them, then what came of each."""

    photos: gr.Gallery
    emotion: gr.Radio
    expression_strength: gr.Slider
    mode: gr.Radio
    protect: gr.Button
    stop: gr.Button
    status: gr.HTML
    outcomes: gr.HTML
    results: gr.Gallery
    download: gr.DownloadButton


def batch_tab(most: int) -> BatchArea:
    """Photos and expression on the left, what came of them on the right.

    Args:
        most: how many photos can be protected at once.
    """
    with gr.Row():
        with gr.Column(scale=5):
            photos = gr.Gallery(
                label=f"Your photos: {most} at most", file_types=["image"], sources=["upload"],
                interactive=True, columns=4, height=220, object_fit="contain", format="png",
                allow_preview=False, buttons=[], elem_id="batch-photos",
            )  # fmt: skip
            emotion = gr.Radio(
                page.EMOTION_CHOICES, value=page.DEFAULT.emotion, label="New expression",
                elem_id="batch-emotion", elem_classes=["map-tiles", "map-emotions"],
            )  # fmt: skip
            with gr.Row():
                strength = gr.Slider(
                    0, 1, page.DEFAULT.expression_strength, step=0.05, label="How strong",
                    buttons=[], scale=3, min_width=200,
                )  # fmt: skip
                protect = gr.Button(
                    "Protect all", variant="primary", size="lg", scale=2, min_width=120
                )
                stop = gr.Button("Stop", variant="stop", size="lg", visible=False, min_width=80)
            mode = gr.Radio(
                [(mode.capitalize(), mode) for mode in MODES], value=page.DEFAULT.mode,
                label="How thorough", info=texts.MODE_INFO,
            )  # fmt: skip
            gr.Markdown(texts.BATCH_INTRO, elem_classes="map-note")
        with gr.Column(scale=6, elem_id="batch-result"):
            status = gr.HTML(elem_id="batch-status", padding=False)
            outcomes = gr.HTML(
                f'<div class="map-empty"><p>{texts.BATCH_HINT}</p></div>',
                elem_id="batch-outcomes", padding=False,
            )  # fmt: skip
            download = gr.DownloadButton(
                "Download all (ZIP)", variant="primary", visible=False, elem_id="batch-download"
            )
            gallery = gr.Gallery(
                label="Protected photos", columns=3, height="auto", object_fit="contain",
                interactive=False, visible=False, buttons=["download", "fullscreen"],
                elem_id="batch-results",
            )  # fmt: skip
    return BatchArea(
        photos, emotion, strength, mode, protect, stop, status, outcomes, gallery, download
    )  # fmt: skip


def outcome_list(total: int, outcomes: Sequence[Outcome]) -> str:
    """A line for each of `total` photos, as HTML."""
    known = {one.number: one for one in outcomes}
    lines = "".join(_line(number, known.get(number)) for number in range(1, total + 1))
    return f'<ol class="map-batch" aria-label="Photos">{lines}</ol>'


def _line(number: int, outcome: Outcome | None) -> str:
    if outcome is None:
        return f"<li><b>Photo {number}</b> waiting</li>"
    level = results.verdict_level(outcome.reports) if outcome.files else "not"
    start = "" if outcome.files else "Left as it is: "
    return (
        f'<li class="map-verdict-{level}"><b>Photo {number}</b> {start}{escape(outcome.text)}</li>'
    )


def connect(area: BatchArea, form: page.Form, endpoints: Endpoints) -> None:
    """Have the button protect the photos, in one place of the queue."""

    def protect_all(
        request: gr.Request,
        photos: list[dict[str, Any]] | None,
        own_target: dict[str, Any] | None,
        emotion: str,
        strength: float,
        mode: str,
        *values: Any,
    ) -> Iterator[dict]:
        uploads = [one["image"] for one in photos or () if one.get("image")]
        choices = replace(
            form.read(values), emotion=emotion, expression_strength=strength, mode=mode, faces=(),
            emotions=None,
        )  # fmt: skip
        outcomes: list[Outcome] = []
        hidden = gr.Gallery(visible=False), gr.DownloadButton(visible=False)
        yield {
            area.outcomes: outcome_list(len(uploads), outcomes),
            area.results: hidden[0],
            area.download: hidden[1],
        }
        for update in endpoints.work_batch(uploads, own_target, choices, request):
            if isinstance(update, Progress):
                yield {area.status: results.progress_bar(update)}
                continue
            outcomes = sorted([*outcomes, update], key=lambda one: one.number)
            yield {
                area.outcomes: outcome_list(len(uploads), outcomes),
                area.results: _gallery(outcomes),
            }
        path = endpoints.archive(outcomes)
        yield {area.download: gr.DownloadButton(value=path, visible=path is not None)}

    at_work = AtWork([area.protect], area.stop, area.status)
    work = at_work.begin(area.protect.click, [area.photos, form.own_target]).then(
        protect_all,
        [
            area.photos, form.own_target, area.emotion, area.expression_strength, area.mode,
            *form.given,
        ],
        [area.status, area.outcomes, area.results, area.download],
        show_progress_on=area.status, preprocess=False, concurrency_id="protect",
        api_visibility="private",
    )  # fmt: skip
    work.success(None, js=page.SHOW_RESULT, api_visibility="private")
    at_work.end([work])


def _gallery(outcomes: Sequence[Outcome]) -> gr.Gallery:
    done = [one for one in outcomes if one.files]
    pictures = [
        (one.files.after, f"Photo {one.number}: {LEVELS[results.verdict_level(one.reports)]}")
        for one in done
    ]
    return gr.Gallery(pictures, visible=bool(done))
