"""Train the network that paints teeth between lips, see `expression.mouth`.

    t, noise at random;  loss = w |v_theta(x_t, t, lips, mask) - v|^2,  w = 1.05 in the mask,
    .05 elsewhere

(v-prediction, Salimans and Ho 2022, https://arxiv.org/abs/2202.00512).
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor, nn

from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.mouth import (
    PATCH,
    fill,
    network_input,
    new_mouth_painter,
    noise_schedule,
)
from map_pipeline.images import save_image
from map_pipeline.training.config import MouthConfig
from map_pipeline.training.loop import Assessment, Loop, Task
from map_pipeline.training.mouth_patches import Mouths, vary
from map_pipeline.training.pictures import lay_out
from map_pipeline.training.run_state import find_state
from map_pipeline.training.sampling import mixed_seed

OUTSIDE = 0.05  # weight of what is known anyway, beside that of the mouth
VALIDATION_LEVELS = (100, 300, 500, 700, 900)
SHOWN = 12  # mouths on the picture


def train_mouth(
    config: MouthConfig,
    mouths: Mouths,
    out: Path,
    go_on: bool = False,
    say: Callable[[str], None] = print,
) -> float:
    """Train until the time or the updates are used up.

    Writes to `out`, each time it reports: `mouth_painter/` in diffusers' layout (averaged weights,
    fp16), `training.json` (settings and loss), `mouths.png` (true, masked and painted mouths that
    it was not trained on), and `state/` to resume from. Every file is whole whenever the process is
    killed.

    Args:
        mouths: all of them; some are kept out for validation.
        go_on: with the run that `out` holds.
        say: takes one line of progress at a time.

    Returns:
        the last validation loss.

    Raises:
        MAPError: see `check_out`, or weights that aren't finite any more.
    """
    check_out(out, go_on)
    torch.manual_seed(config.seed)
    schedule = noise_schedule()
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    device = accelerator.device
    network = new_mouth_painter().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    loop = Loop(accelerator, network, optimizer, config, out, say)
    training, validation = mouths.split()
    generator = torch.Generator(device)

    def seek(update: int) -> None:
        generator.manual_seed(mixed_seed(config.seed, update))

    def loss(network: nn.Module) -> Tensor:
        size = (config.batch_size,)
        chosen = torch.randint(len(training), size, generator=generator, device=device)
        images, masks = (part.to(device) for part in training.select(chosen.cpu()))
        return velocity_loss(network, schedule, *vary(images, masks, generator), generator)

    def assess(network: UNet2DModel) -> Assessment[float]:
        score = validation_loss(network, schedule, validation, device)
        picture = show(network, validation, device)
        return Assessment(score, [f"validation loss {score:.4f}"], picture)

    def save(
        folder: Path, network: UNet2DModel, found: Assessment[float], progress: dict[str, Any]
    ) -> None:
        results = {"mouths": len(training), "validation_loss": found.scores}
        summary = progress | results | {"config": asdict(config)}
        copy.deepcopy(network).half().save_pretrained(folder / "mouth_painter")
        save_image(found.picture, folder / "mouths.png")
        (folder / "training.json").write_text(json.dumps(summary, indent=2))

    return loop.run(Task(seek, loss, assess, save, lambda clock: clock.cosine_rate))


def check_out(out: Path, go_on: bool) -> None:
    """Raise `UnknownOptionError` if `out` holds a run that shan't go on, or none that should."""
    held = find_state(out / "state") is not None
    if go_on and not held:
        raise UnknownOptionError(f"`out` must hold the state of a run to resume, got {out}.")
    if not go_on and (held or (out / "training.json").exists()):
        raise UnknownOptionError(
            f"`out` must be new, got {out}, which holds a run; --resume goes on with it."
        )


def velocity_loss(
    network: nn.Module,
    schedule: DDIMScheduler,
    images: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    level: Tensor | None = None,
) -> Tensor:
    """Weighted error of the predicted velocity, a scalar.

    Args:
        images: `[B,3,48,72]` in [0,1]; masks: `[B,1,48,72]`, 0 or 1.
        generator: on their device.
        level: `[B]` noise levels; drawn at random if not given.
    """
    device = images.device
    if level is None:
        steps = schedule.config.num_train_timesteps
        level = torch.randint(steps, (len(images),), generator=generator, device=device)
    clean = 2 * images - 1
    noise = torch.randn(clean.shape, generator=generator, device=device)
    noisy = schedule.add_noise(clean, noise, level)
    given = network_input(noisy, clean, masks).contiguous(memory_format=torch.channels_last)
    velocity = F.pixel_shuffle(network(given, level).sample.float(), PATCH)
    errors = (velocity - schedule.get_velocity(clean, noise, level)).square()
    weights = masks + OUTSIDE
    return (errors * weights).mean() / weights.mean()


@torch.no_grad()
def validation_loss(
    network: nn.Module, schedule: DDIMScheduler, mouths: Mouths, device: torch.device
) -> float:
    """The loss on all mouths at some noise levels, always with the same noise."""
    images, masks = _unchanged(mouths, device)
    generator = torch.Generator(device).manual_seed(0)
    scores = []
    for value in VALIDATION_LEVELS:
        level = torch.full((len(images),), value, device=device)
        scores.append(velocity_loss(network, schedule, images, masks, generator, level))
    return torch.stack(scores).mean().item()


def show(network: nn.Module, mouths: Mouths, device: torch.device) -> Image.Image:
    """The first mouths as they are, as the network sees them, and as it paints them."""
    images, masks = _unchanged(mouths, device, SHOWN)
    painted = (fill(network, 2 * images - 1, masks) + 1) / 2
    masked = images * (1 - masks) + 0.5 * masks
    return lay_out({"true": images, "masked": masked, "painted": painted})


def _unchanged(
    mouths: Mouths, device: torch.device, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """The first mouths as they are: images in [0,1] and masks, 0 or 1."""
    images, masks = mouths.select(torch.arange(len(mouths))[:most])
    return images.to(device), (masks > 0.5).float().to(device)
