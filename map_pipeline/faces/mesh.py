"""The 468 points of MediaPipe's face mesh, denser than the 68 landmarks: cheeks, forehead, lips.

Kartynnik et al. 2019, https://arxiv.org/abs/1907.06724; the order of the points is that of
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/modules/face_geometry/data.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from map_pipeline.faces.align import (
    affine_scale,
    apply_affine,
    invert_affine,
    similarity_transform,
    warp_affine,
)
from map_pipeline.graph.executor import GraphNetwork

MESH_POINTS = 468
# Loops of points, in the order of a polygon.
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
LEFT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
RIGHT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
INNER_LIPS = (
    *(78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    *(324, 318, 402, 317, 14, 87, 178, 88, 95),
)
MOUTH_CORNERS = (61, 291)
LIPS_MIDDLE = (13, 14)  # of the upper and of the lower lip, inside


class FaceMesh(ModelMixin, ConfigMixin):
    """The mesh network with its alignment.

    Args:
        nodes: the network, see `map_pipeline.graph.executor`.
        input_size: side of the aligned crop, px.
        template: `[5][2]`, where eyes, nose tip and mouth corners lie in the crop, px.
        licence: licence of the weights.
        source: package and file they were converted from.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(
        self,
        nodes: Sequence[dict[str, Any]],
        input_size: int,  # noqa: ARG002 (read from self.config)
        template: Sequence[Sequence[float]],  # noqa: ARG002
        licence: str = "",  # noqa: ARG002
        source: str = "",  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.network = GraphNetwork(nodes)

    @torch.no_grad()
    def find(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """The points `[B,468,2]`, px of the images; what lies beyond a picture is guessed.

        Args:
            images: `[B,3,H,W]` in [0,1], of about the network's own resolution.
            landmarks: `[B,5,2]` px: eyes, nose tip, mouth corners.
        """
        return self.find_in_depth(images, landmarks)[..., :2]

    @torch.no_grad()
    def find_in_depth(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """The points with their depth as third coordinate, `[B,468,3]` px, see `find`."""
        template = torch.tensor(self.config.template).to(images.device)
        to_image = invert_affine(similarity_transform(landmarks.to(template), template))
        size = (self.config.input_size, self.config.input_size)
        crops = warp_affine(images.float(), to_image, size, "border")
        points = self.network(crops.to(self.dtype)).float().view(-1, MESH_POINTS, 3)
        scale = affine_scale(to_image)[:, None, None]
        return torch.cat([apply_affine(to_image, points[..., :2]), points[..., 2:] * scale], -1)
