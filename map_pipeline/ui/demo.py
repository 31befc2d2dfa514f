"""The page at work: what its buttons do, and which endpoints programs may call."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from map_pipeline.report import count_matches
from map_pipeline.ui import batch_page, charts, clip_page, page, results, texts
from map_pipeline.ui.batch import Run
from map_pipeline.ui.clip import RunClip
from map_pipeline.ui.endpoints import Endpoints, File
from map_pipeline.ui.examples import Example, load_examples
from map_pipeline.ui.picking import FaceHandlers
from map_pipeline.ui.private_blocks import PrivateBlocks
from map_pipeline.ui.rate_limit import RateLimit
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import Files, Progress, ProtectionService, read_upload
from map_pipeline.ui.settings import PageSettings
from map_pipeline.ui.style import TargetCard
from map_pipeline.ui.visit import Result, Visit
from map_pipeline.ui.working import AT_ONCE, AtWork
from map_pipeline.verdict import join_names

MAX_PREVIEWS = 2  # made at once, so that they leave something of the processor to protections


class Handlers:
    """What happens on the page, as updates of its components.

    Gradio names endpoints after functions, so none here has the name of one for programs.

    Args:
        service: the models.
        endpoints: the same for programs.
        examples: ready-made results.
        parts: the components: `top`, `form` and `out`.
    """

    def __init__(
        self,
        service: ProtectionService,
        endpoints: Endpoints,
        examples: Sequence[Example],
        parts: SimpleNamespace,
    ) -> None:
        self._service, self._endpoints, self._examples = service, endpoints, examples
        self._parts = parts

    def protect_on_page(
        self, request: gr.Request, visit: Visit, photo: File, own_target: File, *values: Any
    ) -> Iterator[dict]:
        """Protect the chosen faces: progress, the result, then what is left after resizing."""
        out, status = self._parts.out, self._parts.form.status
        choices = self._parts.form.read(values)
        for update in self._endpoints.work(photo, own_target, choices, request):
            if isinstance(update, Progress):
                yield {status: results.progress_bar(update)}
                continue
            job, protected, files = update
            made = job.choices
            emotions = join_names(list(dict.fromkeys(job.emotions)))
            visit = visit.add(Result(files, protected.reports, emotions, made.mode, made.seed))
            yield {
                **self._show(visit),
                self._parts.form.seed: made.seed,
                self._parts.form.expected: texts.expected(self._service.expected_seconds()),
                status: results.progress_bar(Progress(1, 1, "Checking what is left after sharing")),
            }
            with errors_in_plain_words():
                faces = self._service.check_robustness(job, protected)
            visit = visit.tested(charts.robustness_chart(protected.reports, faces))
            yield {out.visit: visit, out.robustness: visit.shown.robustness, status: ""}

    def _show(self, visit: Visit) -> dict:
        out, result = self._parts.out, visit.shown
        files, reports = result.files, result.reports
        found, _ = count_matches(reports)
        return {
            out.visit: visit,
            out.results: self._results(visit, least=2),
            out.empty: gr.HTML(visible=False),
            out.area: gr.Column(visible=True),
            out.verdict: results.verdict(reports, result.mode),
            out.stronger: gr.Button(visible=found > 0 and result.mode == "fast"),
            out.slider: (files.before, files.after),
            out.download: page.download_button(files.after),
            out.download_report: gr.DownloadButton(value=files.report),
            out.recognisers: charts.similarity_chart(reports),
            out.expressions: charts.emotion_chart(reports),
            out.robustness: result.robustness or texts.NOT_TESTED,
            out.numbers: results.tables(reports) + results.details(reports, result.seed),
        }

    def _results(self, visit: Visit, least: int) -> gr.Gallery:
        """The visitor's results to choose from, where there are enough of them."""
        pictures = [(one.files.after, one.caption) for one in visit.results]
        shown = visit.results.index(visit.shown) if visit.shown in visit.results else None
        return gr.Gallery(pictures, selected_index=shown, visible=len(pictures) >= least)

    def show_example(self, index: int, visit: Visit) -> dict:
        """A ready-made result."""
        one, top, form = self._examples[index], self._parts.top, self._parts.form
        # Gradio keeps the age of a file that it copies, and old ones are soon deleted.
        report = Path(tempfile.mkdtemp(dir=self._endpoints.folder)) / one.report.name
        shutil.copyfile(one.report, report)
        files = Files(str(one.photo), str(one.protected), str(report))
        shown = self._show(visit.show(Result(files, one.reports, one.emotion, one.mode, one.seed)))
        chosen = {form.emotion: one.emotion, form.mode: one.mode, form.seed: one.seed}
        chosen |= {form.whose: 0, form.own: {}}
        # The visitor's other photo shows somebody else.
        return {**shown, **chosen, top.photo: files.before, self._parts.out.other: None}

    def show_again(self, visit: Visit, event: gr.SelectData) -> dict:
        """One of the visitor's own results."""
        result = next(iter(visit.results[event.index :]), None)
        with errors_in_plain_words():
            read_upload(result and result.files.after)  # raises if it was deleted meanwhile
        return self._show(visit.show(result))

    def find_in_other(self, visit: Visit, other: File) -> tuple[str, str]:
        """Verdict and reasons by another photo of the visitor, or by the same one without it."""
        result = visit.shown
        if not (result or other):
            return gr.skip(), gr.skip()
        if not other:
            verdict = results.verdict(result.reports, result.mode)
            return verdict, charts.similarity_chart(result.reports)
        with errors_in_plain_words():
            read_upload(result and result.files.after)
            boxes = [one.box for one in result.reports]
            before, after = self._service.find_again(result.files, boxes, other["path"])
        verdict = results.verdict_by_other(result.reports, before, after)
        return verdict, charts.comparison_chart(after)

    def show_preview(self, photo: File, newest: dict, *values: Any) -> str:
        """The upload with the chosen expression; nothing where that isn't possible.

        Why it isn't has been said when the photo came, or will be when it's to be protected.
        """
        if not photo:
            return ""
        choices, shown = self._parts.form.read(values), ""
        with contextlib.suppress(gr.Error), errors_in_plain_words():
            edited = self._service.preview(photo["path"], choices)
            shown = results.preview(edited, choices)
        # Another photo may have come meanwhile.
        return shown if newest.get("photo") == photo["path"] else gr.skip()

    def check_copied(self, looks: int, *values: Any) -> int:
        """Say what's wrong with a photo whose expression is to be copied, and preview what isn't.

        Returns:
            How often a preview was asked for, with this one.
        """
        try:
            with errors_in_plain_words():
                self._service.copied(self._parts.form.read(values))
        except gr.Error as error:
            gr.Warning(error.message)  # the chosen emotion isn't shown in its place
        return looks + 1

    def compare_on_page(self, first: File, second: File) -> str:
        """Which faces of two photos were compared, and what every recogniser says about them."""
        found = self._endpoints.compared(first, second)
        [pair] = found.pairs
        return results.compared_faces(found) + charts.comparison_chart(pair.recognisers)

    def ready(self) -> dict:
        """What depends on the models, once they are loaded."""
        with errors_in_plain_words():
            models = self._service.models
        form = self._parts.form
        return {
            form.expected: texts.expected(self._service.expected_seconds()),
            form.detector: gr.Dropdown(list(models.protecting)),
        }

    def forget(self, visit: Visit) -> dict:
        """Hide the result of the photo before."""
        out = self._parts.out
        return {
            out.empty: gr.HTML(visible=True),
            out.area: gr.Column(visible=False),
            out.results: self._results(visit, least=1),
        }


