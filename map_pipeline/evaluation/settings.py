"""What one evaluation measures, checked before any work, and compared when a run is continued."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.leave_one_out import surrogates_without
from map_pipeline.evaluation.methods import method_names
from map_pipeline.evaluation.purify import purify
from map_pipeline.evaluation.styles import STYLES
from map_pipeline.images import write_atomically
from map_pipeline.images.degradations import TRANSFORMS
from map_pipeline.pipeline import MAPPipeline

LEAVE_OUT = ("rotate", "each", "none")
DEFAULT_TRANSFORMATIONS = tuple(TRANSFORMS)
PURIFICATIONS = ("purify100", "purify200", "purify300")
# Settings that may differ between runs into one folder: they only say which units are wanted.
RESUMABLE_FIELDS = ("methods", "styles", "skip", "limit")

Transformation = Callable[[np.ndarray, int], np.ndarray]
"""A photo and a seed in, a photo out."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        methods: names of `methods.method_names()`.
        emotion: the asked one, or "all": photo i gets emotion i mod 7.
        targets: ids of the photo set, names of composites, or "auto"; photo i gets target i mod
            their number. Empty: all of the set, or "auto" if it has none.
        leave_out: "rotate" (photo i is protected without recogniser i mod their number and its
            family), "each" (without each in turn) or "none".
        transformations: what protected photos go through before they are judged: names of
            `transforms.TRANSFORMS`, or "purifyN" with a noise level N; "none" is always among them.
        styles: names of `styles.STYLES`; each is another set of photos to protect.
        protect_both: protect the second photos too, and compare protected with protected.
        skip: leave out so many photos at the start, >= 0, such as those used for tuning.
        limit: protect only so many photos, >= 1; None is all.
        gallery: number of people in the gallery and in the estimate of thresholds, >= 1.
        seed: of all randomness; eps: budget of the noise methods, of 255.
        strength, expression_strength: of MAP, see `MAPPipeline`; None leaves them to it.

    Raises:
        UnknownOptionError: a name that doesn't exist.
    """

    methods: tuple[str, ...] = ("map",)
    emotion: str = "happy"
    targets: tuple[str, ...] = ()
    leave_out: str = "rotate"
    transformations: tuple[str, ...] = DEFAULT_TRANSFORMATIONS
    styles: tuple[str, ...] = ("plain",)
    protect_both: bool = False
    skip: int = 0
    limit: int | None = None
    gallery: int = 200
    seed: int = 0
    eps: float = 8.0
    strength: float | None = None
    expression_strength: float | None = None

    def __post_init__(self) -> None:
        # Whatever else is asked for, the photo as it is decides most figures.
        others = tuple(name for name in self.transformations if name != "none")
        object.__setattr__(self, "transformations", ("none", *others))
        _check("emotion", (self.emotion,), (*EMOTIONS, "all"))
        _check("leave_out", (self.leave_out,), LEAVE_OUT)
        _check("styles", self.styles, tuple(STYLES))
        _check("methods", self.methods, tuple(method_names()))
        for name in self.transformations:
            if not re.fullmatch(r"purify[1-9]\d*", name):
                _check("transforms", (name,), (*TRANSFORMS, "purifyN"))

    @property
    def method_options(self) -> dict[str, object]:
        """What `methods.create` is told."""
        chosen = {"strength": self.strength, "expression_strength": self.expression_strength}
        own = {name: value for name, value in chosen.items() if value is not None}
        return {"eps": self.eps, **({"settings": own} if own else {})}

    def chosen(self, count: int) -> range:
        """Indices of the photos to protect among `count`."""
        return range(count)[self.skip :][: self.limit]


def transformation(pipe: MAPPipeline, name: str) -> Transformation:
    """The function behind the name of a transformation."""
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    level = int(name.removeprefix("purify"))
    return lambda photo, seed: purify(pipe, photo, level, seed)


def rotation(pipe: MAPPipeline, leave_out: str) -> tuple[str, ...]:
    """Recognisers to leave out in turn; `("",)` if none is.

    Raises:
        UnknownOptionError: all surrogates are of one family, so that none would be left.
    """
    if leave_out == "none":
        return ("",)
    for name in pipe.surrogates:
        if not surrogates_without(pipe, name):
            raise UnknownOptionError(
                "`leave_out` must be 'none' where all surrogates are of one family, "
                f"got {leave_out!r} and {', '.join(pipe.surrogates)}."
            )
    return tuple(pipe.surrogates)


def check_same_run(out: Path, settings: Mapping[str, object]) -> None:
    """Note the settings in `out/settings.json`, or compare with those of the run found there.

    Raises:
        UnknownOptionError: they differ, and rows of both would get mixed.
    """
    path = out / "settings.json"
    now = json.loads(json.dumps(settings, default=str))
    if path.is_file():
        then = json.loads(path.read_text())
        differences = [
            f"{name} {then.get(name)!r} there and {now.get(name)!r} here"
            for name in sorted({*then, *now})
            if then.get(name) != now.get(name)
        ]
        if differences:
            raise UnknownOptionError(
                f"`out` must be a new folder or hold a run of the same settings, got {out} with "
                f"{'; '.join(differences)}."
            )
    write_atomically(path, json.dumps(now, indent=2).encode())


def _check(option: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UnknownOptionError(f"`{option}` must be one of {', '.join(known)}; got {name!r}.")
