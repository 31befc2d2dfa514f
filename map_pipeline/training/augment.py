"""Variations of aligned faces that leave them natural: mirror image, small shifts, loss of colour.

Whole-pixel shifts and mirroring keep every pixel's value, so the network learns sharp pictures.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.diffusion.conditioner import Condition
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.faces.landmarks import MIRRORED

MAX_SHIFT = 3  # px
GREY_SHARE = 0.15  # of the colour pictures that are shown without colour


@dataclass(frozen=True, eq=False)
class Batch:
    """Faces as a training step sees them.

    Attributes:
        images: `[B,3,S,S]` in [0,1].
        emotions: `[B,7]`; landmarks68: `[B,68,2]` in units of the side; has_landmarks, grey: `[B]`.
    """

    images: Tensor
    emotions: Tensor
    landmarks68: Tensor
    has_landmarks: Tensor
    grey: Tensor

    @property
    def condition(self) -> Condition:
        """The condition of these faces, complete."""
        return Condition(
            self.emotions, self.landmarks68, self.has_landmarks.float(), self.grey.float()
        )

    def first(self, count: int) -> "Batch":
        """The first `count` of these faces."""
        tensors = (self.images, self.emotions, self.landmarks68, self.has_landmarks, self.grey)
        return Batch(*(tensor[:count] for tensor in tensors))


def augment(batch: Batch, generator: torch.Generator) -> Batch:
    """A random variation of every face; `generator` lives on the batch's device."""
    images, landmarks68 = mirror(batch.images, batch.landmarks68, _coin(batch, 0.5, generator))
    images, landmarks68 = shift(images, landmarks68, _shifts(batch, generator))
    lose = _coin(batch, GREY_SHARE, generator) & ~batch.grey
    images = torch.where(lose[:, None, None, None], to_grey(images).expand_as(images), images)
    return Batch(images, batch.emotions, landmarks68, batch.has_landmarks, batch.grey | lose)


def mirror(images: Tensor, landmarks68: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror the `chosen` `[B]` faces, landmarks included."""
    index = torch.as_tensor(MIRRORED, device=landmarks68.device)
    flipped = landmarks68[:, index]
    side = images.shape[-1]
    # Pixel centres at integers: column 0 goes to column side - 1.
    flipped = torch.stack([(side - 1) / side - flipped[..., 0], flipped[..., 1]], -1)
    return (
        torch.where(chosen[:, None, None, None], images.flip(-1), images),
        torch.where(chosen[:, None, None], flipped, landmarks68),
    )


def shift(images: Tensor, landmarks68: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Move faces by whole pixels `[B,2]` (x, y), at most `MAX_SHIFT`; the border is reflected."""
    count, _, side, _ = images.shape
    padded = F.pad(images, [MAX_SHIFT] * 4, mode="reflect")
    line = torch.arange(side, device=images.device) + MAX_SHIFT
    columns, rows = line - shifts[:, :1], line - shifts[:, 1:]  # [B,S]
    which = torch.arange(count, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2), landmarks68 + shifts[:, None].to(landmarks68) / side


def _coin(batch: Batch, share: float, generator: torch.Generator) -> Tensor:
    device = batch.images.device
    return torch.rand(len(batch.images), generator=generator, device=device) < share


def _shifts(batch: Batch, generator: torch.Generator) -> Tensor:
    shape, device = (len(batch.images), 2), batch.images.device
    return torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, shape, generator=generator, device=device)
