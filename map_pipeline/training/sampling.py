"""Draws training batches from faces that live on the training device."""

import numpy as np
import torch
from torch import Tensor

from map_pipeline.training.augment import Batch
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.faces import FaceSet


class FaceSampler:
    """Draws batches of faces from a set that lives on the training device."""

    def __init__(
        self, faces: FaceSet, config: PriorConfig, device: torch.device, seed: int
    ) -> None:
        self._faces = as_batch(faces, device, pixels=False)
        self._pixels = faces.images.to(device)
        self._weights = emotion_weights(faces.emotions, config.balance).to(device)
        self._size = config.batch_size
        self._seed = seed
        self.generator = torch.Generator(device).manual_seed(seed)

    def seek(self, update: int) -> None:
        """Go to the draws of an update; they are the same in every run with this seed."""
        self.generator.manual_seed(mixed_seed(self._seed, update))

    def __call__(self) -> Batch:
        """A batch, with replacement."""
        index = torch.multinomial(
            self._weights, self._size, replacement=True, generator=self.generator
        )
        labels = self._faces
        return Batch(
            self._pixels[index].float() / 255,
            labels.emotions[index],
            labels.landmarks68[index],
            labels.has_landmarks[index],
            labels.grey[index],
        )


def mixed_seed(*numbers: int) -> int:
    """A seed made of several numbers, such as a run's seed and the update."""
    [mixed] = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(mixed >> 1)


def emotion_weights(emotions: Tensor, balance: float) -> Tensor:
    """How often to draw each face `[N]`, mean 1: emotions of share s count s^-balance.

    Faces of unknown emotion are drawn as often as the others on average.

    Args:
        emotions: `[N,7]` probabilities, rows of zeros are unknown.
        balance: in [0,1].
    """
    known = emotions.sum(1) > 0
    if not known.any():
        return torch.ones(len(emotions))
    share = emotions[known].mean(0).clamp(min=1e-4)
    weights = emotions @ share.pow(-balance)
    return torch.where(known, weights / weights[known].mean(), 1.0)


def as_batch(faces: FaceSet, device: torch.device, pixels: bool = True) -> Batch:
    """All faces on a device; `images` is empty without `pixels`."""
    images = faces.images.to(device).float() / 255 if pixels else torch.empty(0, device=device)
    labels = (faces.emotions, faces.landmarks68, faces.has_landmarks, faces.grey)
    return Batch(images, *(value.to(device) for value in labels))
