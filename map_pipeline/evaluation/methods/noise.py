"""The noise baselines of the field's tables: PGD, MI-FGSM, TI-DIM and TIP-IM.

All four add noise of at most `eps` to the pixels of the face, found by following the gradient of a
loss through the surrogates. To be compared fairly with MAP they share with it

- the loss: MAP's identity objectives with MAP's weights (impersonation and dodging), on the plain
  picture; each method's own input transformation, if it has one, takes the place of MAP's views;
- the faces, target, surrogates, and the region of the photo that is shown to them, with the
  landmarks of the unprotected photo;
- where they may change the photo: the whole of MAP's mask, but at full budget, without its feather;
- the number of steps, 25.

On photos in which the face is large the noise is made at the resolution of the region and enlarged.
The result is 8-bit, and no pixel differs from the photo by more than `eps`.

Each method is the published one: step sizes, momentum and transformations as in the papers or,
where they leave it open, in the authors' code.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.evaluation.methods.base import FacePlace, Task, find_face, find_target
from map_pipeline.evaluation.methods.gradients import (
    TINY,
    Loss,
    Momentum,
    bend_and_turn,
    descend,
    gaussian_kernel,
    project,
    resize_and_pad,
)
from map_pipeline.evaluation.methods.identity import identity_loss
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Noise(ABC):
    """A noise baseline.

    Attributes:
        eps: largest change of a pixel, in units of 1/255, in [1,255]; a fraction of a unit can't be
            used, because the result is 8-bit.
        steps: gradient steps, >= 1.
    """

    eps: float = 8.0
    steps: int = 25
    name: str = field(init=False)
    label: str = field(init=False)
    surrogates: ClassVar = None

    def __post_init__(self) -> None:
        if not 1 <= self.eps <= 255:
            raise ValueError(f"`eps` must be in [1, 255], got {self.eps}.")
        if self.steps < 1:
            raise ValueError(f"`steps` must be >= 1, got {self.steps}.")

    @property
    def title(self) -> str:
        """Name and budget."""
        return f"{self.label}, eps {self.eps:g}/255"

    @property
    def budget(self) -> float:
        """Largest change on the [0,1] scale."""
        return self.eps / 255

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the photo with noise on its largest face; see `Method.protect`."""
        pipe.check_inputs(task.emotion, task.surrogates, "np")
        place = find_face(pipe, task.photo)
        loss = identity_loss(pipe, task, place, find_target(pipe, task, place))
        image = place.region.image.to(pipe.device)
        mask = place.mask_in_region().to(pipe.device)
        generator = torch.Generator().manual_seed(task.seed)
        with torch.enable_grad():
            change = self.perturb(loss, image, mask, generator)
        return add_noise(task.photo, change.cpu(), place, self.eps)

    @abstractmethod
    def perturb(
        self, loss: Loss, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Find the noise.

        Args:
            loss: to make small.
            image: `[1,3,h,w]` in [0,1].
            mask: `[1,1,h,w]`, 1 where the image may change and 0 elsewhere.
            generator: CPU generator, the only source of randomness.

        Returns:
            `[1,3,h,w]` in [-eps,eps]/255, 0 outside of the mask; added to the image in [0,1].
        """


@dataclass(frozen=True)
class PGD(Noise):
    """Projected gradient descent from a random start.

    Madry et al. 2018, https://arxiv.org/abs/1706.06083; with their step of 2.5 eps / steps, which
    can cross the budget's whole width.
    """

    name: str = field(default="pgd", init=False)
    label: str = field(default="PGD", init=False)

    def perturb(
        self, loss: Loss, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Find the noise; see `Noise.perturb`."""
        start = torch.rand(image.shape, generator=generator).to(image) * 2 - 1
        start = project(start * self.budget, image, mask, self.budget)
        step = 2.5 * self.budget / self.steps
        return descend(loss, image, mask, self.budget, self.steps, step, torch.sign, start)


@dataclass(frozen=True)
class MIFGSM(Noise):
    """Momentum iterative fast gradient sign method.

    Dong et al. 2018, https://arxiv.org/abs/1710.06081, Alg. 1: decay 1, step eps / steps. For
    several surrogates the losses are averaged ("ensemble in loss").
    """

    name: str = field(default="mifgsm", init=False)
    label: str = field(default="MI-FGSM", init=False)

    def perturb(
        self, loss: Loss, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Find the noise; see `Noise.perturb`. Draws nothing from the generator."""
        del generator
        momentum = Momentum(image)
        step = self.budget / self.steps
        return descend(
            loss, image, mask, self.budget, self.steps, step, lambda g: momentum(g).sign()
        )


@dataclass(frozen=True)
class TIDIM(Noise):
    """Translation-invariant attack with diverse inputs and momentum.

    Dong et al. 2019, https://arxiv.org/abs/1904.02884: MI-FGSM on gradients smoothed by a 15 px
    Gaussian kernel, on inputs that are shrunk and padded at random (Xie et al. 2019,
    https://arxiv.org/abs/1803.06978) with probability 0.7. Their kernel is for pictures of 299 px,
    and the region of an upright face has at most 283.
    """

    name: str = field(default="tidim", init=False)
    label: str = field(default="TI-DIM", init=False)

    def perturb(
        self, loss: Loss, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Find the noise; see `Noise.perturb`."""
        momentum, kernel = Momentum(image), gaussian_kernel().to(image)

        def direction(gradient: Tensor) -> Tensor:
            smooth = F.conv2d(gradient, kernel.expand(3, 1, -1, -1), padding="same", groups=3)
            return momentum(smooth * mask).sign()

        def diverse_loss(picture: Tensor) -> Tensor:
            return loss(resize_and_pad(picture, generator))

        step = self.budget / self.steps
        return descend(diverse_loss, image, mask, self.budget, self.steps, step, direction)


@dataclass(frozen=True)
class TIPIM(Noise):
    """Targeted identity-protection iterative method.

    Yang et al. 2021, https://arxiv.org/abs/2003.06814: momentum on inputs that are bent and turned
    at random, and steps of equal length in the L2 norm (1.5 eps / steps a pixel, as in the authors'
    code). The naturalness term is left out: its weight is 0 in the authors' code, which protects
    most. The greedy search picks the easiest of several targets at every step; here the target is
    given, like for all methods, so there is nothing to pick.
    """

    name: str = field(default="tipim", init=False)
    label: str = field(default="TIP-IM", init=False)

    def perturb(
        self, loss: Loss, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Find the noise; see `Noise.perturb`."""
        momentum = Momentum(image)
        length = math.sqrt(3 * float(mask.sum()))  # of a change by 1 of every value in the mask

        def direction(gradient: Tensor) -> Tensor:
            mean = momentum(gradient)
            return mean * (length / mean.norm().clamp(min=TINY))

        def bent_loss(picture: Tensor) -> Tensor:
            return loss(bend_and_turn(picture, generator))

        step = 1.5 * self.budget / self.steps
        return descend(bent_loss, image, mask, self.budget, self.steps, step, direction)


def add_noise(photo: np.ndarray, change: Tensor, place: FacePlace, eps: float) -> np.ndarray:
    """Add noise to the face of a photo at full resolution.

    Args:
        photo: `uint8 [H,W,3]`; left as it is.
        change: `[1,3,h,w]` on the [0,1] scale, of the picture of `place.region`.
        eps: largest change of a pixel, in units of 1/255.

    Returns:
        `uint8 [H,W,3]`, within `eps` of the photo, and bit for bit the photo outside of the mask.
    """
    x0, y0, x1, y1 = place.region.box
    size = (y1 - y0, x1 - x0)
    if change.shape[-2:] != size:
        # Bicubic overshoots, which the limit below cuts; bilinear would blunt the noise.
        change = F.interpolate(change, size, mode="bicubic", align_corners=False)
    limit = math.floor(eps)  # whole numbers, so that rounding can't pass the budget
    counts = (change[0] * 255).round().clamp(-limit, limit).permute(1, 2, 0).numpy()
    result = photo.copy()
    part = result[y0:y1, x0:x1]
    part[:] = (part + counts * place.mask_in_box()[..., None]).clip(0, 255)
    return result
