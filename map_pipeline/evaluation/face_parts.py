"""Lips, eyelids and cheeks of a face, from its 68 landmarks.

No parsing network is bundled. These parts are where make-up goes, so they are drawn a little
smaller than they are rather than larger: nothing of them lies on brows, teeth or the background.
"""

import torch
from torch import Tensor

from map_pipeline.expression.drawing import polygon_mask, smooth
from map_pipeline.faces.landmarks import EYES, MIRRORED, MOUTH

INNER_MOUTH = slice(60, 68)
# A corner of a polygon lies on the way from one of the 68 landmarks to another, at this share of
# it. Those on the left of the picture; the others are their mirror image.
Corner = tuple[int, int, float]
CHEEK: tuple[Corner, ...] = (
    (1, 36, 0.35),
    (41, 48, 0.3),
    (40, 31, 0.6),
    (31, 48, 0.3),
    (48, 3, 0.35),
    (3, 48, 0.25),
    (2, 31, 0.2),
)
LID: tuple[Corner, ...] = (
    *((point, point, 0.0) for point in (39, 38, 37, 36)),
    (36, 39, -0.25),  # outwards, beyond the eye's corner
    (17, 36, 0.45),
    (18, 37, 0.35),
    (19, 37, 0.35),
    (20, 38, 0.35),
    (21, 39, 0.45),
)
# How soft the borders are: standard deviation in eye distances.
LIP_EDGE, LID_EDGE, CHEEK_EDGE = 0.02, 0.05, 0.1


def lips(landmarks68: Tensor, size: tuple[int, int]) -> Tensor:
    """Both lips without what lies between them, `[1,1,h,w]` in [0,1].

    Args:
        landmarks68: `[68,2]` px; size: (h, w) of the picture. So for all parts.
    """
    soft = _soft(_draw(landmarks68[MOUTH], size), landmarks68, LIP_EDGE)
    return soft * (1 - _draw(landmarks68[INNER_MOUTH], size))


def eyelids(landmarks68: Tensor, size: tuple[int, int]) -> Tensor:
    """Where eye shadow goes: from the upper lids most of the way to the brows, `[1,1,h,w]`."""
    soft = _soft(_both(LID, landmarks68, size), landmarks68, LID_EDGE)
    for eye in EYES:
        soft = soft * (1 - _draw(landmarks68[eye], size))
    return soft


def cheeks(landmarks68: Tensor, size: tuple[int, int]) -> Tensor:
    """Both cheeks, between eye, nose, corner of the mouth and jaw, `[1,1,h,w]` in [0,1]."""
    return _soft(_both(CHEEK, landmarks68, size), landmarks68, CHEEK_EDGE)


def eye_distance(landmarks68: Tensor) -> float:
    """Distance between the middles of the eyes of `[68,2]` px, at least 1."""
    left, right = (landmarks68[eye].mean(0) for eye in EYES)
    return max(float((right - left).norm()), 1.0)


def _both(corners: tuple[Corner, ...], landmarks68: Tensor, size: tuple[int, int]) -> Tensor:
    sides = (landmarks68, landmarks68[torch.from_numpy(MIRRORED)])
    drawn = [
        _draw(torch.stack([torch.lerp(side[a], side[b], share) for a, b, share in corners]), size)
        for side in sides
    ]
    return torch.maximum(*drawn)


def _draw(points: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return polygon_mask(points, max(size))[..., :height, :width]


def _soft(mask: Tensor, landmarks68: Tensor, edge: float) -> Tensor:
    return smooth(mask, edge * eye_distance(landmarks68))
