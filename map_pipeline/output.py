"""What `MAPPipeline` returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from map_pipeline.images import as_picture, to_tensor
from map_pipeline.photos import PhotoTask
from map_pipeline.report import FaceReport


@dataclass
class MAPPipelineOutput(BaseOutput):
    """Result of `MAPPipeline`.

    Attributes:
        images: protected photos in the order and size of the input: PIL images in mode RGB, or RGBA
            for a photo that is transparent somewhere; or, for the output types "np" and "pt", one
            float array `[N,H,W,C]` or tensor `[N,C,H,W]` in [0,1] on white, and a list of N arrays
            `[H,W,C]` or tensors `[C,H,W]` where the photos differ in size.
        reports: for each photo one `FaceReport` per protected face; its `photo` counts the others.
    """

    images: list[PIL.Image.Image] | np.ndarray | Tensor | list[np.ndarray] | list[Tensor]
    reports: list[list[FaceReport]]


def convert_photos(
    photos: Sequence[np.ndarray], originals: Sequence[PhotoTask], output_type: str
) -> list[PIL.Image.Image] | np.ndarray | Tensor | list[np.ndarray] | list[Tensor]:
    """`MAPPipelineOutput.images` of an output type, from photos `uint8 [H,W,3]`."""
    if output_type == "pil":
        return [
            as_picture(photo, one.photo, one.cutout)
            for photo, one in zip(photos, originals, strict=True)
        ]
    same_size = len({photo.shape for photo in photos}) == 1
    tensors = [to_tensor(photo)[0] for photo in photos]  # [3,H,W] each
    if output_type == "pt":
        return torch.stack(tensors) if same_size else tensors
    arrays = [tensor.permute(1, 2, 0).numpy() for tensor in tensors]
    return np.stack(arrays) if same_size else arrays
