"""What the page is built from (`PageSettings`) and what a visitor chose on it (`Choices`)."""

import math
import os
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from map_pipeline.config import DEFAULT_MARGIN, DEFAULT_TARGET, EXPRESSIONS, HIDE, MARGINS, MODES
from map_pipeline.errors import UnknownOptionError

PACKAGE = Path(__file__).parents[1]
MAX_STEPS = 60  # fine-tuning steps offered on the page
MAX_FACES = 8  # protected in one go, so that a photo of a crowd doesn't block the queue for minutes
MAX_SEED = 2**32 - 1  # a number that people can still copy
ZERO_GPU_CONCURRENCY = 8
FILE_TYPES = ("auto", "png", "jpeg")
SECONDS = {"minute": 60, "hour": 3600, "day": 86400}

# Seconds of GPU time to ask for. Chosen with a margin, as ZeroGPU aborts what overruns, but a
# visitor's whole quota is two minutes a day.
GPU_SECONDS_BASE, GPU_SECONDS_PER_FACE = 8, 2
GPU_SECONDS_PER_STEP = {"fast": 0.15, "strong": 0.3}
GPU_SECONDS_PER_PHOTO = 1  # for each but the first of a batch: read and handed back
# ZeroGPU books half as much again, and somebody without an account has 120 s a day.
MAX_GPU_SECONDS = 80


