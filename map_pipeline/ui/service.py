"""What the page does for a visitor: find faces, protect them, compare two photos.

Nothing of a visitor is kept but the last uploads at screen size, in memory for a few minutes: every
call gets all it needs and hands back plain values.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from map_pipeline.errors import (
    CheckpointError,
    FaceTooSmallError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
    naming_photo,
)
from map_pipeline.report import FaceReport
from map_pipeline.ui import texts
from map_pipeline.ui.durations import Durations
from map_pipeline.ui.face_choice import FoundFace, choose_faces
from map_pipeline.ui.jobs import run_in_steps
from map_pipeline.ui.previews import RecentUploads, Sitting
from map_pipeline.ui.requests import plain_words
from map_pipeline.ui.settings import Choices

# The page is shown before torch is loaded; methods that need it import it.
if TYPE_CHECKING:
    from map_pipeline.compare import Comparison, PhotoComparison
    from map_pipeline.copying import ShownExpression
    from map_pipeline.faces.detect import Box
    from map_pipeline.faces.face import Face
    from map_pipeline.images import Photo
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.robustness import RobustnessCheck
    from map_pipeline.ui.models import Models


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One protection as it travels to the GPU process and must pickle.

    Attributes:
        photo: upright RGB, or RGBA where it's transparent; or the path of an upload, so that a
            batch holds one picture at a time.
        target: "auto", the name of a built-in target, or the visitor's own picture.
        boxes: of the faces to protect, photo px; emotions: of these, in their order.
        choices: all other settings.
    """

    photo: Image.Image | str
    target: str | Image.Image
    boxes: tuple["Box", ...]
    emotions: tuple[str, ...]
    choices: Choices


@dataclass(frozen=True)
class Progress:
    """How far a protection is: `done` of `total` steps, and what is going on.

    Attributes:
        left: how long it will go on, shown in place of the steps; None shows the steps.
    """

    done: int
    total: int
    text: str
    left: str | None = None


@dataclass(frozen=True)
class Upload:
    """A visitor's photo: where its file is, and the picture in it."""

    path: str
    photo: "Photo"


@dataclass(frozen=True)
class Protected:
    """A finished protection: the photo and one report per face."""

    photo: Image.Image
    reports: list[FaceReport]


@dataclass(frozen=True)
class Failed:
    """A photo of several that couldn't be protected, and why, fit for the visitor."""

    reason: str


Update = Progress | Protected | Failed  # what comes of jobs


class Files(NamedTuple):
    """Paths of a result: the photo as a browser shows it, protected, and the reports as JSON."""

    before: str
    after: str
    report: str


