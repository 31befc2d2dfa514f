"""The proportions of a face: how far apart, how high and how large its features are.

Each feature moves as a whole, so eyes stay eyes and brows stay in one piece; people judge a face by
the shape of its features and hardly notice a hundredth more between them. Both sides do the same.
The outline of the head isn't among them, nor how steep eyes and brows are, which reads as a mood,
nor the mouth, which shows the expression.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of the 68 landmarks.
LEFT_BROW, RIGHT_BROW = range(17, 22), range(22, 27)
LEFT_EYE, RIGHT_EYE = range(36, 42), range(42, 48)
NOSE, NOSTRILS, BRIDGE, NOSE_BASE = range(27, 36), range(31, 36), 27, 33
# Eyes get larger or smaller by less than half of what the other features move: one sees it first.
# Brows move by less, too, as some of what they do reads as anger or doubt beside a smile.
LARGER_EYES, BROWS = 0.4, 0.6
PROPORTIONS = (
    "eyes apart",
    "eyes lower",
    "eyes larger",
    "brows apart",
    "brows lower",
    "brows flatter",
    "nose longer",
    "nose wider",
)


def proportions(shapes: Tensor, middle: float) -> Tensor:
    """How landmarks move when a proportion grows, `[B,P,68,2]`; by 1 at most.

    Args:
        shapes: `[B,68,2]` landmarks in the upright frame.
        middle: x of the face's middle line in that frame.
    """
    eyes = _about_centres(shapes, LEFT_EYE, RIGHT_EYE)
    brows = _about_centres(shapes, LEFT_BROW, RIGHT_BROW)[..., 0]
    across = shapes[..., 0] - middle
    top, base = (shapes[:, point, 1:] for point in (BRIDGE, NOSE_BASE))
    along_nose = ((shapes[..., 1] - top) / (base - top).clamp(min=1e-3)).clamp(0, 1)
    outwards = torch.where(across < 0, -1.0, 1.0).to(shapes)
    outwards[:, [*LEFT_EYE, *LEFT_BROW]], outwards[:, [*RIGHT_EYE, *RIGHT_BROW]] = -1.0, 1.0
    both_eyes, both_brows = (*LEFT_EYE, *RIGHT_EYE), (*LEFT_BROW, *RIGHT_BROW)
    none, all_alike = torch.zeros_like(across), torch.ones_like(across)
    moves: dict[str, tuple[Sequence[int], Tensor, Tensor]] = {
        "eyes apart": (both_eyes, outwards, none),
        "eyes lower": (both_eyes, none, all_alike),
        "eyes larger": (both_eyes, LARGER_EYES * eyes[..., 0], LARGER_EYES * eyes[..., 1]),
        "brows apart": (both_brows, BROWS * outwards, none),
        "brows lower": (both_brows, none, BROWS * all_alike),
        "brows flatter": (both_brows, none, BROWS * (1 - 2 * brows.square())),
        "nose longer": (NOSE, none, along_nose),
        "nose wider": (NOSTRILS, _up_to_one(across, NOSTRILS), none),
    }
    moved = torch.zeros_like(shapes)[:, None].repeat(1, len(PROPORTIONS), 1, 1)
    for number, name in enumerate(PROPORTIONS):
        points, right, down = moves[name]
        moved[:, number, list(points)] = torch.stack([right, down], 2)[:, list(points)]
    return moved


def _about_centres(shapes: Tensor, *groups: range) -> Tensor:
    """`[B,68,2]`: places within their group, where its ends are at x of -1 and 1; else 0."""
    about = torch.zeros_like(shapes)
    for group in groups:
        part = shapes[:, list(group)]
        offset = part - part.mean(1, keepdim=True)
        reach = offset[..., 0].abs().amax(1).clamp(min=1e-3)
        about[:, list(group)] = (offset / reach[:, None, None]).clamp(-1, 1)
    return about


def _up_to_one(values: Tensor, group: range) -> Tensor:
    """Values `[B,68]` in units of the greatest one within a group."""
    return values / values[:, list(group)].abs().amax(1, keepdim=True).clamp(min=1e-3)
