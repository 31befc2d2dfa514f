"""A short clip on the page: its limits, the preview of its first frame, and its protection."""

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from map_pipeline.config import MODES
from map_pipeline.errors import InvalidVideoError, NoFaceError, UnknownOptionError
from map_pipeline.ui import texts
from map_pipeline.ui.cache import keep
from map_pipeline.ui.face_choice import choose_faces
from map_pipeline.ui.jobs import run_in_steps
from map_pipeline.ui.service import Progress, ProtectionService, read_upload
from map_pipeline.ui.settings import (
    GPU_SECONDS_BASE,
    GPU_SECONDS_PER_FACE,
    GPU_SECONDS_PER_STEP,
    MAX_GPU_SECONDS,
    Choices,
    PageSettings,
)
from map_pipeline.video.reading import import_av, open_clip

# The page is shown before torch is loaded.
if TYPE_CHECKING:
    from map_pipeline.video.reading import Clip
    from map_pipeline.video.report import VideoReport

FACES = ("largest", "all")
NAME = "protected.mp4"
# What a frame takes where the GPU is lent: to read, follow and write it, and for each person in it.
# All but a little of that is done by the processor.
GPU_SECONDS_PER_FRAME, GPU_SECONDS_PER_CHANGED_FRAME = 0.06, 0.08
KEY_SECONDS = 2.0  # so often a change may be found anew, see `video.role`
SHOWN_AFTER = 3.0  # seconds of work before the rest of it is estimated


@dataclass(frozen=True)
class ClipJob:
    """The protection of a clip as it travels to the GPU process and must pickle.

    Attributes:
        clip: path of the upload; output: of the file to write.
        target: "auto", the name of a built-in target, or the visitor's own picture.
        faces: one of `FACES`.
        choices: all other settings.
        frames: of the clip; seconds: its length.
        people: how many are expected to be changed.
    """

    clip: str
    output: str
    target: str | Image.Image
    faces: str
    choices: Choices
    frames: int
    seconds: float
    people: int

    @property
    def gpu_seconds_wanted(self) -> float:
        """GPU time that it's expected to take, with a margin, seconds."""
        mode = self.choices.mode
        steps = self.choices.steps or MODES[mode].refine_steps
        searches = math.ceil(max(self.seconds, 1) / KEY_SECONDS)
        finding = GPU_SECONDS_PER_FACE + searches * steps * GPU_SECONDS_PER_STEP[mode]
        changing = GPU_SECONDS_PER_CHANGED_FRAME * self.frames
        reading = GPU_SECONDS_PER_FRAME * self.frames
        return GPU_SECONDS_BASE + reading + self.people * (finding + changing)


@dataclass(frozen=True)
class FirstFrame:
    """The first frame of a clip: where its picture is, and what isn't good about it."""

    path: str
    note: str


WINKS = ("wink_left", "wink_right")  # an eye that stays shut for a whole clip is no wink
RunClip = Callable[[ClipJob], Iterator["Progress | VideoReport"]]
"""Protects a clip where the GPU is, or here."""


def check_clip_movements(choices: Choices) -> None:
    """Raise `UnknownOptionError` for a single movement that clips don't have."""
    for name in choices.action_units or ():
        if name in WINKS:
            raise UnknownOptionError(f"`action_units` of a clip must hold no wink, got {name!r}.")


def clip_gpu_seconds(job: ClipJob) -> int:
    """GPU time to ask for, in whole seconds."""
    return min(MAX_GPU_SECONDS, math.ceil(job.gpu_seconds_wanted))


