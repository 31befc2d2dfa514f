"""One detected face, and how it lies in a photo that is turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from map_pipeline.faces.boxes import is_nested

MIN_FACE_SIDE = 40  # px, shorter side of the box; below, too little of a face is there to change
MAX_NESTED_ROLL = 60  # degrees between two heads of which one may be before the other
# Where one looks hard enough, some more is always found in curls, ears, cats and patterns. So faces
# that are turned, close to another or found by a further look must be surer than other ones; 98 of
# 100 are.
SURE_UNCERTAINTY = 0.05
# Two sets of landmarks lie on one head if their middles are nearer than this, in distances between
# the eyes, and their sizes differ by less than this factor. Heads that both show their eyes and
# mouth are more than 1 apart.
SAME_HEAD_DISTANCE = 0.7
SAME_HEAD_FACTOR = 2.0

FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face."""

    box: FourNumbers
    """x0, y0, x1, y1 in photo px."""
    landmarks: np.ndarray
    """float32 `[5, 2]` photo px: eyes, nose tip, mouth corners; of each pair first the one that is
    on the left when the face is upright."""
    score: float
    """Confidence of the detector in [0, 1]."""
    landmarks68: np.ndarray | None = None
    """float32 `[68, 2]` photo px in iBUG order, if the detector knows them."""
    uncertainty: float = 0.0
    """How much the 68 landmarks disagree with their mirror image, in distances between the eyes."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the box, px."""
        x0, y0, x1, y1 = self.box
        return x1 - x0, y1 - y0

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes, px."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    @property
    def roll(self) -> float:
        """Direction from the left to the right eye, degrees clockwise; 0 for an upright face."""
        x, y = (self.landmarks[1] - self.landmarks[0]).tolist()
        return math.degrees(math.atan2(y, x))

    @property
    def turns(self) -> int:
        """Quarter turns, 0 to 3, of `np.rot90` that put the face upright to within 45 degrees."""
        return round(self.roll / 90) % 4


def turn_face(face: Face, turns: int, photo: np.ndarray) -> Face:
    """The face of a photo `[H, W, 3]` as it lies in `np.rot90(photo, turns)`."""
    height, width = photo.shape[:2]
    landmarks68 = face.landmarks68
    return replace(
        face,
        box=turn_box(face.box, turns, width, height),
        landmarks=_turn_points(face.landmarks, turns, width, height),
        landmarks68=(
            None if landmarks68 is None else _turn_points(landmarks68, turns, width, height)
        ),
    )


def turn_box(box: Sequence[float], turns: int, width: int, height: int) -> FourNumbers:
    """A box x0, y0, x1, y1 of a photo of this size as it lies in `np.rot90(photo, turns)`."""
    x0, y0, x1, y1 = box
    for _ in range(turns % 4):
        x0, y0, x1, y1 = y0, width - x1, y1, width - x0
        width, height = height, width
    return x0, y0, x1, y1


def _turn_points(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    for _ in range(turns % 4):
        points = np.stack([points[:, 1], width - 1 - points[:, 0]], 1)
        width, height = height, width
    return points.astype(np.float32)


def roll_between(one: Face, other: Face) -> float:
    """Angle between two faces, degrees in [0, 180]."""
    return abs((one.roll - other.roll + 180) % 360 - 180)


def biggest_first(faces: Sequence[Face]) -> list[Face]:
    """The faces by the area of their boxes."""
    return sorted(faces, key=lambda face: face.size[0] * face.size[1], reverse=True)


def same_head(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sets of landmarks `[5, 2]` px lie on one head, if perhaps on other features."""
    sizes = [
        float(np.linalg.norm(points - points.mean(0), axis=1).mean()) for points in (one, other)
    ]
    eyes = np.mean([np.linalg.norm(points[1] - points[0]) for points in (one, other)])
    apart = np.linalg.norm(one.mean(0) - other.mean(0))
    return bool(
        apart < SAME_HEAD_DISTANCE * eyes and max(sizes) < SAME_HEAD_FACTOR * max(min(sizes), 1e-3)
    )


def distinct_faces(faces: Sequence[Face]) -> list[Face]:
    """Of the faces of each head the surest one; biggest first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (face.uncertainty, -face.score)):
        if not any(_are_one(face, other) for other in kept):
            kept.append(face)
    return biggest_first(kept)


def _are_one(face: Face, other: Face) -> bool:
    """Landmarks that are upside down may share the eyes of the right ones, with the mouth above."""
    nested = is_nested(np.array(face.box), np.array([other.box])).any()
    turned = nested and roll_between(face, other) > MAX_NESTED_ROLL
    return bool(turned or same_head(face.landmarks, other.landmarks))
