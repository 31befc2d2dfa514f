"""`map-protect profile`: where the time of a protection goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, load_pipeline


@dataclass(frozen=True)
class Options:
    """Show where the time of a protection goes.

    Protects a photo once to warm up, once by the clock and once under the profiler. Whatever else
    runs meanwhile slows it down.

    Attributes:
        photo: The photo; a built-in composite if not given.
        mode: Mode to measure.
        seed: Of all randomness.
    """

    photo: Annotated[Path | None, tyro.conf.arg(metavar="PHOTO"), tyro.conf.Positional] = None
    mode: Literal["fast", "strong"] = "fast"
    seed: int = 0
    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """Print the profile as Markdown."""
    from map_pipeline.evaluation.profile import profile_protection

    pipe = load_pipeline(options.model)
    print(profile_protection(pipe, options.photo, options.mode, options.seed))
    return 0
