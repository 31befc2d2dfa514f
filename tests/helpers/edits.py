"""Faces to edit, without a photo, and where an edit moves them."""

import torch
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.drawing import smooth
from map_pipeline.expression.editor import FINE, EditableFace, ExpressionEdit
from map_pipeline.expression.warp import _sample
from map_pipeline.faces.align import Alignment

SIZE = 128
PLACE = torch.tensor([[1.0, 0.0, 100.0], [0.0, 1.0, 90.0]])
BACK = torch.tensor([[1.0, 0.0, -100.0], [0.0, 1.0, -90.0]])
ALIGNMENT = Alignment(BACK, PLACE, SIZE)

LIGHT_SKIN, DARK_SKIN = (0.85, 0.7, 0.6), (0.25, 0.16, 0.12)


def texture() -> Tensor:
    """A smooth random crop at twice its resolution."""
    random = torch.rand(1, 3, FINE * SIZE, FINE * SIZE)
    return 0.25 + smooth(random, 3.0) / 2


def plain(colour: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, FINE * SIZE, FINE * SIZE).clone()


def face(shape: Tensor, crop: Tensor | None = None) -> EditableFace:
    """A face of a shape `[536,2]`, of the side."""
    return EditableFace(ALIGNMENT, texture() if crop is None else crop, shape * SIZE)


def landmarks_after(edit: ExpressionEdit, shape: Tensor) -> Tensor:
    """Where the landmarks `[68,2]` of a face are after an edit, of the side."""
    start = shape[:POINTS] * SIZE
    place = start
    for _ in range(200):  # what appears at a place comes from there plus the flow
        place = place + 0.5 * (start - place - _sample(edit.flow, place)[0].T)
    return place / SIZE
