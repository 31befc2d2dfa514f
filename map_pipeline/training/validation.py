"""How good a score network is at what it is used for: denoising, and inversion plus generation."""

from collections.abc import Iterable

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.conditioner import FaceConditioner, describe
from map_pipeline.diffusion.ddim import ddim_step, generate, invert
from map_pipeline.diffusion.unet import crop_size, patch_size, patchify, predict_noise, unpatchify
from map_pipeline.errors import NoFaceError
from map_pipeline.faces.align import Alignment
from map_pipeline.pipeline import MAPPipeline

DENOISING_LEVELS = (150, 300, 450)
ROUND_TRIP_LEVELS = (300, 500)
INVERSION_STEPS, GENERATION_STEPS = 12, 6
BATCH = 32


@torch.no_grad()
def validate(
    unet: UNet2DModel, scheduler: DDIMScheduler, crops: Tensor, conditions: Tensor | None
) -> dict[str, float]:
    """PSNR in dB, mean over the crops: `x0_T` of one denoising at level T, `round_trip_T` of
    inversion to T (12 steps) and generation (6 steps).

    Args:
        crops: `[N,3,S,S]` in [0,1].
        conditions: `[N,width]`, or None for a network without conditions.
    """
    scores: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    for first in range(0, len(crops), BATCH):
        part = crops[first : first + BATCH]
        condition = None if conditions is None else conditions[first : first + BATCH]
        noise = torch.randn(part.shape, generator=generator).to(part)
        for level in DENOISING_LEVELS:
            found = denoise(unet, scheduler, part, noise, level, condition)
            scores.setdefault(f"x0_{level}", []).append(psnr(found, part))
        for level in ROUND_TRIP_LEVELS:
            found = round_trip(unet, scheduler, part, level, condition)
            scores.setdefault(f"round_trip_{level}", []).append(psnr(found, part))
    return {name: torch.cat(values).mean().item() for name, values in scores.items()}


def score_photos(
    pipe: MAPPipeline,
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    conditioner: FaceConditioner | None,
    photos: Iterable[np.ndarray],
) -> tuple[int, dict[str, float]]:
    """Number of faces, and `validate` on the largest one of each photo, cropped as for use.

    Args:
        pipe: its detector and landmarks are used.
        conditioner: encodes landmarks and colour; None for a network without conditions.
        photos: `uint8 [H,W,3]`; those without a face are left out.

    Raises:
        NoFaceError: no face in any of them.
    """
    template = torch.tensor(pipe.config.alignment_template)
    size = crop_size(unet)
    crops, condition, stages = [], [], pipe.stages
    for photo in photos:
        faces = pipe.face_detector.detect(photo)
        if not faces:
            continue
        landmarks = torch.as_tensor(faces[0].landmarks)
        alignment = Alignment.from_landmarks(landmarks, template * size, size)
        crop, landmarks68 = stages.aligned_crop(photo, alignment)
        crops.append(crop)
        if conditioner is not None:
            condition.append(conditioner(describe(crop, landmarks68)).detach())
    if not crops:
        raise NoFaceError("`photos` must show faces, got none that the detector finds.")
    conditions = torch.cat(condition) if condition else None
    return len(crops), validate(unet, scheduler, torch.cat(crops), conditions)


def denoise(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    crops: Tensor,
    noise: Tensor,
    level: int,
    condition: Tensor | None,
) -> Tensor:
    """The clean picture that the network sees in `crops` `[B,3,S,S]` after adding `noise`."""
    patch = patch_size(unet)
    latents = patchify(crops, patch)
    noise = torch.nn.functional.pixel_unshuffle(noise, patch)
    alpha = scheduler.alphas_cumprod[level].to(latents)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = predict_noise(unet, noisy, level, condition).float()
    return unpatchify(ddim_step(noisy, predicted, alpha, torch.ones_like(alpha)), patch).clamp(0, 1)


def round_trip(
    unet: UNet2DModel, scheduler: DDIMScheduler, crops: Tensor, level: int, condition: Tensor | None
) -> Tensor:
    """Inversion of `crops` `[B,3,S,S]` to `level` and generation back."""
    patch = patch_size(unet)
    latents = patchify(crops, patch)
    start = invert(unet, scheduler, latents, level, INVERSION_STEPS, condition)
    latents = generate(unet, scheduler, start, level, GENERATION_STEPS, condition)
    return unpatchify(latents.float(), patch).clamp(0, 1)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio `[B]` in dB of pictures `[B,3,S,S]` in [0,1]."""
    return -10 * (first - second).square().mean((1, 2, 3)).clamp(min=1e-10).log10()
