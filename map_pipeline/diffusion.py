"""The score network at work: patches, deterministic DDIM in both directions, its training loss.

Faces of 128 px enter the U-Net as `p x p` patches folded into channels (`in_channels = 3 p^2`);
p = 1 is an ordinary pixel-space U-Net such as google/ddpm-celebahq-256.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.losses import score_matching_loss


def patch_size(unet: UNet2DModel) -> int:
    """Side of the pixel patches that the U-Net takes as channels, in px."""
    return math.isqrt(unet.config.in_channels // 3)


def crop_size(unet: UNet2DModel) -> int:
    """Side of the face crop that the U-Net was trained on, in px."""
    return unet.config.sample_size * patch_size(unet)


def to_latents(crop: Tensor, patch: int) -> Tensor:
    """Fold `[B,3,H,W]` in [0,1] into `[B,3p^2,H/p,W/p]` in [-1,1]."""
    return F.pixel_unshuffle(crop * 2 - 1, patch)


def to_crop(latents: Tensor, patch: int) -> Tensor:
    """Inverse of `to_latents`; values are not clipped."""
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


def invert(
    unet: UNet2DModel, scheduler: DDIMScheduler, latents: Tensor, start: int, steps: int
) -> Tensor:
    """DDIM inversion: from the clean `latents` up to the noise level `start`."""
    alpha = scheduler.final_alpha_cumprod.to(latents)
    for timestep in reversed(timesteps(start, steps)):
        alpha_next = scheduler.alphas_cumprod[timestep].to(latents)
        latents = ddim_step(latents, unet(latents, timestep).sample, alpha, alpha_next)
        alpha = alpha_next
    return latents


def generate(
    unet: UNet2DModel, scheduler: DDIMScheduler, latents: Tensor, start: int, steps: int
) -> Tensor:
    """DDIM generation: from the noise level `start` down to clean latents."""
    levels = timesteps(start, steps)
    alphas = [scheduler.alphas_cumprod[t].to(latents) for t in levels]
    alphas.append(scheduler.final_alpha_cumprod.to(latents))
    for timestep, alpha, alpha_next in zip(levels, alphas, alphas[1:], strict=False):
        latents = ddim_step(latents, unet(latents, timestep).sample, alpha, alpha_next)
    return latents


def denoising_loss(
    unet: UNet2DModel, scheduler: DDIMScheduler, latents: Tensor, start: int, noise: Tensor, at: int
) -> Tensor:
    """L_SM on the clean `latents` with the given noise at level `at` < `start`, `[B]`."""
    if not 0 <= at < start:
        raise ValueError(f"`at` must be in [0, {start}), got {at}.")
    level = torch.full((len(latents),), at, device=latents.device)
    noisy = scheduler.add_noise(latents, noise, level)
    return score_matching_loss(unet(noisy, level).sample, noise)
