"""Shared by the tests that call the pipeline."""

import numpy as np
import torch

from map_pipeline import MAPPipeline
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.faces.align import Alignment

QUICK = {"num_inversion_steps": 2, "num_generation_steps": 2, "refine_steps": 1, "target": "first"}


def crop_area(
    pipe: MAPPipeline, photo: np.ndarray, landmarks: np.ndarray, margin: float = 0.0
) -> np.ndarray:
    """Which pixels `[H,W]` lie in the score network's crop of a face, and so many sides around."""
    size = crop_size(pipe.unet)
    template = torch.tensor(pipe.config.alignment_template) * size
    affine = Alignment.from_landmarks(torch.tensor(landmarks), template, size).image_to_crop
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    in_crop = np.einsum("ij,jhw->ihw", affine.numpy(), np.stack([x, y, np.ones_like(x)]))
    beyond = margin * size + 1e-3
    return ((in_crop > -beyond) & (in_crop < size - 1 + beyond)).all(0)


def center(box: tuple[float, ...]) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
