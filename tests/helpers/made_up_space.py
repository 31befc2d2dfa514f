"""A made-up space of expressions whose axes are known, with a mesh network and a mouth painter."""

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.action_units import displacement_of
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.mesh import FaceMesh
from map_pipeline.hub import bundled_checkpoint

AXES = ("smile", "mouth_open", "brows_up", "lip_corners_down")
SMILE, OPEN, BROWS, DOWN = range(len(AXES))
HAPPY, SAD, SURPRISE, NEUTRAL = map(EMOTIONS.index, ("happy", "sad", "surprise", "neutral"))
SHADING_SIDE = 32
CHEEK = (0.28, 0.62)  # of the side, where a smile's shading is
CHEEK_WIDTH, CHEEK_SHADING = 0.08, -0.4
SKIN_REACH = 0.06  # of the side, standard deviation with which mesh points follow landmarks


def mean_face() -> Tensor:
    """A plausible neutral face `[536,2]` in units of the crop's side: that of the shipped space."""
    space = ExpressionSpace.from_pretrained(bundled_checkpoint() / "expression_space")
    return space.mean.clone()


def axis_motions(mean: Tensor) -> Tensor:
    """What a unit of each of `AXES` moves, `[4,536,2]`; the mesh follows the landmarks nearby."""
    landmarks = torch.stack([displacement_of(name, 1.0) for name in AXES])
    near = (-(torch.cdist(mean[POINTS:], mean[:POINTS]) / SKIN_REACH).square()).exp()
    shares = near / (near.sum(1, keepdim=True) + 0.1)
    return torch.cat([landmarks, shares @ landmarks], 1)


def cheek_map() -> Tensor:
    """`[S,S]`: a dark spot on one cheek."""
    axis = (torch.arange(SHADING_SIDE) + 0.5) / SHADING_SIDE
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    distance = (x - CHEEK[0]) ** 2 + (y - CHEEK[1]) ** 2
    return CHEEK_SHADING * (-distance / (2 * CHEEK_WIDTH**2)).exp()


def tiny_space() -> ExpressionSpace:
    """Axes as in `AXES`; a smile also darkens a cheek. All that is seen counts as expression."""
    space = ExpressionSpace(len(AXES), motion_count=2, shading_side=SHADING_SIDE)
    space.mean.copy_(mean_face())
    space.moving.copy_(axis_motions(space.mean))
    space.reading.copy_(torch.linalg.pinv(space.moving.flatten(1)).T)
    space.shading[SMILE] = cheek_map()
    space.estimator.copy_(torch.eye(len(AXES)))
    space.emotions[HAPPY, SMILE] = 1.5
    space.emotions[SURPRISE, [OPEN, BROWS]] = torch.tensor([1.0, 0.5])
    space.emotions[SAD, DOWN] = 1.5
    space.motions.copy_(space.moving[[SMILE, DOWN], :POINTS] / 2)
    return space.eval()


def tiny_mesh(size: int = 64) -> FaceMesh:
    """Sees the mean face in every picture, where eyes, nose tip and mouth corners say."""
    points = mean_face() * size
    nodes = [
        {"name": "pool", "op": "average_pool", "inputs": ["input"], "kernel": size, "stride": size},
        {"name": "flat", "op": "flatten", "inputs": ["pool"]},
        {
            "name": "out",
            "op": "linear",
            "inputs": ["flat"],
            "in_features": 3,
            "out_features": 3 * (len(points) - POINTS),
        },
    ]
    mesh = FaceMesh(nodes, size, five_points(points[:POINTS].numpy()).tolist())
    weight, bias = sorted(mesh.parameters(), key=torch.Tensor.dim, reverse=True)
    torch.nn.init.zeros_(weight)
    with torch.no_grad():
        bias.copy_(F.pad(points[POINTS:], [0, 1]).flatten())
    return mesh.eval()


def tiny_mouth_painter() -> UNet2DModel:
    """A mouth painter with random weights."""
    return UNet2DModel(
        sample_size=(24, 36),
        in_channels=28,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    ).eval()
