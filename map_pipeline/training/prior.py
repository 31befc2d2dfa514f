"""Train the score network's prior: a diffusion model of aligned faces that knows expressions.

    t, noise at random;  loss = w(t) |eps_theta(x_t, t, c) - eps|^2,  w = min(SNR, 5) / SNR

(min-SNR weighting, Hang et al. 2023, https://arxiv.org/abs/2303.09556, for noise prediction). The
condition c tells emotion, landmarks and whether there is colour; each is dropped at random, so that
the network also answers without. Faces of rare emotions are drawn more often.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from map_pipeline.diffusion.conditioner import Condition, FaceConditioner, is_conditional
from map_pipeline.diffusion.unet import compile_network, crop_size, patch_size, patchify
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError, check_setting
from map_pipeline.images import save_image
from map_pipeline.training.augment import Batch, augment
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.pictures import SAMPLE_FACES, sample_grid
from map_pipeline.training.run_state import Progress, find_state, replacing, save_state
from map_pipeline.training.sampling import FaceSampler, as_batch
from map_pipeline.training.score_model import (
    ScoreModel,
    new_conditioner,
    new_scheduler,
    new_unet,
)
from map_pipeline.training.validation import validate

# Settings that shape the networks: those of a network to start from are its own, and those of a run
# that was stopped can't be changed any more.
UNET_SETTINGS = ("patch", "channels", "layers_per_block")
NETWORK_SETTINGS = (*UNET_SETTINGS, "hidden")


@dataclass(frozen=True)
class PriorConfig:
    """Settings of a training run; stored with the weights.

    Attributes:
        patch: side of the pixel patches folded into channels, px.
        channels: of the U-Net's levels, from the finest to the coarsest.
        layers_per_block: residual blocks a level.
        hidden: width of the conditioner's hidden layers.
        levels: noise levels are drawn from [0, levels); beyond, the pipeline never goes.
        batch_size: faces a step, and accumulation: steps an update.
        learning_rate: of AdamW; warmup: updates until it is reached; it falls to 0 in the last
            `cooldown` share of the run.
        min_snr: gamma of the loss weighting.
        ema_decay: of the averaged weights, which are the result.
        drop_emotion, drop_shape, drop_all: probabilities of leaving parts of the condition out.
        balance: 0 draws all faces alike, 1 every emotion equally often.
        minutes, updates: the run ends at whichever comes first.
        validation_faces: kept out of the training.
        report_every: updates between two validations.
        compile: use `torch.compile`, on CUDA only.
        gradient_checkpointing: trade time for memory (113 M networks at 256 px).
        mixed_precision: "bf16", "fp16" or "no".
        seed: of everything random.
    """

    patch: int = 2
    channels: tuple[int, ...] = (64, 96, 144, 192)
    layers_per_block: int = 1
    hidden: int = 256
    levels: int = 700
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 5e-4
    warmup: int = 200
    cooldown: float = 0.3
    min_snr: float = 5.0
    ema_decay: float = 0.999
    drop_emotion: float = 0.3
    drop_shape: float = 0.3
    drop_all: float = 0.1
    balance: float = 0.5
    minutes: float = 120.0
    updates: int = 1_000_000
    validation_faces: int = 256
    report_every: int = 500
    compile: bool = False
    gradient_checkpointing: bool = False
    mixed_precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = all(isinstance(count, int) and count > 0 for count in self.channels)
        check_setting(
            self, "channels", len(self.channels) > 0 and numbers, "positive whole numbers"
        )
        for name in ("patch", "layers_per_block", "hidden", "levels", "batch_size", "accumulation"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("updates", "report_every"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("warmup", "validation_faces", "seed"):
            check_setting(self, name, getattr(self, name) >= 0, ">= 0")
        for name in ("learning_rate", "min_snr", "minutes"):
            check_setting(self, name, 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("cooldown", "drop_emotion", "drop_shape", "drop_all", "balance"):
            check_setting(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        check_setting(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        precisions = ("bf16", "fp16", "no")
        check_setting(
            self, "mixed_precision", self.mixed_precision in precisions, "bf16, fp16 or no"
        )

    def of_network(self, unet: UNet2DModel) -> "PriorConfig":
        """The same settings with those that tell the shape of a given U-Net."""
        return replace(
            self,
            patch=patch_size(unet),
            channels=tuple(unet.config.block_out_channels),
            layers_per_block=unet.config.layers_per_block,
        )


PRESETS = {
    "cpu": PriorConfig(),
    "gpu": PriorConfig(
        batch_size=256, learning_rate=1e-3, ema_decay=0.9995, minutes=9, compile=True
    ),
}


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
        unet: start from this network instead of a new one (its schedule in `scheduler`, what tells
            it about a face in `conditioner`).
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
    config = replace(config.of_network(unet), hidden=conditioner.config.hidden)
    check_inputs(config, faces, unet, scheduler, out)
    model = ScoreModel(unet, conditioner).float()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    # 2. What changes them.
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation
    )
    if accelerator.num_processes > 1:
        raise UnknownOptionError(
            f"`train prior` must run as one process, got {accelerator.num_processes}."
        )
    device = accelerator.device
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=device.type == "cuda",
    )
    average = EMAModel(
        model.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
    )
    averaged = copy.deepcopy(model).eval().requires_grad_(False)  # neither compiled nor wrapped
    if config.compile:
        compile_network(unet)
    wrapped, optimizer = accelerator.prepare(model, optimizer)

    # 3. Where a stopped run was.
    clock = Progress(config)
    accelerator.register_for_checkpointing(average, clock)
    state = find_state(out / "state")
    if state is not None:
        accelerator.load_state(str(state))
        average.to(device)  # accelerate loads it on the CPU
        say(f"resumed at update {clock.update}")
    draw = FaceSampler(training, config, device, config.seed)
    fixed = as_batch(validation, device)
    alphas = scheduler.alphas_cumprod.to(device)
    losses: list[Tensor] = []

    def report() -> dict[str, float]:
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise MAPError(
                f"The weights aren't finite any more at update {clock.update}; those of the last "
                "report are kept. Run again with a lower `learning_rate`."
            )
        told_loss = f", loss {torch.stack(losses).mean().item():.4f}" if losses else ""
        losses.clear()
        average.copy_to(averaged.parameters())
        with accelerator.autocast(), torch.no_grad():
            told = averaged.conditioner(fixed.condition) if is_conditional(unet) else None
            scores = validate(averaged.unet, scheduler, fixed.images, told)
            shown = fixed.first(SAMPLE_FACES)
            grid = sample_grid(averaged.unet, averaged.conditioner, scheduler, shown)
        save_state(accelerator, out / "state")
        with replacing(out) as folder:
            averaged.unet.save_pretrained(folder / "unet")
            averaged.conditioner.save_pretrained(folder / "conditioner")
            scheduler.save_pretrained(folder / "scheduler")
            if grid is not None:
                save_image(grid, folder / "samples.png")
            summary = json.dumps(_summary(config, clock, scores), indent=2)
            (folder / "training.json").write_text(summary)
        text = "".join(f", {name} {value:.2f} dB" for name, value in scores.items())
        say(f"update {clock.update}, {clock.minutes:.1f} min{told_loss}{text}")
        return scores

    # 4. Train.
    clock.start()
    scores = None
    while clock.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * clock.rate
        draw.seek(clock.update)
        for _ in range(config.accumulation):
            with accelerator.accumulate(wrapped):
                batch = augment(draw(), draw.generator)
                loss = noise_loss(wrapped, alphas, batch, config, draw.generator)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        losses.append(loss.detach())
        average.step(model.parameters())
        clock.advance()
        scores = report() if clock.update % config.report_every == 0 else None
    return report() if scores is None else scores


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
    if not (out / "training.json").exists():
        return
    if find_state(out / "state") is None:
        raise UnknownOptionError(
            f"`out` must be new or hold the state of its run, got {out}, which holds weights only."
        )
    before = json.loads((out / "training.json").read_text())["config"]
    now = json.loads(json.dumps(asdict(config)))  # tuples as lists
    for name in NETWORK_SETTINGS:
        if before[name] != now[name]:
            raise UnknownOptionError(
                f"`{name}` must stay {before[name]}, as in the run that {out} holds, "
                f"got {now[name]}."
            )


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
    told = batch.condition
    told = Condition(
        told.emotion * chance(config.drop_emotion)[:, None],
        told.shape,
        told.has_shape * chance(config.drop_shape),
        told.grey,
    )
    predicted = model(noisy, level, told, chance(config.drop_all)).float()
    snr = alphas[level] / (1 - alphas[level])
    weight = snr.clamp(max=config.min_snr) / snr
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


def _summary(config: PriorConfig, clock: Progress, scores: Mapping[str, float]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "updates": clock.update,
        "minutes": round(clock.minutes, 2),
        "scores": scores,
        "config": asdict(config),
    }
