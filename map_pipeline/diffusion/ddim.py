"""The score network at work: patches, noise prediction, deterministic DDIM in both directions.

Faces of 128 px enter the U-Net as `p x p` patches folded into channels (`in_channels = 3 p^2`);
p = 1 is an ordinary pixel-space U-Net such as google/ddpm-celebahq-256.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
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


def patchify(crop: Tensor, patch: int) -> Tensor:
    """Fold `[B,3,H,W]` in [0,1] into `[B,3p^2,H/p,W/p]` in [-1,1]."""
    return F.pixel_unshuffle(crop * 2 - 1, patch)


def unpatchify(latents: Tensor, patch: int) -> Tensor:
    """Inverse of `patchify`; values are not clipped."""
    return (F.pixel_shuffle(latents, patch) + 1) / 2


def timesteps(start: int, steps: int) -> list[int]:
    """`steps` evenly spaced noise levels from `start` down to 0."""
    return torch.linspace(start, 0, steps).round().long().tolist()


def ddim_step(latents: Tensor, noise: Tensor, alpha_from: Tensor, alpha_to: Tensor) -> Tensor:
    """Move between two noise levels without randomness.

    Song et al. 2021, https://arxiv.org/abs/2010.02502, Eq. 12 with sigma = 0. diffusers' DDIM
    schedulers tie the stride to T // num_inference_steps, so an inversion and a generation with
    different step counts would not meet at the same level; here both ends are given.

    Args:
        latents: `[B,C,h,w]` at the level of `alpha_from`.
        noise: predicted noise of the same shape.
        alpha_from: cumulative alpha product of the current level, in (0,1].
        alpha_to: the same of the wanted level; 1 is the clean picture.
    """
    clean = (latents - (1 - alpha_from).sqrt() * noise) / alpha_from.sqrt()
    return alpha_to.sqrt() * clean + (1 - alpha_to).sqrt() * noise


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


def guided_noise(
    unet: UNet2DModel,
    latents: Tensor,
    timestep: Tensor | int,
    condition: Tensor,
    negative_cond: Tensor,
    guidance: float,
) -> Tensor:
    """Classifier-free guidance: `guidance` times the way from one condition to another.

    `guidance=0` is the answer to `negative_cond`, 1 that to `condition`, more exaggerates.
    """
    both = predict_noise(
        unet, torch.cat([latents, latents]), timestep, torch.cat([negative_cond, condition])
    )
    start, end = both.chunk(2)
    return start + guidance * (end - start)


def invert(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    latents: Tensor,
    start: int,
    steps: int,
    condition: Tensor | None = None,
) -> Tensor:
    """DDIM inversion: from the clean `latents` up to the noise level `start`."""
    alpha = scheduler.final_alpha_cumprod.to(latents)
    for timestep in reversed(timesteps(start, steps)):
        alpha_next = scheduler.alphas_cumprod[timestep].to(latents)
        noise = predict_noise(unet, latents, timestep, condition)
        latents = ddim_step(latents, noise, alpha, alpha_next)
        alpha = alpha_next
    return latents


def generate(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    latents: Tensor,
    start: int,
    steps: int,
    condition: Tensor | None = None,
    negative_cond: Tensor | None = None,
    guidance: float = 1.0,
    guided_steps: int | None = None,
) -> Tensor:
    """DDIM generation: from the noise level `start` down to clean latents.

    Args:
        condition: what to generate, `[B,width]`.
        negative_cond: what the start was inverted with; needed for a `guidance` other than 1.
        guidance: see `guided_noise`.
        guided_steps: how many steps, the noisiest first, are guided; the others are plain; all if
            None. Kynkäänniemi et al. 2024, https://arxiv.org/abs/2404.07724.
    """
    if guidance != 1.0 and negative_cond is None:
        raise ValueError(f"`negative_cond` must be given for a `guidance` of {guidance}, got None.")
    levels = timesteps(start, steps)
    alphas = [scheduler.alphas_cumprod[t].to(latents) for t in levels]
    alphas.append(scheduler.final_alpha_cumprod.to(latents))
    guided = steps if guided_steps is None else guided_steps
    scales = [guidance] * guided + [1.0] * (steps - guided)
    for timestep, alpha, alpha_next, scale in zip(levels, alphas, alphas[1:], scales, strict=False):
        if scale == 1.0 or negative_cond is None:
            noise = predict_noise(unet, latents, timestep, condition)
        else:
            noise = guided_noise(unet, latents, timestep, condition, negative_cond, scale)
        latents = ddim_step(latents, noise, alpha, alpha_next)
    return latents


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