def build_page(
    settings: PageSettings,
    service: ProtectionService,
    run: Run,
    run_clip: RunClip,
    targets: Sequence[TargetCard],
) -> gr.Blocks:
    """Lay out the page and connect it; launching it is up to the caller.

    Args:
        settings: what distinguishes this deployment.
        service: the models; run: does jobs with them; run_clip: the same with a clip.
        targets: the built-in targets of the gallery.
    """
    examples = load_examples(settings.examples)
    with PrivateBlocks(
        title=texts.TITLE,
        analytics_enabled=False,
        delete_cache=(settings.keep_seconds, settings.keep_seconds),
    ) as demo:
        gr.Markdown(texts.INTRO, elem_id="intro")
        with gr.Tab("Protect"), gr.Row():
            with gr.Column(scale=5):
                top = page.photo_area()
                form = page.form(targets)
            with gr.Column(scale=6, elem_id="result"):
                out = page.result_area(settings.keep_seconds)
                example = page.examples_row(examples)
        with gr.Tab("Many photos"):
            several = batch_page.batch_tab(settings.batch_photos)
        with gr.Tab("A clip"):
            moving = clip_page.clip_tab(settings)
        with gr.Tab("Check a photo"):
            check = page.check_tab()
        with gr.Tab("About"):
            page.explanations()

        limit = RateLimit(settings.rate_limit, settings.rate_seconds)
        cache = top.photo.GRADIO_CACHE
        endpoints = Endpoints(service, run, run_clip, limit, targets, cache, settings)
        parts = SimpleNamespace(top=top, form=form, out=out)
        handlers = Handlers(service, endpoints, examples, parts)
        _connect_photo(demo, handlers, parts)
        _connect_faces(FaceHandlers(service, parts), parts)
        _connect_protection(handlers, parts)
        _connect_results(handlers, parts, example)
        batch_page.connect(several, form, endpoints)
        clip_page.connect(moving, form, endpoints)
        first, second, compare_button, answer = check
        compare_button.click(
            handlers.compare_on_page, [first, second], answer, preprocess=False, **AT_ONCE
        )  # fmt: skip
        _add_endpoints(endpoints, parts, first, second)
    return demo


