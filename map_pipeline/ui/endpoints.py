"""The page's endpoints for programs, and the steps they share with the page itself.

Uploads come as files: the package's own reader knows alpha, 16 bits, colour profiles and size
limits, and says in plain words what's wrong with one.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from map_pipeline.report import with_notes
from map_pipeline.ui import results, texts
from map_pipeline.ui.batch import Batch, Outcome, Run
from map_pipeline.ui.cache import keep
from map_pipeline.ui.clip import ClipJob, Clips, RunClip
from map_pipeline.ui.rate_limit import RateLimit
from map_pipeline.ui.requests import errors_in_plain_words, visitor
from map_pipeline.ui.result_files import write_files
from map_pipeline.ui.service import (
    Files,
    Job,
    Progress,
    Protected,
    ProtectionService,
    read_upload,
)
from map_pipeline.ui.settings import Choices, PageSettings
from map_pipeline.ui.style import TargetCard

if TYPE_CHECKING:
    from map_pipeline.compare import PhotoComparison
    from map_pipeline.video.report import VideoReport

DEFAULT = Choices()
File = dict[str, Any] | None  # an upload as Gradio sends it, with its "path"
Method = TypeVar("Method", bound=Callable)


def one_line_each(method: Method) -> Method:
    """Put what a docstring says of an argument, or of the answer, on one line each.

    Gradio passes on to MCP clients one line of an argument, and the answer as a list of lines.
    """
    arguments, returns, answer = inspect.cleandoc(method.__doc__ or "").partition("Returns:\n    ")
    arguments, answer = arguments.replace("\n        ", " "), answer.replace("\n    ", " ")
    method.__doc__ = arguments + returns + answer
    return method


class Endpoints:
    """What programs can call; nothing of a request is kept.

    Args:
        service: the models.
        run: does jobs where the GPU is; run_clip: the same with a clip.
        limit: how often a visitor may have a photo protected.
        targets: the built-in targets.
        folder: where results are written; Gradio has to know it, or it doesn't hand them out.
        settings: with the limits of the page.
    """

    def __init__(
        self,
        service: ProtectionService,
        run: Run,
        run_clip: RunClip,
        limit: RateLimit,
        targets: Sequence[TargetCard],
        folder: str,
        settings: PageSettings,
    ) -> None:
        self._service, self._run, self._limit = service, run, limit
        self._targets, self.folder = targets, folder
        self._max_bytes = settings.max_upload_bytes
        self._batch = Batch(service, run, settings, folder)
        self.clips = Clips(service, run_clip, settings, folder)

    def work(
        self, photo: File, own_target: File, choices: Choices, request: gr.Request
    ) -> Iterator[Progress | tuple[Job, Protected, Files]]:
        """From the upload to the result, for the page and the API alike."""
        # Gradio keeps errors and the frames they went through: this one holds no picture.
        with errors_in_plain_words():
            if not photo:
                raise gr.Error(texts.CHOOSE_PHOTO, print_exception=False)
            self._limit.count(visitor(request))
            yield Progress(
                0, 1, "Loading the networks" if self._service.loading else "Looking for faces"
            )
            yield from self._work(photo["path"], own_target and own_target["path"], choices)

    def _work(
        self, path: str, target: str | None, choices: Choices
    ) -> Iterator[Progress | tuple[Job, Protected, Files]]:
        own, notes = None, []
        if target:
            read = read_upload(target).photo
            own, notes = read.pixels, [f"target picture: {note}" for note in read.notes]
        upload = read_upload(path)
        job = self._service.prepare(upload.photo.picture, own, choices.with_seed())
        self._batch.check_time([job])
        keep([path])
        for update in self._service.timed([job], self._run([job])):
            keep([path])  # it's shown beside the result, as long as that is there
            if isinstance(update, Progress):
                yield update
            else:
                reports = with_notes(update.reports, [*upload.photo.notes, *notes])
                files, protected = write_files(
                    upload,
                    Protected(update.photo, reports),
                    self.folder,
                    choices.file_type,
                    self._max_bytes,
                )
                yield job, protected, files

    @one_line_each
    def protect(
        self,
        photo: File,
        own_target: File = None,
        emotion: str = DEFAULT.emotion,
        expression_strength: float = DEFAULT.expression_strength,
        target: str = DEFAULT.target,
        consent: bool = DEFAULT.consent,
        faces: Sequence[int] = DEFAULT.faces,
        mode: str = DEFAULT.mode,
        margin: str = DEFAULT.margin,
        steps: int = DEFAULT.steps,
        detector: str = DEFAULT.detector,
        seed: int = DEFAULT.seed,
        random_seed: bool = DEFAULT.random_seed,
        file_type: str = DEFAULT.file_type,
        rotate: bool = DEFAULT.rotate,
        expression_of: File = DEFAULT.expression_of,
        action_units: dict[str, float] | None = DEFAULT.action_units,
        emotions: dict[str, str] | None = DEFAULT.emotions,
        request: gr.Request = None,
    ) -> Iterator[tuple]:
        """Protect the faces of a photo from face recognition by changing their expression.

        Args:
            photo: the photo; at most 100 MB and 120 megapixels.
            own_target: a picture with a face that recognisers should see, instead of `target`.
            emotion: angry, disgust, fear, happy, neutral, sad, surprise, contempt or closed_smile.
            expression_strength: how far the expression is changed, in [0, 1].
            target: whom recognisers should see: "auto", a name from `/targets`, or "none" to hide
                only.
            consent: true if the person in `own_target` has agreed; needed with `own_target`.
            faces: at most 8 numbers of faces as `/detect` lists them; empty: the clear ones.
            mode: "fast" or "strong".
            margin: how sure the protection shall be: "normal" or "high".
            steps: fine-tuning steps per face; 0 is the number of the mode.
            detector: what finds the faces; "auto" is the best one at hand.
            seed: the same seed gives the same result.
            random_seed: true takes a new seed instead.
            file_type: "png", "jpeg", or "auto": JPEG for a photo that came as JPEG, WebP, AVIF
                or HEIC, else PNG. A transparent photo is flattened only in "jpeg".
            rotate: true also finds faces that lie on their side or are upside down beside upright
                ones.
            expression_of: another photo, whose largest face's expression is copied in place of
                `emotion`, as far as `expression_strength` says; best of the same person.
            action_units: single movements besides the emotion, each in [-1, 1], such as
                {"smile": 0.5}: smile, mouth_open, brows_up, inner_brows, eyes_wide, squint,
                nose_wrinkle, lip_corners_down, pucker, lips_pressed, smirk,
                wink_left, wink_right.
            emotions: emotions of single faces in place of `emotion`, by their number, such as
                {"2": "sad"}.

        Returns:
            The protected photo as a file, the verdict, a report per face, and the seed used.
        """
        choices = Choices(
            emotion, expression_strength, target, consent, faces, mode, margin, steps, detector,
            seed, random_seed, file_type, rotate, expression_of, action_units, emotions,
        )  # fmt: skip
        for update in self.work(photo, own_target, choices, request):
            if isinstance(update, Progress):
                yield gr.skip(), update.text, gr.skip(), gr.skip()
            else:
                job, protected, files = update
                text = results.plain_verdict(protected.reports)
                reports = [report.to_dict() for report in protected.reports]
                yield files.after, text, reports, job.choices.seed

    def work_batch(
        self,
        photos: Sequence[File] | None,
        own_target: File,
        choices: Choices,
        request: gr.Request,
    ) -> Iterator[Progress | Outcome]:
        """From several uploads to their outcomes, for the page and the API alike."""
        with errors_in_plain_words():
            paths = [one["path"] for one in photos or () if one]
            if not paths:
                raise gr.Error(texts.CHOOSE_PHOTOS, print_exception=False)
            self._batch.check_count(paths)
            self._limit.count(visitor(request), len(paths))
            if self._service.loading:
                yield Progress(0, 1, "Loading the networks")
            target = own_target and own_target["path"]
            yield from self._batch.work(paths, target, choices.with_seed())

    def archive(self, outcomes: Sequence[Outcome]) -> str | None:
        """The path of a ZIP file with all results; None if there are none."""
        return self._batch.archive(outcomes)

    @one_line_each
    def protect_batch(
        self,
        photos: Sequence[File],
        own_target: File = None,
        emotion: str = DEFAULT.emotion,
        expression_strength: float = DEFAULT.expression_strength,
        target: str = DEFAULT.target,
        consent: bool = DEFAULT.consent,
        mode: str = DEFAULT.mode,
        margin: str = DEFAULT.margin,
        steps: int = DEFAULT.steps,
        detector: str = DEFAULT.detector,
        seed: int = DEFAULT.seed,
        random_seed: bool = DEFAULT.random_seed,
        file_type: str = DEFAULT.file_type,
        rotate: bool = DEFAULT.rotate,
        expression_of: File = DEFAULT.expression_of,
        action_units: dict[str, float] | None = DEFAULT.action_units,
        request: gr.Request = None,
    ) -> Iterator[tuple]:
        """Protect the clear faces of several photos, one after another in one place of the queue.

        A photo that can't be protected is listed with its reason, and the others go on.

        Args:
            photos: the photos; 10 at most, or as many as this page allows.
            own_target: see `/protect`.
            emotion: see `/protect`.
            expression_strength: see `/protect`.
            target: see `/protect`.
            consent: see `/protect`.
            mode: see `/protect`.
            margin: see `/protect`.
            steps: see `/protect`.
            detector: see `/protect`.
            seed: the same for every photo; see `/protect`.
            random_seed: see `/protect`.
            file_type: see `/protect`.
            rotate: see `/protect`.
            expression_of: see `/protect`.
            action_units: see `/protect`.

        Returns:
            A ZIP file with the protected photos and `report.json`, or nothing if there are none; a
            line of text per photo; per photo its number from 1, whether it's protected, its name in
            the ZIP file, the verdict or the reason, and a report per face; and the seed used.
        """
        choices = Choices(
            emotion, expression_strength, target, consent, (), mode, margin, steps, detector,
            seed, random_seed, file_type, rotate, expression_of, action_units,
        )  # fmt: skip
        with errors_in_plain_words():
            choices = choices.with_seed()
        outcomes: list[Outcome] = []
        for update in self.work_batch(photos, own_target, choices, request):
            if isinstance(update, Outcome):
                outcomes.append(update)
            else:
                yield gr.skip(), update.text, gr.skip(), gr.skip()
        outcomes.sort(key=lambda one: one.number)
        text = "\n".join(f"Photo {one.number}: {one.text}" for one in outcomes)
        with errors_in_plain_words():
            file = self.archive(outcomes)
        yield file, text, [one.to_dict() for one in outcomes], choices.seed

    def work_clip(
        self, clip: File, own_target: File, choices: Choices, faces: str, request: gr.Request
    ) -> "Iterator[Progress | tuple[ClipJob, VideoReport]]":
        """From the upload of a clip to the result, for the page and the API alike."""
        with errors_in_plain_words():
            if not clip:
                raise gr.Error(texts.CHOOSE_CLIP, print_exception=False)
            self.clips.open(clip["path"])  # what is too long isn't counted
            self._limit.count(visitor(request))
            if self._service.loading:
                yield Progress(0, 1, "Loading the networks")
            target = own_target and own_target["path"]
            yield from self.clips.work(clip["path"], target, choices.with_seed(), faces)

    @one_line_each
    def protect_clip(
        self,
        clip: File,
        own_target: File = None,
        emotion: str = DEFAULT.emotion,
        expression_strength: float = DEFAULT.expression_strength,
        target: str = DEFAULT.target,
        consent: bool = DEFAULT.consent,
        faces: str = "largest",
        mode: str = DEFAULT.mode,
        margin: str = DEFAULT.margin,
        steps: int = DEFAULT.steps,
        detector: str = DEFAULT.detector,
        seed: int = DEFAULT.seed,
        random_seed: bool = DEFAULT.random_seed,
        expression_of: File = DEFAULT.expression_of,
        action_units: dict[str, float] | None = DEFAULT.action_units,
        request: gr.Request = None,
    ) -> Iterator[tuple]:
        """Protect the people in a short clip: each keeps one expression for all of it.

        Args:
            clip: MP4, MOV, Matroska, WebM or AVI; 10 s and 1280 x 720 px at most, or as much as
                this page allows.
            own_target: see `/protect`.
            emotion: see `/protect`; lips part no more than the speaker's own do.
            expression_strength: see `/protect`.
            target: see `/protect`.
            consent: see `/protect`.
            faces: "largest" is the person who is seen most and nearest, "all" is everyone.
            mode: see `/protect`.
            margin: see `/protect`.
            steps: see `/protect`.
            detector: see `/protect`.
            seed: see `/protect`.
            random_seed: see `/protect`.
            expression_of: see `/protect`.
            action_units: see `/protect`.

        Returns:
            The protected clip as an MP4 file with its sound, the verdict, a report with an entry
            per person, and the seed used.
        """
        choices = Choices(
            emotion, expression_strength, target, consent, (), mode, margin, steps, detector,
            seed, random_seed, expression_of=expression_of, action_units=action_units,
        )  # fmt: skip
        for update in self.work_clip(clip, own_target, choices, faces, request):
            if isinstance(update, Progress):
                yield gr.skip(), update.text, gr.skip(), gr.skip()
            else:
                job, report = update
                text = results.plain_clip_verdict(report)
                yield job.output, text, report.to_dict(), job.choices.seed

    @one_line_each
    def preview(
        self,
        photo: File,
        emotion: str = DEFAULT.emotion,
        expression_strength: float = DEFAULT.expression_strength,
        faces: Sequence[int] = DEFAULT.faces,
        detector: str = DEFAULT.detector,
        rotate: bool = DEFAULT.rotate,
        expression_of: File = DEFAULT.expression_of,
        action_units: dict[str, float] | None = DEFAULT.action_units,
        emotions: dict[str, str] | None = DEFAULT.emotions,
    ) -> str:
        """Show how a photo looks with another expression, at screen size and without protection.

        Args:
            photo: the photo; at most 100 MB and 120 megapixels.
            emotion: angry, disgust, fear, happy, neutral, sad, surprise, contempt or closed_smile.
            expression_strength: how far the expression is changed, in [0, 1].
            faces: at most 8 numbers of faces as `/detect` lists them; empty: the clear ones.
            detector: what finds the faces; "auto" is the best one at hand.
            rotate: see `/protect`.
            expression_of: see `/protect`.
            action_units: see `/protect`.
            emotions: see `/protect`.

        Returns:
            A JPEG, its longer side at most 1024 px.
        """
        choices = Choices(
            emotion, expression_strength, faces=faces, detector=detector, rotate=rotate,
            expression_of=expression_of, action_units=action_units, emotions=emotions,
        )  # fmt: skip
        with errors_in_plain_words():
            if not photo:
                raise gr.Error(texts.CHOOSE_PHOTO, print_exception=False)
            path = Path(tempfile.mkdtemp(dir=self.folder)) / "preview.jpg"
            self._service.preview(photo["path"], choices).save(path, quality=95)
            return str(path)

    def detect(
        self, photo: File, detector: str = DEFAULT.detector, rotate: bool = DEFAULT.rotate
    ) -> list[dict]:
        """List the faces of a photo, largest first, with their boxes and what's wrong with them.

        Args:
            photo: the photo; at most 100 MB and 120 megapixels.
            detector: what finds the faces; "auto" is the best one at hand.
            rotate: see `/protect`.
        """
        with errors_in_plain_words():
            if not photo:
                raise gr.Error(texts.CHOOSE_PHOTO, print_exception=False)
            path = photo["path"]
            found = self._service.find_faces(read_upload(path).photo.pixels, detector, rotate)
            return [{**asdict(one), "clear": one.clear} for one in found]

    @one_line_each
    def compare(self, first: File, second: File, rotate: bool = DEFAULT.rotate) -> dict:
        """Compare the largest faces of two photos with every face recogniser.

        Args:
            first: a photo with a face.
            second: another one.
            rotate: see `/protect`.

        Returns:
            All faces of the `first` and the `second` photo with their problems and whether they
            were compared, and in `pairs` what each recogniser says about the two that were.
        """
        return asdict(self.compared(first, second, rotate))

    def compared(self, first: File, second: File, rotate: bool = False) -> "PhotoComparison":
        """Two photos, their largest faces compared."""
        with errors_in_plain_words():
            if not (first and second):
                raise gr.Error("Choose two photos first.", print_exception=False)
            photos = (read_upload(one["path"]).photo.pixels for one in (first, second))
            return self._service.compare(*photos, rotate)

    def targets(self) -> list[dict]:
        """List the built-in targets; they are averages of several faces and show nobody real."""
        return [{"name": one.name, "description": one.description} for one in self._targets]
