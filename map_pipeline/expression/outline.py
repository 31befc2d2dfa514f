"""Where a face ends: paint beyond it is a halo on the background or a patch at the hairline."""

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.drawing import polygon_mask, smooth

JAW, BROWS, EYES, MOUTH = slice(0, 17), slice(17, 27), slice(36, 48), slice(48, 68)
FOREHEAD = 0.75  # how far it reaches above the brows, in distances of eyes and mouth
# How far within the outline the middle of the fade lies, and its deviation, of the side.
MARGIN, FADE = 1 / 64, 1 / 50


def within_outline(landmarks68: Tensor, size: int) -> Tensor:
    """How much of a change is kept where: hardly anything beyond jaw, temples
    and forehead.

    Args:
        landmarks68: `[68,2]` crop px.
        size: side of the crop, px.

    Returns:
        `[1,1,size,size]` in [0,1].
    """
    points = landmarks68.float()
    upwards = points[EYES].mean(0) - points[MOUTH].mean(0)
    forehead = points[BROWS].flip(0) + FOREHEAD * upwards
    face = polygon_mask(torch.cat([points[JAW], forehead]).cpu(), size)
    reach = max(round(MARGIN * size), 1)
    inner = -F.max_pool2d(-face, 2 * reach + 1, 1, reach)
    return smooth(inner, FADE * size).clamp(0, 1)


def outlines(landmarks68: Tensor, known: Tensor, size: int) -> Tensor:
    """`within_outline` of many faces, `[N,1,size,size]`; 1 everywhere without landmarks.

    Args:
        landmarks68: `[N,68,2]` crop px; known: bool `[N]`.
    """
    everywhere = torch.ones(1, 1, size, size)
    return torch.cat(
        [
            within_outline(points, size) if found else everywhere
            for points, found in zip(landmarks68.cpu(), known.tolist(), strict=True)
        ]
    )
