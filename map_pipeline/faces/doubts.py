"""Places of a photo where somebody may be whom the face detector left out.

People who lie on their side, hang upside down or show a profile are easily missed beside upright
faces. This look is coarse and at boxes only, so it costs some 20 ms and no landmarks; what it finds
is reported, not protected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from map_pipeline.faces.boxes import BoxFinder, box_area, intersection, shrink, suppress_overlaps
from map_pipeline.faces.detect import MAX_FACES
from map_pipeline.faces.face import Face, FourNumbers, turn_box

LOOK_SIDE = 480  # px, longer side of the photo as it's looked at
# Turned and half hidden faces mostly get 0.95 to 1.
MIN_SCORE = 0.9
# Boxes that share more of their area with a found face are of that face. With both limits nothing
# is doubtful in 356 photos of one person each; 0.6 would be wrong in two of them.
MAX_SHARED = 0.45


class DoubtFinder:
    """Looks for faces at four turns of a photo; safe to share between threads."""

    def __init__(self) -> None:
        self._boxes = BoxFinder()

    def find(self, photo: np.ndarray, faces: Sequence[Face]) -> list[FourNumbers]:
        """Boxes (x0, y0, x1, y1 photo px) of what may be more faces than `faces`.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            faces: what was found in it.
        """
        found = [self._find_reduced(photo, turns) for turns in range(4)]
        if len(faces) >= MAX_FACES:  # a crowd, of which the detector looks at the biggest only
            found.append(self._boxes.find(photo))
        boxes = np.concatenate([boxes for boxes, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        known = np.array([face.box for face in faces]).reshape(-1, 4)
        unknown = [
            index
            for index in suppress_overlaps(boxes, scores)
            if scores[index] >= MIN_SCORE and not _is_known(boxes[index], known)
        ]
        corners = [tuple(boxes[index].tolist()) for index in unknown]
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in corners]

    def _find_reduced(self, photo: np.ndarray, turns: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes `[N, 4]`, photo px, and scores `[N]` of what is upright after these turns."""
        height, width = photo.shape[:2]
        scale = min(LOOK_SIDE / max(height, width), 1.0)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = shrink(photo, size)
        turned = np.ascontiguousarray(np.rot90(small, turns))
        boxes, scores = self._boxes.find(turned)
        corners = [turn_box(box, -turns, *turned.shape[1::-1]) for box in boxes.tolist()]
        found = np.array(corners, np.float64).reshape(-1, 4)
        return found * np.tile([width / size[0], height / size[1]], 2), scores


def _is_known(box: np.ndarray, known: np.ndarray) -> bool:
    return bool((intersection(box, known) > MAX_SHARED * box_area(box)).any())
