"""Conditions of the score network: emotion, shape of the features, and colour of a face.

One vector per face is added to the U-Net's time embedding (`class_embed_type="identity"`). Every
part can be left out, and a vector of zeros says nothing at all.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from map_pipeline.config import EMOTIONS

POINTS = 68
# Spread of the landmarks between faces, in units of the crop's side: scales inputs to about 1.
SHAPE_SPREAD = 0.02
# Largest mean distance between the colour channels of a picture without colour, [0,1] scale.
GREY_CHROMA = 2 / 255


@dataclass(frozen=True, eq=False)
class Condition:
    """What is known about a batch of B faces; rows of zeros are unknown.

    Attributes:
        emotion: `[B,7]` probabilities in the order of `EMOTIONS`, or zeros.
        shape: `[B,68,2]` landmarks in units of the crop's side.
        has_shape: `[B]` 1 where `shape` is known, else 0.
        grey: `[B]` 1 for pictures without colour.
    """

    emotion: Tensor
    shape: Tensor
    has_shape: Tensor
    grey: Tensor


class FaceConditioner(ModelMixin, ConfigMixin):
    """Maps a `Condition` to the vector that the U-Net takes as its class embedding.

    Args:
        width: of the U-Net's time embedding, see `embedding_width`.
        hidden: width of the hidden layers.

    Buffers:
        mean_shape: `[68,2]` of the training faces, in units of the crop's side.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean_shape", torch.zeros(POINTS, 2))
        self.emotion = nn.Linear(len(EMOTIONS), width, bias=False)
        self.grey = nn.Linear(1, width, bias=False)
        self.shape = mlp(2 * POINTS, hidden, width)

    def forward(self, condition: Condition) -> Tensor:
        """`[B,width]` of a batch of faces."""
        deviation = (condition.shape - self.mean_shape) / SHAPE_SPREAD
        shape = self.shape(deviation.flatten(1).to(self.dtype))
        return (
            self.emotion(condition.emotion.to(self.dtype))
            + self.grey(condition.grey[:, None].to(self.dtype))
            + shape * condition.has_shape[:, None].to(self.dtype)
        )


def describe(crop: Tensor, landmarks68: Tensor | None) -> Condition:
    """The condition of one face as it is: shape and colour, no emotion.

    Args:
        crop: `[1,3,s,s]` RGB in [0,1].
        landmarks68: `[68,2]` crop px, or None if it wasn't found.
    """
    side = crop.shape[-1]
    shape = (
        crop.new_zeros(1, POINTS, 2) if landmarks68 is None else landmarks68[None].to(crop) / side
    )
    return Condition(
        emotion=crop.new_zeros(1, len(EMOTIONS)),
        shape=shape,
        has_shape=crop.new_tensor([float(landmarks68 is not None)]),
        grey=is_grey(crop).to(crop),
    )


def is_grey(crops: Tensor) -> Tensor:
    """`bool [B]` of `[B,3,s,s]` in [0,1]: whether the colour channels are nearly equal."""
    return (crops.amax(1) - crops.amin(1)).mean((1, 2)) <= GREY_CHROMA


def embedding_width(unet: UNet2DModel) -> int:
    """Length of the vector that conditions a U-Net."""
    return unet.config.time_embedding_dim or 4 * unet.config.block_out_channels[0]


def is_conditional(unet: UNet2DModel) -> bool:
    """Whether the U-Net takes a condition vector."""
    return unet.config.class_embed_type == "identity"


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
