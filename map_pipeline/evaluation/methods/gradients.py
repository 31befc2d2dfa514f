"""The parts of the noise baselines: descent, momentum, transformations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.errors import NotFiniteError
from map_pipeline.faces.align import warp_affine
from map_pipeline.identity.views import uniform

Loss = Callable[[Tensor], Tensor]
"""Picture of the region `[1,3,h,w]` -> scalar, lower is better."""
Direction = Callable[[Tensor], Tensor]
"""Gradient `[1,3,h,w]` -> how far to go against it, in units of the step size."""

TINY = 1e-30  # keeps a vanishing gradient from being divided by zero
KERNEL_SIZE, KERNEL_SIGMAS = 15, 3.0  # px, and how many standard deviations half of them are
DIVERSITY_PROBABILITY = 0.7  # Dong et al. 2019
SMALLEST_SIZE = 299 / 330  # Xie et al. 2019: 299 to 330 px on a canvas of 330 px
# Standard deviations of TIP-IM's random transformations (entries of the affine matrix; angle in
# rad) lie between these.
BEND_LOW, BEND_HIGH = 0.01, 0.1


class Momentum:
    """MI-FGSM's accumulated gradient, each of mean magnitude 1: `[1,3,h,w]`.

    Args:
        like: tensor of the gradient's shape.
    """

    def __init__(self, like: Tensor) -> None:
        self._sum = torch.zeros_like(like)

    def __call__(self, gradient: Tensor) -> Tensor:
        """Take in a gradient and return the sum so far."""
        self._sum = self._sum + gradient / gradient.abs().mean().clamp(min=TINY)
        return self._sum


def descend(
    loss: Loss,
    image: Tensor,
    mask: Tensor,
    budget: float,
    steps: int,
    step: float,
    direction: Direction,
    start: Tensor | None = None,
) -> Tensor:
    """Minimise a loss over changes of an image within a budget.

    Args:
        loss: of the changed image.
        image: `[1,3,h,w]` in [0,1]; mask: `[1,1,h,w]`, 0 or 1.
        budget: largest change of a value; step: how far a step goes where `direction` is 1.
        direction: what the gradient inside the mask is made into.
        start: change to start from; none if None.

    Returns:
        the change `[1,3,h,w]` after the last step.
    """
    change = torch.zeros_like(image) if start is None else start
    for _ in range(steps):
        change = change.detach().requires_grad_(True)
        [gradient] = torch.autograd.grad(loss(image + change), change)
        if not gradient.isfinite().all():
            raise NotFiniteError(
                "`photo` must give a finite gradient of the identity loss, got none."
            )
        change = change.detach() - step * direction(gradient * mask)
        change = project(change, image, mask, budget)
    return change


def project(change: Tensor, image: Tensor, mask: Tensor, budget: float) -> Tensor:
    """The nearest change within the budget and the mask that keeps the image in [0,1]."""
    change = change.clamp(-budget, budget) * mask
    return (image + change).clamp(0, 1) - image


def gaussian_kernel() -> Tensor:
    """TI's kernel `[1,1,15,15]` of sum 1: a Gaussian out to three standard deviations."""
    axis = torch.linspace(-KERNEL_SIGMAS, KERNEL_SIGMAS, KERNEL_SIZE)
    profile = torch.exp(-axis.square() / 2)
    kernel = profile[:, None] * profile[None, :]
    return (kernel / kernel.sum())[None, None]


def resize_and_pad(image: Tensor, generator: torch.Generator) -> Tensor:
    """DIM's input diversity: with some probability the image `[1,3,h,w]`, smaller, padded anywhere.

    The landmarks stay where they were, or the recognisers' alignment would undo it all. The padding
    is black, as published.
    """
    if uniform(0, 1, generator) >= DIVERSITY_PROBABILITY:
        return image
    height, width = image.shape[-2:]
    scale = uniform(SMALLEST_SIZE, 1, generator)
    small = F.interpolate(
        image, (round(height * scale), round(width * scale)), mode="bilinear", align_corners=False
    )
    rows, columns = height - small.shape[-2], width - small.shape[-1]
    top = int(torch.randint(rows + 1, (), generator=generator))
    left = int(torch.randint(columns + 1, (), generator=generator))
    return F.pad(small, (left, columns - left, top, rows - top))


def bend_and_turn(image: Tensor, generator: torch.Generator) -> Tensor:
    """TIP-IM's input diversity: `[1,3,h,w]` through a random affine and a random rotation.

    The landmarks stay where they were; see `resize_and_pad`.
    """
    bend, turn = (uniform(BEND_LOW, BEND_HIGH, generator) for _ in range(2))
    affine = torch.eye(3)
    affine[:2] += torch.randn(2, 3, generator=generator) * bend
    angle = torch.randn((), generator=generator) * turn
    cos, sin = angle.cos().item(), angle.sin().item()
    rotation = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    height, width = image.shape[-2:]
    # In units of half the sides, about the middle, as `torch.nn.functional.affine_grid` counts.
    px_to_unit = torch.tensor(
        [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
    )
    output_to_input = torch.linalg.inv(px_to_unit) @ affine @ rotation @ px_to_unit
    return warp_affine(image, output_to_input[None, :2], (height, width))
