"""Gender and age of a set's people as FaceRes guesses them, for rates by group.

The bundled FaceRes is the same network without these two outputs, so its package is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from map_pipeline.errors import InvalidImageError
from map_pipeline.evaluation.dataset import PhotoSet, Problem
from map_pipeline.evaluation.gallery import NO_FACE
from map_pipeline.graph.convert import tfjs
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.images import load_image, to_array
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.training.conversion import RECIPES, find_file

FACERES = RECIPES["faceres"]
# A probability of a man, and those of the years of age from 0 on.
GENDER, AGE = "gender_pred/Sigmoid", "age_pred/Softmax"


class AttributeNetwork:
    """FaceRes with its outputs for gender and age.

    Args:
        source: `faceres.json` with its weights beside it, or a folder with both somewhere in it.

    Raises:
        CheckpointError: it isn't there, or can't be read.
    """

    def __init__(self, source: Path) -> None:
        file = find_file(source, FACERES.file)
        self._gender, self._age = (_load(file, output) for output in (GENDER, AGE))

    @torch.no_grad()
    def guess(self, pipe: MAPPipeline, photo: np.ndarray) -> dict[str, Any] | None:
        """Gender ("female", "male") and age in years of a photo's largest face; None without one.

        Args:
            photo: uint8 RGB `[H,W,3]`.
        """
        faces = pipe.face_detector.detect(photo)
        if not faces:
            return None
        crop = self._gender.crop(*(one.cpu() for one in pipe.view(photo, faces[0].landmarks)))
        years = self._age.raw(crop)[0]
        age = float((years * torch.arange(len(years))).sum())
        male = float(self._gender.raw(crop)) > 0.5
        return {"gender": "male" if male else "female", "age": round(age)}


def guess_attributes(
    pipe: MAPPipeline, network: AttributeNetwork, photos: PhotoSet
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """One entry for each person's first photo, see `dataset.read_attributes`; and those without."""
    entries, problems = [], []
    for pair in photos.pairs:
        if pair.first is None:
            continue
        try:
            found = network.guess(pipe, to_array(load_image(photos.read(pair.first))))
        except (InvalidImageError, OSError) as error:
            problems.append(Problem(pair.first, " ".join(str(error).split())))
            continue
        if found is None:
            problems.append(Problem(pair.first, NO_FACE))
        else:
            entries.append({"name": pair.name, **found})
    return entries, problems


def _load(file: Path, output: str) -> FaceRecogniser:
    nodes, state = tfjs.convert(file, output)
    network = FaceRecogniser(nodes=nodes, **FACERES.config)
    network.network.load_state_dict(state)
    return network.eval()