@dataclass(frozen=True)
class Clips:
    """Short clips, and what the page does with them.

    Args:
        service: the models; run: does a job where the GPU is.
        settings: with the limits of the page.
        folder: where results are written.
    """

    service: ProtectionService
    run: RunClip
    settings: PageSettings
    folder: str

    def open(self, path: str) -> tuple["Clip", int, float]:
        """An upload that is within the limits, the number of its frames, and its seconds.

        Runs no model, and decodes one frame.

        Raises:
            InvalidVideoError: it isn't one, or PyAV is missing.
        """
        if not Path(path).is_file():
            raise InvalidVideoError(
                "This upload has expired and was deleted. Please choose the clip again."
            )
        try:
            clip = open_clip(path)
        except ModuleNotFoundError as error:
            raise InvalidVideoError(str(error)) from None
        frames, seconds = clip.measure()
        settings = self.settings
        if seconds > settings.clip_seconds:
            raise InvalidVideoError(
                f"`clip` must be at most {settings.clip_seconds:g} s long, got {seconds:.1f} s."
            )
        width, height = settings.clip_size
        if max(clip.size) > width or min(clip.size) > height:
            raise InvalidVideoError(
                f"`clip` must have at most {width} x {height} px, upright or on its side, got "
                f"{clip.size[0]} x {clip.size[1]}."
            )
        return clip, frames, seconds

    def first_frame(self, path: str) -> FirstFrame:
        """The first frame of an upload, written into a new folder for the previews of it.

        Raises:
            MAPError: it can't be protected here; the text is fit for the visitor.
        """
        clip, _, _ = self.open(path)
        frame = self._write_first_frame(clip)
        try:
            self.service.look(frame, "auto")
        except NoFaceError:
            return FirstFrame(frame, texts.NO_FACE_YET)
        return FirstFrame(frame, "")

    def preview(self, frame: str, choices: Choices, faces: str) -> Image.Image:
        """A first frame with the expression as the clip will show it, unprotected; on the CPU.

        Raises:
            MAPError: something about it isn't possible; the text is fit for the visitor.
        """
        from map_pipeline.images import to_array, to_pil
        from map_pipeline.video.change import show
        from map_pipeline.video.role import express_face

        choices.check((choices.target,), self.service.models.judging)
        check_clip_movements(choices)
        pipe = self.service.models.judging[choices.detector]
        sitting = self.service.look(frame, choices.detector)
        copied = self.service.copied(choices)
        chosen = sitting.found[:1] if faces == "largest" else choose_faces(sitting.found, ())
        pixels, space = to_array(sitting.photo), pipe.stages.expression_space
        for one in chosen:
            model = sitting.model_for(pipe, one.number, copied)
            for face in sitting.prepare(pipe, one.number):
                key = express_face(
                    space, face, choices.emotion, choices.expression_strength,
                    choices.action_units or {}, model,
                )  # fmt: skip
                pixels = show(pixels, face.alignment, key)
        return to_pil(pixels)

    def work(
        self, path: str, own_target: str | None, choices: Choices, faces: str
    ) -> "Iterator[Progress | tuple[ClipJob, VideoReport]]":
        """Protect an upload: progress, then the job, whose output is there, and its report.

        Raises:
            MAPError: something about it isn't possible; the text is fit for the visitor.
        """
        if faces not in FACES:
            raise UnknownOptionError(f"`faces` must be one of {', '.join(FACES)}; got {faces!r}.")
        check_clip_movements(choices)
        clip, frames, seconds = self.open(path)
        own = read_upload(own_target).photo.pixels if own_target else None
        self.service.check(own, choices)
        people = self._people(clip, choices) if faces == "all" else 1
        output = Path(tempfile.mkdtemp(dir=self.folder)) / NAME
        job = ClipJob(
            path, str(output), choices.target if own is None else own, faces, choices, frames,
            seconds, people,
        )  # fmt: skip
        wanted, most = job.gpu_seconds_wanted, self.settings.batch_seconds
        if wanted > most:
            raise UnknownOptionError(
                f"`clip` must take at most {most:.0f} s to protect here, got about {wanted:.0f} s "
                f"for {frames} frames and {people} faces. Choose a shorter one, or Fast mode."
            )
        keep([path])
        for update in self.run(job):
            keep([path])  # it's read again, minutes after it came
            yield update if isinstance(update, Progress) else (job, update)

    def _people(self, clip: "Clip", choices: Choices) -> int:
        """How many people are in the first frame, and at least 1."""
        try:
            return len(self.service.look(self._write_first_frame(clip), choices.detector).found)
        except NoFaceError:
            return 1

    def _write_first_frame(self, clip: "Clip") -> str:
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "frame.png"
        Image.fromarray(next(clip.frames()).pixels()).save(path)
        return str(path)


def protect_clip(
    service: ProtectionService, job: ClipJob
) -> "Generator[Progress | VideoReport, None, None]":
    """Do a job on the device of the models: progress, then the report."""
    yield (yield from run_in_steps(partial(_protect, service, job)))


def _protect(
    service: ProtectionService, job: ClipJob, report: Callable[[Progress], None]
) -> "VideoReport":
    import torch

    choices, started, shown = job.choices, time.perf_counter(), -1

    def on_progress(share: float) -> None:
        nonlocal shown
        percent = int(100 * share)
        if percent != shown:
            shown = percent
            report(progress_of(share, time.perf_counter() - started))

    report(progress_of(0, 0))
    settings: dict[str, Any] = {
        "emotion": choices.emotion,
        "target": job.target,
        "faces": job.faces,
        "mode": choices.mode,
        "margin": choices.margin,
        "expression_strength": choices.expression_strength,
        "action_units": choices.action_units,
        "expression_of": service.copied(choices),
        "refine_steps": choices.steps or None,
    }
    return service.models.protecting[choices.detector].protect_video(
        job.clip,
        job.output,
        **settings,
        generator=torch.Generator().manual_seed(choices.seed),
        on_progress=on_progress,
    )


def progress_of(share: float, elapsed: float) -> Progress:
    """What is shown after a share of the work in [0,1] that took so many seconds."""
    left = ""
    if share > 0 and elapsed > SHOWN_AFTER:
        rest = elapsed * (1 - share) / share
        left = f"about {max(5 * math.ceil(rest / 5), 5)} s left"
    return Progress(round(100 * share), 100, "Protecting the clip", left)


def can_read_clips() -> bool:
    """Whether PyAV is installed."""
    try:
        import_av()
    except ModuleNotFoundError:
        return False
    return True
