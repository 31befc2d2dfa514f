"""Random views of the protected face: what a re-shared photo goes through before it is recognised.

Optimising over them (expectation over transformation, Athalye et al. 2018,
https://arxiv.org/abs/1707.07397; input diversity, Xie et al. 2019) is what makes the change hold
after resizing and on recognisers that were not used.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

SMALLEST_SCALE = 0.5  # a view is reduced to between half and full size, and enlarged again
LANDMARK_SHIFT = 0.03  # standard deviation of the crop's position and scale, in eye distances
LANDMARK_ROTATION = 0.05  # standard deviation, rad
NOISE = 0.02  # largest standard deviation of pixel noise, [0,1] scale
CONTRAST = 0.2  # largest relative change of contrast and of brightness


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One draw between `low` and `high`."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device).item()


def random_view(
    image: Tensor, generator: torch.Generator, of_noise: torch.Generator | None = None
) -> Tensor:
    """A resized, noisy, brighter or darker copy of `[B,3,H,W]`, of the same shape, in [0,1].

    Args:
        image: `[B,3,H,W]` in [0,1]; gradients flow through.
        generator: the only source of randomness, but for the noise where `of_noise` is given: large
            batches on a GPU shouldn't wait for noise from the CPU.
    """
    height, width = image.shape[-2:]
    scale = uniform(SMALLEST_SCALE, 1, generator)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    view = F.interpolate(image, size, mode="bilinear", antialias=True)
    view = F.interpolate(view, (height, width), mode="bicubic")
    mean = view.mean(dim=(1, 2, 3), keepdim=True).detach()
    view = (view - mean) * uniform(1 - CONTRAST, 1 + CONTRAST, generator) + mean
    view = view * uniform(1 - CONTRAST, 1 + CONTRAST, generator)
    noise = randn_tensor(image.shape, generator=of_noise or generator, device=image.device)
    return (view + noise.to(image) * uniform(0, NOISE, generator)).clamp(0, 1)


def jitter_landmarks(landmarks: Tensor, generator: torch.Generator) -> Tensor:
    """Move, turn and scale the five points `[B,5,2]` together, as another detector would."""
    shape = (len(landmarks), 4)
    draws = randn_tensor(shape, generator=generator, device=landmarks.device).to(landmarks)
    eye_distance = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=-1)[:, None, None]
    centre = landmarks.mean(1, keepdim=True)
    angle = draws[:, 0] * LANDMARK_ROTATION
    scale = 1 + draws[:, 1] * LANDMARK_SHIFT
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    shift = draws[:, None, 2:] * LANDMARK_SHIFT * eye_distance
    return (landmarks - centre) @ turn.transpose(-1, -2) + centre + shift


def photo_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator]:
    """One generator for each of `count` photos.

    A single one gives each photo a generator in the same state, so that no photo's result depends
    on the photos beside it. Without any, `torch.manual_seed` decides, as in diffusers.

    Raises:
        ValueError: a list of another length.
    """
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise ValueError(
                f"`generator` must be one or {count}, one for each photo; got {len(generator)}."
            )
        return list(generator)
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    state = generator.get_state()
    others = [torch.Generator(generator.device) for _ in range(count - 1)]
    for other in others:
        other.set_state(state)
    return [generator, *others]
