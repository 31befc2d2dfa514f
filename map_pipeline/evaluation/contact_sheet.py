"""Photos before and after on one sheet, cut to the part that was changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from map_pipeline.errors import InvalidImageError
from map_pipeline.evaluation.results import PhotoRow
from map_pipeline.images import load_image, to_array

PHOTOS, METHODS = 12, 7  # on one sheet, at most
CELL, GAP = 240, 12  # px
MARGIN = 1.25  # of the changed part: enough of the surroundings to judge it
NAME_LENGTH = 14  # letters


@dataclass(frozen=True, eq=False)
class Sheet:
    """A grid of pictures and its labels.

    Attributes:
        picture: `uint8 [rows * cell, columns * cell, 3]`, white where nothing is.
        cell: side of a square with one picture, px.
        rows: names of the photos; columns: "original" and names of methods.
        notes: (row, column) -> why there is no picture.
    """

    picture: np.ndarray
    cell: int
    rows: Sequence[str]
    columns: Sequence[str]
    notes: Mapping[tuple[int, int], str]


def compose(methods: Sequence[str], photos: Sequence[PhotoRow], folder: Path) -> Sheet | None:
    """Lay out the first `PHOTOS` photos and `METHODS` methods; None if there is no picture.

    Args:
        photos: rows of `photos.csv`.
        folder: `photos/` of the run, with `source/NAME.png` and `METHOD/NAME[.without_X].png`.
    """
    methods = methods[:METHODS]
    sources = list(islice(_sources(photos, folder), PHOTOS))
    if not sources or not methods:
        return None
    cell = CELL + GAP
    picture = np.full((len(sources) * cell, (len(methods) + 1) * cell, 3), 255, np.uint8)
    notes: dict[tuple[int, int], str] = {}
    for row, (name, source) in enumerate(sources):
        results = [_protected(photos, folder, name, method) for method in methods]
        same_size = [r for r in results if not isinstance(r, str) and r.shape == source.shape]
        box = changed_box(source, same_size)
        for column, content in enumerate([source, *results]):
            if isinstance(content, str):
                notes[row, column] = content
            else:
                _place(picture, _cut(content, box), row * cell + GAP // 2, column * cell + GAP // 2)
    names = [_short(name) for name, _ in sources]
    return Sheet(picture, cell, names, ["original", *methods], notes)


def changed_box(source: np.ndarray, results: Sequence[np.ndarray]) -> tuple[int, int, int, int]:
    """A square x0, y0, x1, y1 in px around everything that any result changed, with a margin.

    Args:
        source: `uint8 [H,W,3]`; results: the same shape. The whole photo if nothing changed.
    """
    height, width = source.shape[:2]
    changed = np.zeros((height, width), dtype=bool)
    for result in results:
        changed |= (source != result).any(axis=2)
    if not changed.any():
        return 0, 0, width, height
    columns, rows = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
    extent = 1 + max(columns[-1] - columns[0], rows[-1] - rows[0])
    side = min(round(MARGIN * extent), width, height)
    x0 = min(max((columns[0] + columns[-1] + 1 - side) // 2, 0), width - side)
    y0 = min(max((rows[0] + rows[-1] + 1 - side) // 2, 0), height - side)
    return int(x0), int(y0), int(x0 + side), int(y0 + side)


def _sources(photos: Sequence[PhotoRow], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and original of the photos whose original is in the folder."""
    for name in dict.fromkeys(row.photo for row in photos):
        source = _read(folder / "source" / f"{name}.png")
        if source is not None:
            yield name, source


def _protected(
    photos: Sequence[PhotoRow], folder: Path, name: str, method: str
) -> np.ndarray | str:
    """The first protected version of a photo, or why there is none."""
    status = "not run"
    for row in photos:
        if row.photo == name and row.method == method:
            suffix = f".without_{row.left_out}" if row.left_out else ""
            picture = _read(folder / method / f"{name}{suffix}.png")
            if picture is not None:
                return picture
            status = "file missing" if row.status == "ok" else "failed"
    return status


def _cut(photo: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a photo in `box`, at most `CELL` px a side."""
    picture = Image.fromarray(photo).crop(box)
    scale = CELL / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _place(sheet: np.ndarray, picture: np.ndarray, top: int, left: int) -> None:
    """Copy a picture into the middle of its cell, whose inner corner is at top, left."""
    height, width = picture.shape[:2]
    y, x = top + (CELL - height) // 2, left + (CELL - width) // 2
    sheet[y : y + height, x : x + width] = picture


def _read(path: Path) -> np.ndarray | None:
    try:
        return to_array(load_image(path))
    except InvalidImageError:
        return None


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
