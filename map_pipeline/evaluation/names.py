"""The names in `Settings`: which exist, what they stand for, and what they do."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods import ABLATIONS, TRADE_OFF, method_names
from map_pipeline.evaluation.purify import purify
from map_pipeline.evaluation.settings import Settings
from map_pipeline.evaluation.styles import STYLES
from map_pipeline.images.transforms import TRANSFORMS
from map_pipeline.pipeline import MAPPipeline

Transform = Callable[[np.ndarray, int], np.ndarray]
"""A photo and a seed in, a photo out."""


def resolve(settings: Settings) -> Settings:
    """Settings with every name that stands for others, or for a default, spelled out.

    Whatever else is asked for, the photo as it is decides most figures: "none" is always among the
    transforms, and "plain" among the styles.

    Raises:
        UnknownOptionError: a name that doesn't exist.
    """
    stands_for = {"ablations": ABLATIONS, "trade-off": TRADE_OFF}
    methods = [one for name in settings.methods for one in stands_for.get(name, (name,))]
    styles = tuple(STYLES) if settings.styles == ("all",) else settings.styles
    resolved = replace(
        settings,
        methods=_unique(methods),
        transforms=_unique(("none", *(settings.transforms or TRANSFORMS))),
        styles=_unique(("plain", *styles)),
    )
    _check("methods", resolved.methods, method_names())
    _check("styles", resolved.styles, list(STYLES))
    named = [n for n in resolved.transforms if not re.fullmatch(r"purify[1-9]\d*", n)]
    _check("transforms", named, [*TRANSFORMS, "purifyN"])
    return resolved


def transform(pipe: MAPPipeline, name: str) -> Transform:
    """The function behind the name of a transform."""
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    level = int(name.removeprefix("purify"))
    return lambda photo, seed: purify(pipe, photo, level, seed)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _check(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownOptionError(f"`{option}` must be one of {', '.join(known)}; got {name!r}.")
