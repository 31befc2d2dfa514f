"""The networks that `train prior` trains: a U-Net and its conditioner."""

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.conditioner import (
    Condition,
    FaceConditioner,
    embedding_width,
    is_conditional,
)
from map_pipeline.diffusion.unet import predict_noise
from map_pipeline.errors import UnknownOptionError
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.faces import FaceSet

GROUPS = 16  # of the group normalisation


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of the bundled networks."""
    return DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="leading",
    )


def new_unet(config: PriorConfig, size: int) -> UNet2DModel:
    """A conditional U-Net with random weights for crops of `size` px; attention at the coarsest.

    Raises:
        UnknownOptionError: crops or channels that can't be divided as the settings ask.
    """
    coarser = len(config.channels) - 1
    unit = config.patch * 2**coarser
    if size % unit:
        raise UnknownOptionError(
            f"`channels` and `patch` must divide the crops: {len(config.channels)} levels of "
            f"{config.patch}-px patches need a multiple of {unit} px, got {size} px."
        )
    if any(count % GROUPS for count in config.channels):
        raise UnknownOptionError(
            f"`channels` must be multiples of {GROUPS}, got {list(config.channels)}."
        )
    return UNet2DModel(
        sample_size=size // config.patch,
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * coarser + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * coarser,
        attention_head_dim=32,
        norm_num_groups=GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        freq_shift=0,
    )


def new_conditioner(config: PriorConfig, training: FaceSet, unet: UNet2DModel) -> FaceConditioner:
    """A conditioner with random weights that knows the mean shape of the training faces."""
    conditioner = FaceConditioner(embedding_width(unet), config.hidden)
    known = training.landmarks68[training.has_landmarks]
    if len(known):
        conditioner.mean_shape.copy_(known.mean(0))
    return conditioner


class ScoreModel(torch.nn.Module):
    """U-Net and conditioner as one module, so that they are trained and averaged together."""

    def __init__(self, unet: UNet2DModel, conditioner: FaceConditioner) -> None:
        super().__init__()
        self.unet = unet
        self.conditioner = conditioner

    def forward(self, latents: Tensor, level: Tensor, condition: Condition, keep: Tensor) -> Tensor:
        """Predicted noise; `keep` `[B]` is 0 where the whole condition is left out."""
        if not is_conditional(self.unet):
            return predict_noise(self.unet, latents, level)
        condition = self.conditioner(condition) * keep[:, None]
        return predict_noise(self.unet, latents, level, condition)