def _connect_photo(demo: gr.Blocks, handlers: Handlers, parts: SimpleNamespace) -> None:
    top, form, out = parts.top, parts.form, parts.out
    demo.load(None, js=page.SEPARATE_BUTTONS, api_visibility="private")
    demo.load(
        handlers.ready, outputs=[form.expected, form.detector], show_progress="hidden", **AT_ONCE
    )
    gr.on(
        [
            top.looks.change, form.emotion.input, form.expression_strength.input,
            form.faces.input, *(one.input for one in form.movements),
        ],
        handlers.show_preview, [top.photo, top.newest, *form.given], top.preview,
        trigger_mode="always_last", preprocess=False, show_progress="hidden",
        concurrency_id="preview", concurrency_limit=MAX_PREVIEWS, api_visibility="private",
    )  # fmt: skip
    form.expression_of.change(
        handlers.check_copied, [top.looks, *form.given], top.looks,
        show_progress="hidden", preprocess=False, **AT_ONCE,
    )  # fmt: skip
    form.reset.click(
        lambda looks: [*[0] * len(form.movements), looks + 1], top.looks,
        [*form.movements, top.looks], show_progress="hidden", **AT_ONCE,
    )  # fmt: skip
    hidden = [out.empty, out.area, out.results]
    top.photo.input(handlers.forget, out.visit, hidden, **AT_ONCE)


def _connect_faces(faces: FaceHandlers, parts: SimpleNamespace) -> None:
    top, form = parts.top, parts.form
    gr.on(
        [top.photo.change, form.detector.change, form.rotate.change],
        faces.outline_faces, [top.photo, top.newest, top.looks, form.whose, *form.given],
        [
            top.preview, top.looks, top.outlines, top.note, form.people, form.faces, form.whose,
            form.own, form.emotion,
        ],
        show_progress_on=top.note, preprocess=False, **AT_ONCE,
    )  # fmt: skip
    chosen = [form.emotion, form.whose, form.own]
    kept = form.emotion.input(
        None, chosen, form.own, js=page.KEEP_EXPRESSION, api_visibility="private"
    )
    turned = form.whose.input(
        None, chosen, [form.own, form.emotion], js=page.TURN_TO_FACE, api_visibility="private"
    )
    for changed in (kept.then, turned.then, form.faces.input):
        changed(
            faces.draw_choices, [top.photo, form.whose, *form.given], [top.outlines, form.whose],
            trigger_mode="always_last", preprocess=False, show_progress="hidden", **AT_ONCE,
        )  # fmt: skip


def _connect_results(handlers: Handlers, parts: SimpleNamespace, example: gr.Dataset) -> None:
    top, form, out = parts.top, parts.form, parts.out
    chosen = [form.seed, top.photo, form.emotion, form.mode, form.whose, form.own]
    shown = [*vars(out).values(), *chosen]
    example.click(
        handlers.show_example, [example, out.visit], shown, show_progress="hidden", **AT_ONCE
    ).success(None, js=page.SHOW_RESULT, api_visibility="private")
    again = out.results.select(
        handlers.show_again, out.visit, list(vars(out).values()), show_progress="hidden", **AT_ONCE
    )
    again.success(None, js=page.SHOW_RESULT, api_visibility="private")
    for event in (out.other.change, again.success):
        event(
            handlers.find_in_other, [out.visit, out.other], [out.verdict, out.recognisers],
            show_progress_on=out.other, preprocess=False, **AT_ONCE,
        )  # fmt: skip