class ProtectionService:
    """The models and what the page does with them.

    Args:
        load: returns the models.
        background: whether they may load while the page is already shown. Not on ZeroGPU, which
            hands over to the GPU what the main process holds when the page is launched.
        keep_seconds: how long an upload is kept for previews.
    """

    def __init__(
        self, load: Callable[[], "Models"], background: bool = True, keep_seconds: float = 600
    ) -> None:
        self._sittings: RecentUploads[Sitting] = RecentUploads(keep_seconds)
        self._copied: RecentUploads[ShownExpression] = RecentUploads(keep_seconds)
        self._durations = Durations()
        self._loaded: Future[Models] = Future()
        self._models: Models | None = None
        if background:
            threading.Thread(target=self._load, args=(load,), daemon=True).start()
        else:  # in this very thread: ZeroGPU's stand-in for CUDA is only known to it
            self._models = load()

    @property
    def models(self) -> "Models":
        """The models, once they're loaded.

        Raises:
            CheckpointError: they can't be loaded.
        """
        # Without the future's lock where possible: another thread may hold it during a fork.
        return self._models or self._loaded.result()

    @property
    def loading(self) -> bool:
        """Whether the models aren't there yet."""
        return self._models is None and not self._loaded.done()

    def find_faces(
        self, photo: Image.Image, detector: str, rotate: bool = False
    ) -> list[FoundFace]:
        """All faces of a photo, largest first; with `rotate` turned ones beside upright ones, too.

        Raises:
            NoFaceError: there is none.
        """
        return self._find_faces(photo, detector, rotate)[1]

    def look(self, path: str | None, detector: str, rotate: bool = False) -> Sitting:
        """An upload and its faces, remembered for the previews that follow.

        Raises:
            InvalidImageError: see `read_upload`.
            NoFaceError: there is none.
        """

        def make() -> Sitting:
            photo = read_upload(path).photo.pixels
            return Sitting.of(photo, *self._find_faces(photo, detector, rotate))

        return self._sittings.get((str(path), str(detector), repr(rotate)), make)

    def preview(self, path: str | None, choices: Choices) -> Image.Image:
        """An upload at screen size with the chosen expression, unprotected; on the CPU.

        Raises:
            MAPError: something about it isn't possible; the text is fit for the visitor.
        """
        choices.check((choices.target,), self.models.judging)
        sitting = self.look(path, choices.detector, choices.rotate)
        numbers = [one.number for one in self._chosen(sitting.found, choices)]
        pipe = self.models.judging[choices.detector]
        return sitting.express(pipe, numbers, choices, self.copied(choices))

    def copied(self, choices: Choices) -> "ShownExpression | None":
        """The expression of the visitor's other photo; None where there is none to copy.

        Raises:
            MAPError: it can't be copied; the text is fit for the visitor.
        """
        if not choices.expression_of:
            return None
        path, detector = choices.expression_of.get("path"), choices.detector

        def make() -> "ShownExpression":
            with naming_photo("`expression_of`"):
                photo = read_upload(path).photo.pixels
            return self.models.judging[detector].read_expression(photo)

        return self._copied.get((str(path), detector), make)

    def prepare(self, photo: Image.Image, own_target: Image.Image | None, choices: Choices) -> Job:
        """Check a request and choose its faces; needs no GPU.

        Raises:
            MAPError: something about it isn't possible; the text is fit for the visitor.
        """
        self.check(own_target, choices)
        return self.job(photo, own_target, choices)

    def check(self, own_target: Image.Image | None, choices: Choices) -> None:
        """Check what holds for all photos of a request.

        Raises:
            MAPError: something about it isn't possible; the text is fit for the visitor.
        """
        bank = next(iter(self.models.judging.values())).targets
        choices.check(() if bank is None else bank.names, self.models.protecting)
        if own_target is not None and choices.consent is not True:
            raise UnknownOptionError(
                "Recognition software may mistake you for the person in the picture you added. "
                "Tick the box to confirm that they have agreed, or remove the picture."
            )
        if own_target is not None:
            self._check_target(own_target, choices.detector)
        self.copied(choices)  # an error before the queue

    def job(
        self,
        photo: Image.Image,
        own_target: Image.Image | None,
        choices: Choices,
        path: str | None = None,
    ) -> Job:
        """The job of a photo, its faces chosen, once the rest is checked.

        Args:
            path: where the photo is; it's then read again when its turn comes.

        Raises:
            MAPError: its faces can't be protected as chosen; the text is fit for the visitor.
        """
        found = self.find_faces(photo, choices.detector, choices.rotate)
        chosen = self._chosen(found, choices)
        return Job(
            photo if path is None else path,
            choices.target if own_target is None else own_target,
            tuple(one.box for one in chosen),
            tuple(choices.emotion_of(one.number) for one in chosen),
            choices,
        )

    def run(self, jobs: Sequence[Job]) -> Generator[Update, None, None]:
        """Do jobs in their order on the device of the models: of each progress, then its result.

        Where they are several, what goes wrong with one doesn't end the others.
        """
        for job in jobs:
            work = partial(self._protect, job)
            try:
                yield (yield from run_in_steps(work))
            except Exception as error:
                if len(jobs) == 1:
                    raise
                yield Failed(plain_words(error))

    def timed(self, jobs: Sequence[Job], updates: Iterator[Update]) -> Iterator[Update]:
        """Pass on what a run of jobs reports, and remember how long a face of each took.

        Not part of `run`, as on ZeroGPU that is in a process of its own. The time of a job starts
        with its first update, because before it a GPU is waited for.
        """
        waiting, started = list(jobs), None
        for update in updates:
            started = time.perf_counter() if started is None else started
            if not isinstance(update, Progress):
                job, seconds = waiting.pop(0), time.perf_counter() - started
                if isinstance(update, Protected) and not job.choices.steps:
                    self._durations.add(job.choices.mode, seconds / len(job.boxes))
                started = None
            yield update

    def expected_seconds(self) -> Mapping[str, float] | None:
        """Mode -> seconds that a face will take here; None as long as that isn't known."""
        return self._durations.expected(self.models.seconds)

    def check_robustness(self, job: Job, protected: Protected) -> list[list["RobustnessCheck"]]:
        """For each face, what is left of its protection after sharing; on the CPU."""
        from map_pipeline.images import to_array
        from map_pipeline.robustness import check_robustness

        own = job.target if isinstance(job.target, Image.Image) else None
        pipe = self.models.judging[job.choices.detector]
        before, after = to_array(job.photo), to_array(protected.photo)
        return [check_robustness(pipe, before, after, one, own) for one in protected.reports]

    def compare(
        self, first: Image.Image, second: Image.Image, rotate: bool = False
    ) -> "PhotoComparison":
        """What every recogniser says about the largest faces of two photos; on the CPU."""
        from map_pipeline.compare import compare_faces

        pipe = next(iter(self.models.judging.values()))
        return compare_faces(pipe, first, second, "largest", rotate)

    def find_again(
        self, files: Files, boxes: Sequence["Box"], other: str | None
    ) -> tuple[list["Comparison"], list["Comparison"]]:
        """What recognisers say about another photo and a result, before and after; on the CPU."""
        from map_pipeline.compare import find_again

        before, after, person = (
            read_upload(path).photo.pixels for path in (files.before, files.after, other)
        )
        return find_again(next(iter(self.models.judging.values())), before, after, boxes, person)

    def _find_faces(
        self, photo: Image.Image, detector: str, rotate: bool
    ) -> tuple[list["Face"], list[FoundFace]]:
        from map_pipeline.faces.detect import MIN_FACE_SIDE, select_faces
        from map_pipeline.faces.quality import quality_issues
        from map_pipeline.images import to_array

        if detector not in self.models.judging:
            names = ", ".join(self.models.judging)
            raise UnknownOptionError(f"`detector` must be one of {names}; got {detector!r}.")
        if not isinstance(rotate, bool):
            raise UnknownOptionError(f"`rotate` must be true or false, got {rotate!r}.")
        pixels = to_array(photo)
        faces = self.models.judging[detector].find_faces(pixels, rotate)
        if not faces:
            select_faces(faces)  # raises with the usual text
        return faces, [
            FoundFace(
                number,
                tuple(float(corner) for corner in face.box),
                tuple(quality_issues(face, pixels)),
                min(face.size) >= MIN_FACE_SIDE,
            )
            for number, face in enumerate(faces, 1)
        ]

    def _chosen(self, found: Sequence[FoundFace], choices: Choices) -> list[FoundFace]:
        unknown = set(choices.emotions or ()) - {str(one.number) for one in found}
        if unknown:
            raise NoFaceError(
                f"`emotions` must name faces from 1 to {len(found)}, as they were found; "
                f"got {', '.join(sorted(unknown))}."
            )
        return choose_faces(found, choices.faces)

    def _load(self, load: Callable[[], "Models"]) -> None:
        try:
            self._models = load()
            self._loaded.set_result(self._models)
        except BaseException as error:  # raised for everybody who asks for the models
            logger.exception("The networks can't be loaded")
            known = CheckpointError(texts.NO_NETWORKS) if isinstance(error, Exception) else error
            self._loaded.set_exception(known)

    def _check_target(self, picture: Image.Image, detector: str) -> None:
        try:
            found = self.find_faces(picture, detector)
        except NoFaceError:
            raise NoFaceError("`target` must show a face, but none was found.") from None
        if not found[0].possible:
            raise FaceTooSmallError("`target` must show a larger face.")

    def _protect(self, job: Job, report: Callable[[Progress], None]) -> Protected:
        import torch

        choices, faces = job.choices, len(job.boxes)
        report(Progress(0, 1, "Changing the expression"))

        def on_step(pipe: "MAPPipeline", step: int, _timestep: int, given: dict) -> dict:
            steps = pipe.num_timesteps
            report(Progress(step + 1, steps, texts.step(step + 1, steps, faces)))
            return given

        # With a count of steps of its own: another visitor's run may go on at the same time.
        pipe = copy.copy(self.models.protecting[choices.detector])
        output = pipe(
            job.photo,
            emotion=job.emotions,
            target=job.target,
            faces=job.boxes,
            rotate=choices.rotate,
            mode=choices.mode,
            margin=choices.margin,
            expression_strength=choices.expression_strength,
            action_units=choices.action_units,
            expression_of=self.copied(choices),
            refine_steps=choices.steps or None,
            generator=torch.Generator().manual_seed(choices.seed),
            callback_on_step_end=on_step,
        )
        return Protected(output.images[0], output.reports[0])


def read_upload(path: str | None) -> Upload:
    """An upload as an upright sRGB picture without metadata.

    Raises:
        InvalidImageError: it isn't a picture this package accepts, or was deleted meanwhile.
    """
    from map_pipeline.images import load_photo

    if not (path and Path(path).is_file()):  # programs can send a file without a path
        raise InvalidImageError(
            "This upload has expired and was deleted. Please choose the photo again."
        )
    return Upload(path, load_photo(path))
