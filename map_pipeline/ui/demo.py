"""The page at work: what its buttons do, and which endpoints programs may call."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr

from map_pipeline.report import count_matches
from map_pipeline.ui import charts, face_outlines, page, results, texts
from map_pipeline.ui.endpoints import Endpoints, File
from map_pipeline.ui.examples import Example, load_examples
from map_pipeline.ui.limits import RateLimit
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import Files, Job, Progress, Protected, ProtectionService, read_upload
from map_pipeline.ui.settings import MAX_FACES, PageSettings
from map_pipeline.ui.style import TargetCard
from map_pipeline.ui.uploads import PrivateBlocks
from map_pipeline.ui.visit import Result, Visit

# Quick, and nothing for programs: never waits for a photo that is being protected.
AT_ONCE = {"api_visibility": "private", "concurrency_limit": None}

MAX_PREVIEWS = 2  # made at once, so that they leave something of the processor to protections

Run = Callable[[Job], Generator[Progress | Protected, None, None]]
"""Does a job on the GPU, or here."""


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
            visit = visit.add(Result(files, protected.reports, made.emotion, made.mode, made.seed))
            yield {
                **self._show(visit),
                self._parts.form.seed: made.seed,
                self._parts.form.expected: texts.expected(self._service.expected_seconds()),
                status: results.progress_bar(Progress(1, 1, "Checking what sharing leaves of it")),
            }
            with errors_in_plain_words():
                faces = self._service.check_robustness(job, protected)
            visit = visit.tested("".join(map(charts.robustness_chart, faces)))
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
            out.download_report: files.report,
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
        files = Files(str(one.photo), str(one.protected), str(one.report))
        shown = self._show(visit.show(Result(files, one.reports, one.emotion, one.mode, one.seed)))
        chosen = {form.emotion: one.emotion, form.mode: one.mode, form.seed: one.seed}
        # The visitor's other photo shows somebody else.
        return {**shown, **chosen, top.photo: files.before, self._parts.out.other: None}

    def show_again(self, visit: Visit, event: gr.SelectData) -> dict:
        """One of the visitor's own results."""
        result = next(iter(visit.results[event.index :]), None)
        with errors_in_plain_words():
            read_upload(result and result.files.after)  # told, if it was deleted meanwhile
        return self._show(visit.show(result))

    def find_in_other(self, visit: Visit, other: File) -> tuple[str, str]:
        """Verdict and reasons by another photo of the visitor, or by the same one without it."""
        result = visit.shown
        if not (result or other):
            return gr.skip(), gr.skip()
        if not other:
            told = results.verdict(result.reports, result.mode)
            return told, charts.similarity_chart(result.reports)
        with errors_in_plain_words():
            read_upload(result and result.files.after)
            boxes = [one.box for one in result.reports]
            before, after = self._service.find_again(result.files, boxes, other["path"])
        told = results.verdict_by_other(result.reports, before, after)
        return told, charts.comparison_chart(after)

    def outline_faces(
        self, photo: File, detector: str, rotate: bool, newest: dict, looks: int
    ) -> dict:
        """Outlines of the faces of an upload, and a choice among several."""
        top, form = self._parts.top, self._parts.form
        newest["photo"] = photo and photo["path"]
        clear = {
            top.preview: "",
            top.outlines: "",
            top.note: "",
            form.faces: gr.CheckboxGroup([], visible=False),
        }
        if not photo:
            return clear
        try:
            with errors_in_plain_words():
                sitting = self._service.look(photo["path"], detector, rotate)
        except gr.Error as error:
            gr.Warning(error.message)  # an error would leave the outlines of the photo before
            return clear
        found = sitting.found
        ticked = [one.number for one in found if one.clear][:MAX_FACES]
        several = len(found) > 1 or not ticked
        return {
            top.preview: "",
            top.looks: looks + 1,
            top.outlines: face_outlines.outlines(sitting.size, found),
            top.note: results.note(face_outlines.note(found)),
            form.faces: gr.CheckboxGroup(
                face_outlines.choices(found), value=ticked, visible=several
            ),
        }

    def show_preview(self, photo: File, newest: dict, *values: Any) -> str:
        """The upload with the chosen expression; nothing where that isn't possible.

        Why it isn't has been told when the photo came, or will be when it's to be protected.
        """
        if not photo:
            return ""
        choices, shown = self._parts.form.read(values), ""
        with contextlib.suppress(gr.Error), errors_in_plain_words():
            edited = self._service.preview(photo["path"], choices)
            emotion = "copied" if choices.expression_of else choices.emotion
            shown = results.preview(edited, emotion, choices.expression_strength)
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
    targets: Sequence[TargetCard],
) -> gr.Blocks:
    """Lay out the page and connect it; launching it is up to the caller.

    Args:
        settings: what distinguishes this deployment.
        service: the models; run: does a job with them.
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
        with gr.Tab("Check a photo"):
            check = page.check_tab()
        with gr.Tab("About"):
            page.explanations()

        limit = RateLimit(settings.rate_limit, settings.rate_seconds)
        endpoints = Endpoints(
            service, run, limit, targets, top.photo.GRADIO_CACHE, settings.max_upload_bytes
        )
        parts = SimpleNamespace(top=top, form=form, out=out)
        handlers = Handlers(service, endpoints, examples, parts)
        _connect_photo(demo, handlers, parts)
        _connect_protection(handlers, parts)
        _connect_results(handlers, parts, example)
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
        [top.photo.change, form.detector.change, form.rotate.change],
        handlers.outline_faces, [top.photo, form.detector, form.rotate, top.newest, top.looks],
        [top.preview, top.looks, top.outlines, top.note, form.faces],
        show_progress_on=top.note, preprocess=False, **AT_ONCE,
    )  # fmt: skip
    gr.on(
        [
            top.looks.change, form.emotion.input, form.expression_strength.input,
            form.faces.input, *(one.input for one in form.movements),
        ],
        handlers.show_preview, [top.photo, top.newest, *form.choices, *form.movements], top.preview,
        trigger_mode="always_last", preprocess=False, show_progress="hidden",
        concurrency_id="preview", concurrency_limit=MAX_PREVIEWS, api_visibility="private",
    )  # fmt: skip
    form.expression_of.change(
        handlers.check_copied, [top.looks, *form.choices, *form.movements], top.looks,
        show_progress="hidden", preprocess=False, **AT_ONCE,
    )  # fmt: skip
    form.reset.click(
        lambda looks: [*[0] * len(form.movements), looks + 1], top.looks,
        [*form.movements, top.looks], show_progress="hidden", **AT_ONCE,
    )  # fmt: skip
    hidden = [out.empty, out.area, out.results]
    top.photo.input(handlers.forget, out.visit, hidden, **AT_ONCE)


def _connect_results(handlers: Handlers, parts: SimpleNamespace, example: gr.Dataset) -> None:
    top, form, out = parts.top, parts.form, parts.out
    shown = [*vars(out).values(), form.seed, top.photo, form.emotion, form.mode]
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
    buttons = [form.protect, out.stronger, form.stop]

    def busy() -> tuple[gr.Button, gr.Button, gr.Button]:
        return gr.Button(interactive=False), gr.Button(interactive=False), gr.Button(visible=True)

    def stopping() -> tuple[gr.Button, str]:
        # Until the work has ended Gradio would drop another press of the first button.
        return gr.Button(visible=False), texts.STOPPING

    def idle() -> tuple[gr.Button, gr.Button, gr.Button, str]:
        ready = gr.Button(interactive=True)
        return ready, ready, gr.Button(visible=False), ""

    stronger = out.stronger.click(lambda: "strong", outputs=form.mode, queue=False, **AT_ONCE)
    jobs = [
        start(busy, outputs=buttons, queue=False, **AT_ONCE).then(
            handlers.protect_on_page,
            [out.visit, parts.top.photo, form.own_target, *form.choices, *form.movements],
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
        for ended in (job.success, job.failure):
            ended(idle, outputs=[*buttons, form.status], **AT_ONCE)
    form.stop.click(stopping, outputs=[form.stop, form.status], cancels=jobs, **AT_ONCE)


def _add_endpoints(
    endpoints: Endpoints, parts: SimpleNamespace, first: gr.Image, second: gr.Image
) -> None:
    """Endpoints for programs: plain values instead of the page's HTML."""
    top, form = parts.top, parts.form
    api, data = gr.Button(visible=False), gr.JSON(visible=False)
    file, text = gr.File(visible=False), gr.Textbox(visible=False)
    action_units = gr.JSON(visible=False)
    protect = [top.photo, form.own_target, *form.choices, action_units]
    preview = [
        top.photo, form.emotion, form.expression_strength, form.faces, form.detector, form.rotate,
        form.expression_of, action_units,
    ]  # fmt: skip
    for endpoint, given, returned, name in (
        (endpoints.protect, protect, [file, text, data, form.seed], "protect"),
        (endpoints.preview, preview, file, "preview"),
        (endpoints.detect, [top.photo, form.detector, form.rotate], data, "detect"),
        (endpoints.compare, [first, second, form.rotate], data, "compare"),
        (endpoints.targets, None, data, "targets"),
    ):
        api.click(endpoint, given, returned, preprocess=False, api_name=name, concurrency_id=name)
