"""Further looks at a photo in which a detector that wants upright faces finds too little.

A photo without a face is looked at again: with a margin around it, since a detector hardly knows
faces that fill the whole frame, mirrored, and with its contrast stretched; then lying on its sides
and upside down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from map_pipeline.faces.face import (
    SURE_UNCERTAINTY,
    Face,
    FourNumbers,
    distinct_faces,
    turn_face,
)
from map_pipeline.faces.landmarks import MIRRORED

Find = Callable[[np.ndarray], list[Face]]
"""Finds the upright faces of a photo uint8 RGB `[H, W, 3]`."""

MARGIN = 0.4  # around a second look, as a share of the longer side
MARGIN_GREY = 127
# What the bundled detector must give to odd faces. Heads of children before adults reach .99, true
# faces of a second look in odd light or half turned away .94; an eye, a mouth or a lock of hair
# less in half of the cases. SCRFD's scores are lower.
GOOD_SCORE = 0.9
# Second looks are for faces that fill the photo; small ones were seen well enough by the first.
SECOND_LOOK_SIDE = 480
SIDEWAYS_AND_DOWN = (1, 3, 2)  # quarter turns; people lie down more often than they hang
MIRRORED_FIVE = [1, 0, 2, 4, 3]


def search(find: Find, photo: np.ndarray, rotate: bool = False) -> list[Face]:
    """Find the faces of a photo, biggest first; a photo without upright ones is looked at again.

    Args:
        find: finds upright faces.
        photo: uint8 RGB `[H, W, 3]`.
        rotate: look for turned faces also where upright ones are found; takes four times as long.
    """
    faces = find(photo) or _look_again(find, photo)
    if rotate or not faces:
        turned = [face for turns in SIDEWAYS_AND_DOWN for face in _find_turned(find, photo, turns)]
        faces = distinct_faces([*faces, *turned])
    if not faces:
        again = partial(_look_again, find)
        found = (_find_turned(again, photo, turns) for turns in SIDEWAYS_AND_DOWN)
        faces = next((one for one in found if one), [])
    return faces


def _find_turned(find: Find, photo: np.ndarray, turns: int) -> list[Face]:
    """The faces that are upright after so many quarter turns of the photo, as they lie in it."""
    turned = np.ascontiguousarray(np.rot90(photo, turns))
    sure = [face for face in find(turned) if _has_good_score(face) and _has_sure_landmarks(face)]
    return [turn_face(face, 4 - turns, turned) for face in sure]


def _look_again(find: Find, photo: np.ndarray) -> list[Face]:
    """What the first of the second looks finds that finds anything."""
    height, width = photo.shape[:2]
    scale = min(SECOND_LOOK_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
    for look, mirrored in _second_looks(small):
        faces = _find_with_margin(find, look)
        if faces:
            if mirrored:
                faces = [_mirror(face, size[0]) for face in faces]
            enlarged = [scale_face(face, (width / size[0], height / size[1])) for face in faces]
            return [replace(face, box=_clip(face.box, width, height)) for face in enlarged]
    return []


def _second_looks(photo: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """A photo as it is, mirrored, and with its contrast stretched; and whether it's mirrored."""
    yield photo, False
    yield np.ascontiguousarray(photo[:, ::-1]), True
    stretched = ImageOps.autocontrast(Image.fromarray(photo), cutoff=1, preserve_tone=True)
    yield np.asarray(stretched), False


def _find_with_margin(find: Find, photo: np.ndarray) -> list[Face]:
    height, width = photo.shape[:2]
    margin = round(MARGIN * max(height, width))
    around = ((margin, margin), (margin, margin), (0, 0))
    framed = np.pad(photo, around, constant_values=MARGIN_GREY)
    faces = [_shift(face, -margin) for face in find(framed)]
    clipped = [replace(face, box=_clip(face.box, width, height)) for face in faces]
    return [
        face
        for face in clipped
        if min(face.size) > 0 and (_has_good_score(face) or _has_sure_landmarks(face))
    ]


def _has_good_score(face: Face) -> bool:
    return face.landmarks68 is None or face.score >= GOOD_SCORE


def _has_sure_landmarks(face: Face) -> bool:
    return face.uncertainty <= SURE_UNCERTAINTY


def _clip(box: FourNumbers, width: int, height: int) -> FourNumbers:
    x0, y0, x1, y1 = box
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _shift(face: Face, by: float) -> Face:
    x0, y0, x1, y1 = (corner + by for corner in face.box)
    return _replace(face, (x0, y0, x1, y1), lambda points: points + by)


def _mirror(face: Face, width: int) -> Face:
    """The face in the mirror image of a photo of this width."""
    x0, y0, x1, y1 = face.box
    flipped = _replace(
        face, (width - x1, y0, width - x0, y1), lambda points: points * [-1, 1] + [width - 1, 0]
    )
    landmarks68 = flipped.landmarks68
    return replace(
        flipped,
        landmarks=flipped.landmarks[MIRRORED_FIVE],
        landmarks68=None if landmarks68 is None else landmarks68[MIRRORED],
    )


def scale_face(face: Face, scale: tuple[float, float]) -> Face:
    """The face in the same photo of another size, `scale` (x, y) times as large."""
    x0, y0, x1, y1 = (float(v) for v in np.multiply(face.box, scale * 2))
    return _replace(face, (x0, y0, x1, y1), lambda points: (points + 0.5) * scale - 0.5)


def _replace(face: Face, box: FourNumbers, move: Callable[[np.ndarray], np.ndarray]) -> Face:
    landmarks68 = None if face.landmarks68 is None else move(face.landmarks68).astype(np.float32)
    landmarks = move(face.landmarks).astype(np.float32)
    return replace(face, box=box, landmarks=landmarks, landmarks68=landmarks68)
