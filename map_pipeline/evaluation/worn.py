"""What people wear, drawn on the largest face of a photo: glasses, a beard, make-up, a mask.

Collections with two photos per person, one of them like that, don't exist. The drawings are crude;
what counts is that features are covered or change their look as they would.
"""

from collections.abc import Callable
from functools import lru_cache, wraps

import numpy as np
import torch
from torch import Tensor

from map_pipeline.errors import NoFaceError
from map_pipeline.evaluation.face_parts import cheeks, eye_distance, eyelids, lips
from map_pipeline.expression.drawing import polygon_mask, smooth
from map_pipeline.faces.detect import FaceDetector, load_detector
from map_pipeline.faces.landmarks import EYES, MOUTH, LandmarkFinder
from map_pipeline.images import to_array, to_pil, uint8_tensor

Draw = Callable[[Tensor, Tensor], Tensor]
"""A picture `[1,3,h,w]` in [0,1] and landmarks `[68,2]` px in, the picture with something drawn."""

SEED = 0  # of hairs and folds
BASE = 33  # of the nose, where a mask and a beard begin
# Lengths below are in eye distances, colours RGB in [0,1].
FRAME = (0.08, 0.06, 0.06)
LENS, RIM, TINT = (0.36, 0.29), 0.045, 0.06  # half axes, width, and how much the lens darkens
CLOTH, FOLDS = (0.55, 0.72, 0.86), 0.05
HAIR, DENSITY, STRAND = 0.3, 0.75, 0.012  # what is left of the skin's light, share covered, width
MADE_UP = {lips: (0.72, 0.05, 0.16), eyelids: (0.28, 0.12, 0.34), cheeks: (0.9, 0.35, 0.4)}
OPACITY = {lips: 0.75, eyelids: 0.6, cheeks: 0.25}


def on_face(draw: Draw) -> Callable[[np.ndarray], np.ndarray]:
    """A filter of photos `uint8 [H,W,3]`; it raises `NoFaceError` for those without a face."""

    @wraps(draw)
    def filtered(photo: np.ndarray) -> np.ndarray:
        detector, finder = _finders()
        faces = detector.detect(photo)
        found = finder.find(photo, faces[0].box) if faces else None
        if found is None:
            raise NoFaceError("`image` must show a face that something can be drawn on, got none.")
        drawn = draw(uint8_tensor(photo).float() / 255, torch.from_numpy(found[0]))
        return to_array(to_pil(drawn.clamp(0, 1)))

    return filtered


@on_face
def glasses(photo: Tensor, shape: Tensor) -> Tensor:
    """Glasses with a dark frame and lenses that take a little light."""
    unit, size = eye_distance(shape), max(photo.shape[-2:])
    left, right = (shape[eye].mean(0) for eye in EYES)
    across = (right - left) / (right - left).norm()
    frame, lens = torch.zeros(1, 1, size, size), torch.zeros(1, 1, size, size)
    for middle in (left, right):
        outer = polygon_mask(_ellipse(middle, across, [(a + RIM) * unit for a in LENS]), size)
        inner = polygon_mask(_ellipse(middle, across, [a * unit for a in LENS]), size)
        frame, lens = torch.maximum(frame, outer - inner), torch.maximum(lens, inner)
    inside = LENS[0] * unit
    for start, end in (
        (left + across * inside, right - across * inside),
        (left - across * inside, shape[0]),
        (right + across * inside, shape[16]),
    ):
        frame = torch.maximum(frame, polygon_mask(_bar(start, end, RIM * unit), size))
    return _blend(photo * (1 - TINT * _cut(lens, photo)), FRAME, _cut(frame, photo))


@on_face
def mask(photo: Tensor, shape: Tensor) -> Tensor:
    """A surgical mask that is worn below the nose."""
    size, unit = max(photo.shape[-2:]), eye_distance(shape)
    area = polygon_mask(torch.cat([shape[3:14], shape[BASE : BASE + 1]]), size)
    # Pleats across, and light that falls off to the sides as on the face below.
    rows = torch.arange(photo.shape[-2])[:, None] / (0.22 * unit)
    light = 1 + FOLDS * torch.sin(rows * 2 * torch.pi) - FOLDS
    cloth = torch.tensor(CLOTH).view(1, 3, 1, 1) * light
    shade = smooth(photo.mean(1, keepdim=True), 0.3 * unit)
    cloth = cloth * (0.5 + shade).clamp(0.5, 1.2)
    amount = _cut(smooth(area, 0.01 * unit), photo)
    return photo * (1 - amount) + cloth * amount


@on_face
def beard(photo: Tensor, shape: Tensor) -> Tensor:
    """A full dark beard, the lips free."""
    size, unit = max(photo.shape[-2:]), eye_distance(shape)
    top = [torch.lerp(shape[a], shape[b], share) for a, b, share in ((12, 54, 0.6), (4, 48, 0.6))]
    points = torch.cat([shape[4:13], top[0][None], shape[BASE][None], top[1][None]])
    free = polygon_mask(shape[MOUTH], size)
    area = smooth(polygon_mask(points, size), 0.05 * unit) * (1 - smooth(free, 0.02 * unit))
    noise = torch.rand(photo.shape[-2:], generator=torch.Generator().manual_seed(SEED))
    strands = smooth(noise[None, None], max(STRAND * unit, 0.5))
    strands = (strands - strands.mean()) / strands.std()
    covered = (DENSITY + 0.2 * strands).clamp(0, 1) * _cut(area, photo)
    return photo * (1 - covered) + photo * HAIR * covered


@on_face
def make_up(photo: Tensor, shape: Tensor) -> Tensor:
    """Strong make-up: dark lids, red lips, blusher."""
    size = (photo.shape[-2], photo.shape[-1])
    for part, colour in MADE_UP.items():
        photo = _blend(photo, colour, OPACITY[part] * part(shape, size))
    return photo


@lru_cache(maxsize=1)
def _finders() -> tuple[FaceDetector, LandmarkFinder]:
    return load_detector("bundled"), LandmarkFinder()


def _ellipse(middle: Tensor, across: Tensor, axes: list[float]) -> Tensor:
    """Points `[64,2]` px around an ellipse whose first axis lies along `across`."""
    turn = torch.linspace(0, 2 * torch.pi, 65)[:-1, None]
    down = torch.stack([-across[1], across[0]])
    return middle + axes[0] * turn.cos() * across + axes[1] * turn.sin() * down


def _bar(start: Tensor, end: Tensor, width: float) -> Tensor:
    """Corners `[4,2]` px of a line of this width."""
    along = (end - start) / (end - start).norm().clamp(min=1e-6)
    side = torch.stack([-along[1], along[0]]) * width / 2
    return torch.stack([start + side, end + side, end - side, start - side])


def _cut(drawn: Tensor, photo: Tensor) -> Tensor:
    """The part of a square mask that lies on the picture."""
    return drawn[..., : photo.shape[-2], : photo.shape[-1]]


def _blend(photo: Tensor, colour: tuple[float, float, float], amount: Tensor) -> Tensor:
    return photo * (1 - amount) + torch.tensor(colour).view(1, 3, 1, 1) * amount
