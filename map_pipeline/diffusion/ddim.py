"""Deterministic DDIM between any two noise levels, in both directions."""

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.unet import predict_noise
from map_pipeline.errors import UnknownOptionError


def check_scheduler(scheduler: object) -> None:
    """Raise `UnknownOptionError` unless the noise schedule is one that this module can follow."""
    kind = type(scheduler).__name__
    if not isinstance(scheduler, DDIMScheduler):
        raise UnknownOptionError(f"`scheduler` must be a DDIMScheduler, got {kind}.")
    prediction_type = scheduler.config.prediction_type
    if prediction_type != "epsilon":
        raise UnknownOptionError(
            f"`scheduler` must have the prediction_type 'epsilon', got {prediction_type!r}."
        )


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
) -> Tensor:
    """DDIM generation: from the noise level `start` down to clean latents."""
    levels = timesteps(start, steps)
    alphas = [scheduler.alphas_cumprod[t].to(latents) for t in levels]
    alphas.append(scheduler.final_alpha_cumprod.to(latents))
    for timestep, alpha, alpha_next in zip(levels, alphas, alphas[1:], strict=False):
        noise = predict_noise(unet, latents, timestep, condition)
        latents = ddim_step(latents, noise, alpha, alpha_next)
    return latents
