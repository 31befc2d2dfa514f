"""Label aligned faces with what networks see: emotion probabilities and 68 landmarks.

The "labelled dataset" that the paper fine-tunes on. Emotions given by hand (`labels.jsonl`) win
over the networks' mean opinion; landmarks that disagree with the alignment are dropped.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from map_pipeline.expression.classifiers import ExpressionClassifier, mean_probabilities
from map_pipeline.faces.landmarks import LandmarkFinder
from map_pipeline.training.faces import (
    FaceSet,
    find_grey,
    hand_emotions,
    labels_path,
    read_hand_labels,
    read_pictures,
    write_labels,
)

BATCH = 64


def label(source: Path, template: Tensor, classifiers: Collection[ExpressionClassifier]) -> FaceSet:
    """Label a data set and store the labels beside it.

    Args:
        source: folder or zip, see `map_pipeline.training.faces`.
        template: `[5,2]`, where its faces have eyes, nose and mouth corners, in units of the side.
        classifiers: expression networks whose probabilities are averaged.
    """
    names, images = read_pictures(source)
    by_hand = hand_emotions(names, read_hand_labels(source))
    seen = torch.cat(
        [_emotions(batch, template, classifiers) for batch in tqdm(images.split(BATCH), "emotions")]
    )
    landmarks68, found = _landmarks(images, template)
    known = by_hand.sum(1, keepdim=True) > 0
    emotions = torch.where(known, by_hand, seen)
    faces = FaceSet(names, images, emotions, landmarks68, found, find_grey(images))
    write_labels(labels_path(source), faces)
    return faces


@torch.no_grad()
def _emotions(
    images: Tensor, template: Tensor, classifiers: Collection[ExpressionClassifier]
) -> Tensor:
    """Mean probabilities `[B,7]` of `uint8 [B,3,S,S]`."""
    landmarks = (template * images.shape[-1]).expand(len(images), -1, -1)
    pixels = images.float() / 255
    return mean_probabilities(classifiers, pixels, landmarks)


def _landmarks(images: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks `[N,68,2]` in units of the side and whether they were found `[N]`."""
    finder, size = LandmarkFinder(), images.shape[-1]
    start = template.numpy().astype(np.float32) * size
    landmarks68, found = torch.zeros(len(images), 68, 2), torch.zeros(len(images)).bool()
    for row, image in enumerate(tqdm(images, "landmarks")):
        points = finder.find_aligned(image.permute(1, 2, 0).numpy(), start)
        if points is not None:
            landmarks68[row], found[row] = torch.from_numpy(points) / size, True
    return landmarks68, found
