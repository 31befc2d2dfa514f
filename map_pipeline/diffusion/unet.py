"""The score network's U-Net: pixel patches in and out, noise prediction, the layers trained.

Faces of 128 px enter the U-Net as `p x p` patches folded into channels (`in_channels = 3 p^2`);
p = 1 is an ordinary pixel-space U-Net such as google/ddpm-celebahq-256.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from map_pipeline.diffusion.conditioner import embedding_width, is_conditional
from map_pipeline.errors import UnknownOptionError

# Levels of the U-Net with at most so many positions a side are fine-tuned. Finer ones stay frozen:
# training them prints the patch grid, or noise, on the face.
TRAINED_SIDE = 16


def patch_size(unet: UNet2DModel) -> int:
    """Side of the pixel patches that the U-Net takes as channels, in px."""
    return math.isqrt(unet.config.in_channels // 3)


def crop_size(unet: UNet2DModel) -> int:
    """Side of the face crop that the U-Net was trained on, in px."""
    return unet.config.sample_size * patch_size(unet)


def deep_blocks(unet: UNet2DModel) -> list[nn.Module]:
    """The blocks that fine-tuning changes."""
    depth = len(unet.down_blocks)
    frozen = sum(unet.config.sample_size >> level > TRAINED_SIDE for level in range(depth))
    frozen = min(max(frozen, 1), depth - 1)
    return [*unet.down_blocks[frozen:], unet.mid_block, *unet.up_blocks[: depth - frozen]]


def deep_layers(unet: UNet2DModel) -> dict[str, nn.Linear | nn.Conv2d]:
    """Name -> layer, all linear layers and convolutions of `deep_blocks`."""
    deep = {id(module) for block in deep_blocks(unet) for module in block.modules()}
    return {
        name: module
        for name, module in unet.named_modules()
        if id(module) in deep and isinstance(module, nn.Linear | nn.Conv2d)
    }


def trainable_parameters(unet: UNet2DModel) -> tuple[list[nn.Parameter], list[int]]:
    """Unfreeze the deep blocks of `unet`; return their parameters and each one's layer index."""
    parameters: list[nn.Parameter] = []
    layers: list[int] = []
    count = 0
    for block in deep_blocks(unet):
        for module in block.modules():
            own = list(module.parameters(recurse=False))
            if own:
                for parameter in own:
                    parameter.requires_grad_(True)
                parameters += own
                layers += [count] * len(own)
                count += 1
    return parameters, layers


def patchify(crop: Tensor, patch: int) -> Tensor:
    """Fold `[B,3,H,W]` in [0,1] into `[B,3p^2,H/p,W/p]` in [-1,1]."""
    return F.pixel_unshuffle(crop * 2 - 1, patch)


def unpatchify(latents: Tensor, patch: int) -> Tensor:
    """Inverse of `patchify`; values are not clipped."""
    return (F.pixel_shuffle(latents, patch) + 1) / 2


def predict_noise(
    unet: UNet2DModel, latents: Tensor, timestep: Tensor | int, condition: Tensor | None = None
) -> Tensor:
    """Noise in `latents` `[B,C,h,w]` at a level, as the network sees it.

    Args:
        timestep: one for all, or `[B]`.
        condition: `[B,width]` of `FaceConditioner`; None says nothing about the face. Ignored by a
            network that takes none.
    """
    # A tensor for every level: torch.compile would compile the network anew for each number.
    timestep = torch.as_tensor(timestep, device=latents.device).expand(len(latents))
    if not is_conditional(unet):
        return unet(latents, timestep).sample
    if condition is None:
        condition = latents.new_zeros(len(latents), embedding_width(unet))
    return unet(latents, timestep, class_labels=condition).sample


def compile_network(unet: UNet2DModel) -> None:
    """Use `torch.compile` in place; what is compiled for one copy serves the next ones, too.

    Raises:
        UnknownOptionError: the network isn't on CUDA. On the CPU, the compiled network of torch
            2.13 computes the same pictures, but gradients that are more than half wrong.
    """
    if unet.device.type != "cuda":
        raise UnknownOptionError(f"`compile` must be used on cuda only, got {unet.device.type}.")
    # Several gradients are taken through one forward pass.
    torch._functorch.config.donated_buffer = False
    unet.compile(dynamic=False)
