"""Adversarial make-up: our own simple version of that family.

Adv-Makeup (Yin et al. 2021, https://arxiv.org/abs/2105.03162) and its successors paint make-up that
recognisers take for another identity. Neither their networks nor their codes are run here. Instead
a colour for each part and a soft texture are found by following the gradient of the loss that all
baselines share (see `identity`), in MAP's random views. They lie on lips, eyelids and cheeks only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from map_pipeline.errors import NotFiniteError
from map_pipeline.evaluation.face_parts import cheeks, eyelids, lips
from map_pipeline.evaluation.methods.base import FacePlace, Task, find_face, find_shape, find_target
from map_pipeline.evaluation.methods.gradients import Loss
from map_pipeline.evaluation.methods.identity import identity_loss
from map_pipeline.evaluation.methods.noise import add_noise
from map_pipeline.expression.drawing import smooth
from map_pipeline.identity.views import random_view
from map_pipeline.pipeline import MAPPipeline

Part = Callable[[Tensor, tuple[int, int]], Tensor]
# What is painted where, and how far it goes along each of `AXES` at most: strong make-up on lips
# and eyes, blusher on cheeks.
STRENGTHS: dict[Part, tuple[float, float, float]] = {
    lips: (0.15, 0.12, 0.06),
    eyelids: (0.18, 0.08, 0.12),
    cheeks: (0.06, 0.06, 0.03),
}
AXES = ((1.0, 1.0, 1.0), (1.0, -0.5, 0.0), (0.0, 0.0, 1.0))  # RGB: lighter, redder, bluer
LEAST = (-1.0, 0.0, -1.0)  # make-up can also be darker or yellower, but no lips turn green
TEXTURE = 0.7  # most of the texture, which is of light and shade, as a share of the first axis'
GRAIN = 0.03  # deviation of its blur in eye distances: pigment, not noise
RATE = 0.1  # of Adam, on shares of those strengths
VIEWS = 2  # random views in each step, as in MAP's strong mode


@dataclass(frozen=True)
class MakeUp:
    """Colour and texture on lips, eyelids and cheeks.

    Attributes:
        steps: gradient steps, >= 1.
    """

    steps: int = 25
    name: str = "make-up"
    title: str = "make-up, own version"
    surrogates: ClassVar = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be >= 1, got {self.steps}.")

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the photo with its largest face made up; see `Method.protect`."""
        pipe.check_inputs(task.emotion, task.surrogates, "np")
        place = find_face(pipe, task.photo)
        masks = part_masks(pipe, task.photo, place)
        loss = identity_loss(pipe, task, place, find_target(pipe, task, place))
        generator = torch.Generator().manual_seed(task.seed)
        image = place.region.image.to(pipe.device)
        grain = GRAIN * place.eye_distance * place.region.scale[0]
        with torch.enable_grad():
            change = make_up(loss, image, masks.to(image), grain, self.steps, generator)
        return add_noise(task.photo, change.cpu(), place, eps=255)


def part_masks(pipe: MAPPipeline, photo: np.ndarray, place: FacePlace) -> Tensor:
    """Where in the region each part of `STRENGTHS` lies: `[3,1,h,w]` in [0,1].

    Raises:
        NoFaceError: the 68 landmarks can't be found.
    """
    there = find_shape(pipe, photo, place)
    height, width = place.region.image.shape[-2:]
    return torch.cat([part(there, (height, width)) for part in STRENGTHS])


def make_up(
    loss: Loss,
    image: Tensor,
    masks: Tensor,
    grain: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Find the make-up.

    Args:
        loss: to make small.
        image: `[1,3,h,w]` in [0,1].
        masks: `[3,1,h,w]` in [0,1], where each part of `STRENGTHS` lies.
        grain: standard deviation of the texture's blur, px.
        generator: CPU generator, the only source of randomness.

    Returns:
        the change `[1,3,h,w]` of the image, 0 outside of the masks.
    """
    least = image.new_tensor(LEAST)
    most, axes = image.new_tensor(list(STRENGTHS.values())), image.new_tensor(AXES)
    colour = nn.Parameter(torch.zeros_like(most))  # [3,3]
    texture = nn.Parameter(torch.zeros_like(image[:, :1]))  # [1,1,h,w]
    optimizer = torch.optim.Adam([colour, texture], lr=RATE)

    def paint() -> Tensor:
        flat = (most * colour) @ axes  # [3,3]: RGB of each part
        shade = TEXTURE * most[:, :1, None, None] * smooth(texture, grain)  # [3,1,h,w]
        change = masks * (flat[..., None, None] + shade)  # [3,3,h,w]
        return (image + change.sum(0, keepdim=True)).clamp(0, 1)

    for _ in range(steps):
        painted = paint()
        views = [random_view(painted, generator) for _ in range(VIEWS)]
        total = torch.stack([loss(view) for view in views]).mean()
        optimizer.zero_grad()
        total.backward()
        if not all(p.grad.isfinite().all() for p in (colour, texture)):
            raise NotFiniteError(
                "`photo` must give a finite gradient of the identity loss, got none."
            )
        optimizer.step()
        colour.data.clamp_(least, torch.ones_like(least))
        texture.data.clamp_(-1, 1)
    return (paint() - image).detach()
