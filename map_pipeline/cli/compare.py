"""`map-protect compare`: ask every recogniser about two photos."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, load_pipeline
from map_pipeline.report import UNCLEAR_FACE

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.compare import Comparison, FacePair, PhotoFaces

HEADER = ("recogniser", "similarity", "threshold", "same person")
ROTATE_HINT = "--rotate may find rotated faces."


@dataclass(frozen=True)
class Options:
    """Print what every recogniser says about the faces of two photos.

    Attributes:
        first: Photo with a face.
        second: Another one.
        faces: Which faces to compare: each of A with each of B, or the largest ones only.
        rotate: Find faces lying on their side or upside down, too, where there are upright ones.
        detector: Which detector finds the faces; the checkpoint's setting if not given.
    """

    first: Annotated[Path, tyro.conf.arg(metavar="A"), tyro.conf.Positional]
    second: Annotated[Path, tyro.conf.arg(metavar="B"), tyro.conf.Positional]
    faces: Literal["largest", "all"] = "all"
    rotate: bool = False
    detector: Literal["auto", "bundled", "insightface", "insightface-download"] | None = None
    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """Print the found faces on stderr and what every recogniser says about each pair on stdout."""
    from map_pipeline.compare import compare_faces

    pipe = load_pipeline(options.model, options.detector)
    found = compare_faces(pipe, options.first, options.second, options.faces, options.rotate)
    lines = [
        *describe_faces(f"A, {options.first}", found.first),
        *describe_faces(f"B, {options.second}", found.second),
    ]
    faces = [*found.first.faces, *found.second.faces]
    if any(face.problems for face in faces if face.compared):
        lines.append(UNCLEAR_FACE)
    if (found.first.doubtful or found.second.doubtful) and not options.rotate:
        lines.append(ROTATE_HINT)
    print("\n".join(lines), file=sys.stderr)
    print("\n".join(pair_table(found.pairs)))
    return 0


def describe_faces(name: str, seen: "PhotoFaces") -> list[str]:
    """How many faces a photo shows, then a line for each with all that speaks against it."""
    count = len(seen.faces)
    lines = [f"{name}: {'1 face' if count == 1 else f'{count} faces'} found"]
    for face in seen.faces:
        problems = f": {', '.join(face.problems)}" if face.problems else ""
        left_out = "" if face.compared else " (not compared)"
        lines.append(f"  face {face.number} at {describe_box(face.box)}{problems}{left_out}")
    lines += [
        f"  perhaps one more, rotated or half hidden, at {describe_box(box)} (not compared)"
        for box in seen.doubtful
    ]
    return lines


def describe_box(box: Sequence[float]) -> str:
    """Corners x0, y0, x1, y1 in px as text."""
    x0, y0, x1, y1 = (round(corner) for corner in box)
    return f"{x0},{y0} - {x1},{y1} px"


def pair_table(pairs: Sequence["FacePair"]) -> list[str]:
    """A row for each recogniser; with the numbers of the faces if there are several pairs."""
    from map_pipeline.report import format_table

    if len(pairs) == 1:
        return format_table(HEADER, [comparison_row(one) for one in pairs[0].recognisers])
    rows = [
        [str(pair.first), str(pair.second), *comparison_row(one)]
        for pair in pairs
        for one in pair.recognisers
    ]
    return format_table(("A", "B", *HEADER), rows)


def comparison_row(one: "Comparison") -> list[str]:
    """One table row for a recogniser, matching `HEADER`."""
    return [
        one.title,
        f"{one.similarity:.3f}",
        "-" if one.threshold is None else f"{one.threshold:.3f}",
        "-" if one.matches is None else "yes" if one.matches else "no",
    ]
