"""How a head is turned in one photo beside another, and a face's shape as it would be without that.

A turned head moves the points of a face just as an expression does. The mesh has a depth, so that a
rotation can be separated from what a face does, by the parts of it that no expression moves.
"""

import torch
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS

# Points of the mesh on the forehead, the temples, the nose, and the corners of the eyes.
RIGID = (
    *(10, 338, 297, 332, 284, 251, 109, 67, 103, 54, 21, 162, 127, 356, 389, 151, 9, 8),
    *(168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 33, 133, 263, 362),
)
# Up to this angle, in radians (8 degrees), a turn isn't undone: depths are guesses, and small turns
# belong to expressions.
FREE = 0.14
NEIGHBOURS, NEAREST = 3, 0.005  # of the mesh, for the depth of a landmark; the second of the side


def without_turn(shape: Tensor, depth: Tensor, like: Tensor, like_depth: Tensor) -> Tensor:
    """A face's shape `[536,2]` with its head turned nearly as that of another photo.

    Args:
        shape: `[536,2]` landmarks and mesh, px; depth: `[468]` px of the mesh.
        like, like_depth: the same of the other photo.
    """
    turn = rotation(
        torch.cat([shape[POINTS:], depth[:, None]], 1)[list(RIGID)],
        torch.cat([like[POINTS:], like_depth[:, None]], 1)[list(RIGID)],
    )
    axis, angle = axis_of(turn)
    back = about(axis, max(angle - FREE, 0.0))
    points = torch.cat([shape, torch.cat([landmark_depth(shape, depth), depth])[:, None]], 1)
    return (points @ back.T)[:, :2]


def rotation(points: Tensor, others: Tensor) -> Tensor:
    """The rotation `[3,3]` of the similarity that best brings points `[N,3]` to others `[N,3]`.

    Umeyama 1991, https://doi.org/10.1109/34.88573.
    """
    centred, wanted = points - points.mean(0), others - others.mean(0)
    left, _, right = torch.linalg.svd(wanted.T @ centred)
    proper = torch.ones(3)
    proper[2] = torch.det(left @ right).sign()
    return left @ proper.diag() @ right


def axis_of(turn: Tensor) -> tuple[Tensor, float]:
    """Axis `[3]` of length 1 and angle in [0,pi) of a rotation `[3,3]`."""
    skew = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    length = skew.norm()
    angle = float(torch.atan2(length, turn.trace() - 1))
    return skew / length.clamp(min=1e-9), angle


def about(axis: Tensor, angle: float) -> Tensor:
    """The rotation `[3,3]` about an axis `[3]` of length 1 by an angle in radians."""
    x, y, z = axis.tolist()
    return torch.matrix_exp(angle * torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


def landmark_depth(shape: Tensor, depth: Tensor) -> Tensor:
    """Depth `[68]` of the landmarks, px: that of the mesh around each."""
    landmarks, mesh = shape[:POINTS], shape[POINTS:]
    distance, index = torch.cdist(landmarks, mesh).topk(NEIGHBOURS, dim=1, largest=False)
    side = (mesh.amax(0) - mesh.amin(0)).max()
    weights = 1 / (distance + NEAREST * side)
    return (depth[index] * weights).sum(1) / weights.sum(1)
