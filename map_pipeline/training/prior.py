"""Train the score network's prior: a diffusion model of aligned faces that knows expressions.

    t, noise at random;  loss = w(t) |eps_theta(x_t, t, c) - eps|^2,  w = min(SNR, 5) / SNR

(min-SNR weighting, Hang et al. 2023, https://arxiv.org/abs/2303.09556, for noise prediction). The
condition c holds emotion, landmarks and whether there is colour; each is dropped at random, so that
the network also answers without. Faces of rare emotions are drawn more often.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.conditioner import Condition, FaceConditioner, is_conditional
from map_pipeline.diffusion.unet import compile_network, crop_size, patch_size, patchify
from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.images import save_image
from map_pipeline.training.augment import Batch, augment
from map_pipeline.training.config import NETWORK_SETTINGS, PriorConfig
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.loop import Assessment, Loop, Task
from map_pipeline.training.pictures import SAMPLE_FACES, sample_grid
from map_pipeline.training.run_state import check_resumable
from map_pipeline.training.sampling import FaceSampler, as_batch
from map_pipeline.training.score_model import (
    ScoreModel,
    new_conditioner,
    new_scheduler,
    new_unet,
)
from map_pipeline.training.validation import validate


def of_network(config: PriorConfig, unet: UNet2DModel) -> PriorConfig:
    """The same settings with those that describe the shape of a given U-Net."""
    return replace(
        config,
        patch=patch_size(unet),
        channels=tuple(unet.config.block_out_channels),
        layers_per_block=unet.config.layers_per_block,
    )


def train_prior(
    config: PriorConfig,
    faces: FaceSet,
    out: Path,
    unet: UNet2DModel | None = None,
    scheduler: DDIMScheduler | None = None,
    say: Callable[[str], None] = print,
    conditioner: FaceConditioner | None = None,
) -> dict[str, float]:
    """Train until the time or the updates are used up; the same call goes on after a stop.

    Writes to `out`: `unet/`, `conditioner/` and `scheduler/` in diffusers' layout (averaged
    weights), `training.json` (settings and scores), `samples.png` (see `training.pictures`), and
    `state/` to resume from. Every file is whole whenever the process is killed.

    Args:
        faces: all faces; some are kept out for validation.
        unet: start from this network instead of a new one (its schedule in `scheduler`, what
            conditions it in `conditioner`).
        say: takes one line of progress at a time.

    Returns:
        the last validation scores, see `training.validation`; none without validation faces.

    Raises:
        MAPError: faces, settings and networks that don't fit together, an `out` that holds another
            run, or weights that aren't finite any more.
    """
    # 1. Networks.
    torch.manual_seed(config.seed)
    scheduler = scheduler or new_scheduler()
    unet = unet or new_unet(config, faces.images.shape[-1])
    training, validation = split(faces, config)
    conditioner = conditioner or new_conditioner(config, training, unet)
    config = replace(of_network(config, unet), hidden=conditioner.config.hidden)
    check_inputs(config, faces, unet, scheduler, out)
    model = ScoreModel(unet, conditioner).float()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    # 2. What changes them.
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation
    )
    device = accelerator.device
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=device.type == "cuda"
    )
    loop = Loop(accelerator, model, optimizer, config, out, say, use_ema_warmup=True, power=0.75)
    if config.compile:
        compile_network(unet)

    # 3. Train.
    draw = FaceSampler(training, config, device, config.seed)
    fixed = as_batch(validation, device)
    alphas = scheduler.alphas_cumprod.to(device)

    def loss(model: ScoreModel) -> Tensor:
        batch = augment(draw(), draw.generator)
        return noise_loss(model, alphas, batch, config, draw.generator)

    def assess(model: ScoreModel) -> Assessment[dict[str, float]]:
        return _assess(model, scheduler, fixed)

    def save(
        folder: Path,
        model: ScoreModel,
        found: Assessment[dict[str, float]],
        progress: dict[str, Any],
    ) -> None:
        model.unet.save_pretrained(folder / "unet")
        model.conditioner.save_pretrained(folder / "conditioner")
        scheduler.save_pretrained(folder / "scheduler")
        if found.picture is not None:
            save_image(found.picture, folder / "samples.png")
        summary = progress | {"scores": found.scores, "config": asdict(config)}
        (folder / "training.json").write_text(json.dumps(summary, indent=2))

    return loop.run(Task(draw.seek, loss, assess, save, lambda clock: clock.rate))


def check_inputs(
    config: PriorConfig, faces: FaceSet, unet: UNet2DModel, scheduler: DDIMScheduler, out: Path
) -> None:
    """Raise what can be known to be wrong before any training."""
    size = crop_size(unet)
    if faces.images.shape[-1] != size:
        raise InvalidImageError(
            f"`faces` must be as large as the network's crops, {size} px, "
            f"got {faces.images.shape[-1]} px."
        )
    steps = scheduler.config.num_train_timesteps
    if config.levels > steps:
        raise UnknownOptionError(f"`levels` must be in [1, {steps}], got {config.levels}.")
    check_resumable(out / "training.json", config, NETWORK_SETTINGS)


def split(faces: FaceSet, config: PriorConfig) -> tuple[FaceSet, FaceSet]:
    """Training and validation faces: as many as asked for, but at most a tenth of all."""
    return faces.split(min(config.validation_faces, len(faces) // 10))


def noise_loss(
    model: Callable[..., Tensor],
    alphas: Tensor,
    batch: Batch,
    config: PriorConfig,
    generator: torch.Generator,
) -> Tensor:
    """Min-SNR weighted error of the predicted noise, a scalar.

    Args:
        model: a `ScoreModel`.
        alphas: cumulative alpha products of the schedule `[T]`.
        generator: on the batch's device.
    """
    device, count = batch.images.device, len(batch.images)

    def chance(share: float) -> Tensor:
        return (torch.rand(count, generator=generator, device=device) >= share).float()

    latents = patchify(batch.images, config.patch)
    level = torch.randint(config.levels, (count,), generator=generator, device=device)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    alpha = alphas[level].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    condition = batch.condition
    condition = Condition(
        condition.emotion * chance(config.drop_emotion)[:, None],
        condition.shape,
        condition.has_shape * chance(config.drop_shape),
        condition.grey,
    )
    predicted = model(noisy, level, condition, chance(config.drop_all)).float()
    snr = alphas[level] / (1 - alphas[level])
    weight = snr.clamp(max=config.min_snr) / snr
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


@torch.no_grad()
def _assess(
    model: ScoreModel, scheduler: DDIMScheduler, faces: Batch
) -> Assessment[dict[str, float]]:
    """Validation scores, and a sheet of samples where there are faces."""
    condition = model.conditioner(faces.condition) if is_conditional(model.unet) else None
    scores = validate(model.unet, scheduler, faces.images, condition)
    shown = faces.first(SAMPLE_FACES)
    picture = sample_grid(model.unet, model.conditioner, scheduler, shown)
    figures = [f"{name} {value:.2f} dB" for name, value in scores.items()]
    return Assessment(scores, figures, picture)