def _connect_protection(handlers: Handlers, parts: SimpleNamespace) -> None:
    form, out = parts.form, parts.out
    at_work = AtWork([form.protect, out.stronger], form.stop, form.status)

    stronger = out.stronger.click(lambda: "strong", outputs=form.mode, queue=False, **AT_ONCE)
    jobs = [
        at_work.begin(start, [parts.top.photo, form.own_target]).then(
            handlers.protect_on_page,
            [out.visit, parts.top.photo, form.own_target, *form.given],
            [form.status, *vars(out).values(), form.seed, form.expected],
            show_progress_on=form.status,
            preprocess=False,
            concurrency_id="protect",
            api_visibility="private",
        )
        for start in (form.protect.click, stronger.then)
    ]
    for job in jobs:
        job.success(None, js=page.SHOW_RESULT, api_visibility="private")
        job.success(
            handlers.find_in_other, [out.visit, out.other], [out.verdict, out.recognisers],
            show_progress="hidden", preprocess=False, **AT_ONCE,
        )  # fmt: skip
    at_work.end(jobs)


# Several files. Gradio would refer MCP clients to a definition that it leaves out; and where it
# knows files, it lets them send text, which it then turns into a file only outside of lists.
UPLOADS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "as the page's /upload answers it"},
            "meta": {"const": {"_type": "gradio.FileData"}},
        },
        "required": ["path", "meta"],
    },
}


def _with_schema(one: gr.Component, schema: dict[str, Any]) -> gr.Component:
    """Let programs and MCP clients know what a component takes; Gradio's own type fits no schema.

    (A class of its own would make Gradio write a stub file beside this one.)
    """
    one.api_info = lambda: schema
    return one


def _json_of(schema: dict[str, Any], value: Any = None) -> gr.JSON:
    return _with_schema(gr.JSON(value, visible=False), schema)


def _add_endpoints(
    endpoints: Endpoints, parts: SimpleNamespace, first: gr.Image, second: gr.Image
) -> None:
    """Endpoints for programs: plain values instead of the page's HTML."""
    top, form = parts.top, parts.form
    api, data = gr.Button(visible=False), gr.JSON(visible=False)
    file, text = gr.File(visible=False), gr.Textbox(visible=False)
    action_units, emotions = (_json_of({"type": "object"}) for _ in range(2))
    faces = _json_of({"type": "array", "items": {"type": "integer"}}, [])
    photos = _with_schema(gr.File(file_count="multiple", visible=False), UPLOADS)
    clip, people = gr.File(visible=False), gr.Textbox("largest", visible=False)
    common = [one for one in form.choices if one is not form.faces]
    chosen = [faces if one is form.faces else one for one in form.choices]
    protect = [top.photo, form.own_target, *chosen, action_units, emotions]
    batch = [photos, form.own_target, *common, action_units]
    names = ("emotion", "expression_strength", "target", "consent")
    rest = ("mode", "margin", "steps", "detector", "seed", "random_seed", "expression_of")
    moving = [
        clip, form.own_target, *(getattr(form, name) for name in names), people,
        *(getattr(form, name) for name in rest), action_units,
    ]  # fmt: skip
    preview = [
        top.photo, form.emotion, form.expression_strength, faces, form.detector, form.rotate,
        form.expression_of, action_units, emotions,
    ]  # fmt: skip
    for endpoint, given, returned, name in (
        (endpoints.protect, protect, [file, text, data, form.seed], "protect"),
        (endpoints.protect_batch, batch, [file, text, data, form.seed], "protect_batch"),
        (endpoints.protect_clip, moving, [file, text, data, form.seed], "protect_clip"),
        (endpoints.preview, preview, file, "preview"),
        (endpoints.detect, [top.photo, form.detector, form.rotate], data, "detect"),
        (endpoints.compare, [first, second, form.rotate], data, "compare"),
        (endpoints.targets, None, data, "targets"),
    ):
        # A batch or a clip waits with those who want a single photo.
        line = "protect" if name.startswith("protect") else name
        api.click(endpoint, given, returned, preprocess=False, api_name=name, concurrency_id=line)