@dataclass(frozen=True)
class PageSettings:
    """Everything that distinguishes one deployment of the page from another.

    Attributes:
        checkpoint: folder of the trained networks.
        examples: folder with `examples.json` and the pictures it names.
        max_upload_mb: size limit of an upload, megabytes. As much as `map_pipeline.images` reads,
            so that every result can be checked on the page again.
        keep_seconds: age at which uploads and results are deleted.
        queue_size: how many visitors may wait; more are asked to come back.
        concurrency: how many photos are protected at once.
        batch_photos: how many photos a visitor may have protected in one go.
        batch_seconds: how much GPU time they may ask for, seconds.
        clip_seconds: how long a clip may be, seconds.
        clip_size: longer and shorter side of the largest clip, px.
        rate_limit: how many photos or clips one visitor may have protected in `rate_seconds`; 0: no
            limit.
        rate_seconds: the time the limit counts for, seconds.
    """

    checkpoint: Path = PACKAGE / "checkpoint"
    examples: Path = PACKAGE.parent / "examples"
    max_upload_mb: int = 100
    keep_seconds: int = 600
    queue_size: int = 20
    concurrency: int = 1
    batch_photos: int = 10
    batch_seconds: float = math.inf
    clip_seconds: int = 10
    clip_size: tuple[int, int] = (1280, 720)
    rate_limit: int = 0
    rate_seconds: int = 3600

    @property
    def max_upload_bytes(self) -> int:
        """The size limit of an upload, as `map_pipeline.images` counts megabytes."""
        return self.max_upload_mb * 10**6

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The defaults, changed by `MAP_RATE_LIMIT` ("20/hour"), `MAP_CONCURRENCY` ("2"),
        `MAP_BATCH_PHOTOS` ("10") and `MAP_CLIP_SECONDS` ("10").

        ZeroGPU gives every run a process of its own, so there several photos are protected at once;
        and it ends a run that takes longer than it may ask for.

        Raises:
            UnknownOptionError: one of them can't be read.
        """
        calls, seconds = _rate(environment.get("MAP_RATE_LIMIT", "0/hour"))
        zero_gpu = bool(environment.get("SPACES_ZERO_GPU"))
        concurrency = ZERO_GPU_CONCURRENCY if zero_gpu else cls.concurrency
        return cls(
            concurrency=_count(environment, "MAP_CONCURRENCY", concurrency),
            batch_photos=_count(environment, "MAP_BATCH_PHOTOS", cls.batch_photos),
            batch_seconds=MAX_GPU_SECONDS if zero_gpu else cls.batch_seconds,
            clip_seconds=_count(environment, "MAP_CLIP_SECONDS", cls.clip_seconds),
            rate_limit=calls,
            rate_seconds=seconds,
        )


@dataclass(frozen=True)
class Choices:
    """What a visitor chose; `check` it, as clients of the API can send anything.

    Attributes:
        emotion: one of `EXPRESSIONS`.
        expression_strength: how far the expression is changed, in [0,1].
        target: "none" to hide only, "auto", or the name of a built-in target.
        consent: whether the person in the visitor's own target picture agreed.
        faces: numbers of the faces to protect, 1 for the largest; none: all clear ones.
        mode: "fast" or "strong".
        margin: how sure the protection shall be, one of `MARGINS`.
        steps: fine-tuning steps per face, up to `MAX_STEPS`; 0 is the number of the mode.
        detector: what finds the faces; "auto" is the best one at hand.
        seed: of the random views, >= 0.
        random_seed: take a new seed for every run, see `with_seed`.
        file_type: of the result: "png", "jpeg", or "auto", which is JPEG for a photo that came in a
            lossy format, where a PNG would be many times larger for no gain.
        rotate: find faces that lie on their side or are upside down also beside upright ones.
        expression_of: another photo, whose expression is copied in place of the emotion: an upload
            as Gradio sends it, with its "path".
        action_units: single movements besides the emotion, name -> amount in [-1,1].
        emotions: number of a face, as text -> its own emotion; all others get `emotion`.
    """

    emotion: str = "happy"
    expression_strength: float = MODES["fast"].expression_strength
    target: str = DEFAULT_TARGET
    consent: bool = False
    faces: Sequence[int] = ()
    mode: str = "fast"  # unlike the pipeline's own default: a visitor waits for the result
    margin: str = DEFAULT_MARGIN
    steps: int = 0
    detector: str = "auto"
    seed: int = 0
    random_seed: bool = False
    file_type: str = "auto"
    rotate: bool = False
    expression_of: Mapping[str, Any] | None = None
    action_units: Mapping[str, float] | None = None
    emotions: Mapping[str, str] | None = None

    def check(self, targets: Collection[str], detectors: Collection[str]) -> None:
        """Raise `UnknownOptionError` for a value outside its choices or range.

        Args:
            targets: names of the built-in targets.
            detectors: names of the detectors at hand.
        """
        # It needs torch, without which the page is shown.
        from map_pipeline.expression.action_units import check_action_units

        _check_choice("emotion", self.emotion, EXPRESSIONS)
        _check_number("expression_strength", self.expression_strength, 0, 1)
        _check_choice("target", self.target, ("auto", HIDE, *targets))
        if not isinstance(self.faces, list | tuple) or not all(type(n) is int for n in self.faces):
            raise UnknownOptionError(f"`faces` must be a list of numbers, got {self.faces!r}.")
        _check_choice("mode", self.mode, tuple(MODES))
        _check_number("seed", self.seed, 0, MAX_SEED, whole=True)
        _check_choice("margin", self.margin, tuple(MARGINS))
        _check_number("steps", self.steps, 0, MAX_STEPS, whole=True)
        _check_choice("file_type", self.file_type, FILE_TYPES)
        _check_choice("detector", self.detector, detectors)
        if self.expression_of and not isinstance(self.expression_of, Mapping):
            raise UnknownOptionError(
                f"`expression_of` must be an uploaded photo, got {self.expression_of!r}."
            )
        if self.action_units is not None:
            check_action_units(self.action_units)
        if not isinstance(self.emotions, Mapping | None):
            raise UnknownOptionError(
                f"`emotions` must name an emotion by the number of a face, got {self.emotions!r}."
            )
        for number, emotion in (self.emotions or {}).items():
            _check_choice(f"emotions[{number}]", emotion, EXPRESSIONS)

    def emotion_of(self, number: int) -> str:
        """The emotion of the face of this number."""
        return (self.emotions or {}).get(str(number), self.emotion)

    def with_seed(self) -> Self:
        """These choices with the seed that the run will take.

        Raises:
            UnknownOptionError: `random_seed` isn't a truth value.
        """
        if not isinstance(self.random_seed, bool):  # "false" would count as true
            raise UnknownOptionError(
                f"`random_seed` must be true or false, got {self.random_seed!r}."
            )
        if not self.random_seed:
            return self
        return replace(self, seed=random.randint(0, MAX_SEED), random_seed=False)

    def gpu_seconds(self, faces: int, photos: int = 1) -> int:
        """GPU time to ask for, in whole seconds, for so many faces of so many photos."""
        return min(MAX_GPU_SECONDS, math.ceil(self.gpu_seconds_wanted(faces, photos)))

    def gpu_seconds_wanted(self, faces: int, photos: int) -> float:
        """The same without a limit, seconds."""
        steps = self.steps or MODES[self.mode].refine_steps
        per_face = GPU_SECONDS_PER_FACE + GPU_SECONDS_PER_STEP[self.mode] * steps
        return GPU_SECONDS_BASE + GPU_SECONDS_PER_PHOTO * (photos - 1) + per_face * faces


def _rate(text: str) -> tuple[int, int]:
    """ "20/hour" as (20, 3600)."""
    calls, _, unit = text.strip().partition("/")
    if not calls.isdecimal() or unit not in SECONDS:
        raise UnknownOptionError(
            "`MAP_RATE_LIMIT` must be a number and minute, hour or day, such as 20/hour, "
            f"got {text!r}."
        )
    return int(calls), SECONDS[unit]


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not (text.isdecimal() and int(text) > 0):
        raise UnknownOptionError(f"`{name}` must be a whole number above 0, got {text!r}.")
    return int(text)


def _check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise UnknownOptionError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def _check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    kind = int if whole else int | float
    # The comparison is also false for NaN.
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        article = "a whole number" if whole else "a number"
        raise UnknownOptionError(f"`{name}` must be {article} in [{low}, {high}], got {value!r}.")
