"""`map-protect compare`: ask every recogniser about two photos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, load_pipeline


@dataclass(frozen=True)
class Options:
    """Print what every recogniser says about the largest faces of two photos.

    Attributes:
        first: Photo with a face.
        second: Another one.
        detector: Which detector finds the faces; the checkpoint's setting if not given.
    """

    first: Annotated[Path, tyro.conf.arg(metavar="A"), tyro.conf.Positional]
    second: Annotated[Path, tyro.conf.arg(metavar="B"), tyro.conf.Positional]
    detector: Literal["auto", "bundled", "insightface", "insightface-download"] | None = None
    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """Print what every recogniser says about the largest faces of two photos."""
    from map_pipeline.compare import compare_photos
    from map_pipeline.report import format_table

    pipe = load_pipeline(options.model, options.detector)
    rows = [
        [
            one.title,
            f"{one.similarity:.3f}",
            "-" if one.threshold is None else f"{one.threshold:.3f}",
            "-" if one.matches is None else "yes" if one.matches else "no",
        ]
        for one in compare_photos(pipe, options.first, options.second)
    ]
    print("\n".join(format_table(("recogniser", "similarity", "threshold", "same person"), rows)))
    return 0
