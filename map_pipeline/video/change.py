"""A change of a face that is found on one frame and shown on others, tied to the face.

A change is a stack of layers on the face's crop: how features move, how skin is shaded, and what is
added. On another frame the layers follow the landmarks: each is deformed as the face was, so it
stays on cheek and lip while the head turns and the mouth speaks. What features move comes on top of
where they are in that frame; nothing of the frame's own expression is replaced.

Letters in shape comments: s side of the crop, H/W frame. A layer covers `[2s,2s]`, the crop and
half a side around it, as flows do (see `expression.warp`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.editor import (
    FINE,
    LOWER_LIP,
    UPPER_LIP,
    EditableFace,
    lip_gap,
    mobility,
    shading_map,
)
from map_pipeline.expression.shading import in_own_colour
from map_pipeline.expression.space import ExpressionSpace, straighten
from map_pipeline.expression.warp import (
    GRID,
    STRIP_PIXELS,
    UNMOVED,
    displacement,
    enlarge,
    flow_grid,
    join_flows,
    spread,
)
from map_pipeline.faces.align import (
    Alignment,
    affine_scale,
    apply_affine,
    bounding_box,
    compose_affine,
    invert_affine,
)
from map_pipeline.faces.paste import feather_mask
from map_pipeline.stages import FoundChange

# Reach of a landmark's motion when layers follow it, of the side: so far that all of the face does.
REACH = 0.5
FLOW, SHADING, ADDED = slice(0, 2), slice(2, 3), slice(3, 6)


@dataclass(frozen=True, eq=False)
class KeyChange:
    """A change as it was found on one frame.

    Attributes:
        frame: its index.
        landmarks: `[68,2]` crop px, where they are in the changed frame.
        moved: `[68,2]` crop px, how far the change moved them there.
        layers: `[1,6,2s,2s]`: flow x and y in crop px, the gain of the brightness' logarithm, and
            what is added to red, green and blue in [-1,1].
    """

    frame: int
    landmarks: Tensor
    moved: Tensor
    layers: Tensor


def express(
    space: ExpressionSpace, face: EditableFace, asked: tuple[Tensor, Tensor], frame: int = 0
) -> KeyChange:
    """The change that gives a face another expression; lips part no more than they did.

    Between lips that parted, something would have to be painted, and that can't follow speech.

    Args:
        asked: displacement `[536,2]` and shading `[1,1,S,S]`, see `expression.editor.asked_change`.
    """
    size, shape = face.alignment.size, face.shape.cpu().float()
    straight, to_frame = straighten(shape[None] / size, space.mean)
    moved, folds = asked
    reached = straight[0] + moved * mobility()
    reached[:POINTS] = keep_lips(straight[0, :POINTS], reached[:POINTS])
    in_crop = apply_affine(invert_affine(to_frame[0]), reached) * size
    controls = space.controls
    flow, places = displacement(shape[controls], in_crop[controls], size)
    shading = shading_map(space, folds, places, to_frame[0], size)
    shading = F.avg_pool2d(shading, FINE) * feather_mask(size)
    layers = torch.cat([flow, _around(shading), torch.zeros(1, 3, 2 * size, 2 * size)], 1)
    landmarks = places[:POINTS].float()  # all of them are controls
    return KeyChange(frame, landmarks, landmarks - shape[:POINTS], layers)


def keep_lips(before: Tensor, after: Tensor) -> Tensor:
    """Landmarks `[68,2]` whose inner lips are as far apart as before."""
    missing = lip_gap(before) - lip_gap(after)
    result = after.clone()
    result[list(UPPER_LIP), 1] -= missing / 2
    result[list(LOWER_LIP), 1] += missing / 2
    return result


def unchanged(landmarks: Tensor, size: int, frame: int = 0) -> KeyChange:
    """The change that does nothing to a face of landmarks `[68,2]` crop px."""
    return KeyChange(
        frame, landmarks, torch.zeros_like(landmarks), torch.zeros(1, 6, 2 * size, 2 * size)
    )


def joined(key: KeyChange, found: FoundChange) -> KeyChange:
    """A change with a protection that was found on the frame as the change shows it."""
    layers = key.layers.clone()
    moved = key.moved
    if found.flow is not None:
        layers[:, FLOW] = join_flows(key.layers[:, FLOW], found.flow)
        # A flow says where things come from; it's so smooth that they go as far the other way.
        here = _sample(found.flow, key.landmarks)
        moved = moved - here
    layers[:, ADDED] += _around(found.residual * found.mask)
    return KeyChange(key.frame, key.landmarks + moved - key.moved, moved, layers)


def follow(
    keys: Sequence[KeyChange], weights: Sequence[float], landmarks: Tensor, frame: int
) -> KeyChange:
    """A mix of changes as it looks on another frame.

    Args:
        weights: of the changes; their sum is 1.
        landmarks: `[68,2]` crop px in that frame, unchanged.
    """
    size = keys[0].layers.shape[-1] // 2
    moved = sum(weight * key.moved for key, weight in zip(keys, weights, strict=True))
    places = landmarks + moved
    grid = flow_grid(size).float()
    shares = spread(places, size, grid, REACH)  # [M,68]
    layers = torch.zeros_like(keys[0].layers)
    for key, weight in zip(keys, weights, strict=True):
        shift = key.landmarks - places
        coarse = (shares @ shift).T.reshape(1, 2, 2 * size // GRID, 2 * size // GRID)
        layers += weight * _moved(key.layers, enlarge(coarse, size))
    return KeyChange(frame, places, torch.as_tensor(moved), layers)


@torch.no_grad()
def show(frame: np.ndarray, alignment: Alignment, key: KeyChange) -> np.ndarray:
    """A frame `uint8 [H,W,3]` with a change, bit for bit itself where nothing changes."""
    box = _box(frame, alignment, key.layers)
    to_crop = alignment.image_to_crop.cpu().float()
    scale = float(affine_scale(to_crop))
    longest = float(key.layers[:, FLOW].square().sum(1).max().sqrt())
    reach = math.ceil(longest / scale) + 3
    layers, layer_scale = key.layers, 1.0
    if scale > 1:  # the frame shows less than the crop
        layers = F.interpolate(layers, scale_factor=1 / scale, mode="bilinear", antialias=True)
        layer_scale = layers.shape[-1] / key.layers.shape[-1]
    x0, y0, x1, y1 = box
    left, right = max(x0 - reach, 0), min(x1 + reach, frame.shape[1])
    result = frame.copy()
    rows = max(STRIP_PIXELS // max(x1 - x0, 1), 1)
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        above, below = max(top - reach, 0), min(bottom + reach, frame.shape[0])
        part = torch.from_numpy(frame[above:below, left:right].copy()).permute(2, 0, 1)[None]
        inner = (x0 - left, top - above, x1 - left, bottom - above)
        to_frame = torch.tensor([[1.0, 0.0, left], [0.0, 1.0, above]])
        affine = compose_affine(to_frame, to_crop)
        result[top:bottom, x0:x1] = _changed(part, inner, affine, layers, layer_scale)
    return result


def _changed(
    part: Tensor, inner: tuple[int, int, int, int], to_crop: Tensor, layers: Tensor, scale: float
) -> np.ndarray:
    """The box `inner` (x0, y0, x1, y1) of a part `uint8 [1,3,h,w]` of a frame, changed.

    Args:
        to_crop: `[2,3]` from px of the part.
        scale: px of the layers for one of the crop.
    """
    x0, y0, x1, y1 = inner
    height, width = part.shape[-2:]
    rows, columns = torch.arange(y0, y1).float(), torch.arange(x0, x1).float()
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # [y,x,2]
    in_crop = apply_affine(to_crop, pixels.reshape(-1, 2))
    side = layers.shape[-1]
    # Centres of pixels: the layers begin half a crop to the left of its first pixel.
    unit = (in_crop * scale + side / 4 + (scale - 1) / 2 + 0.5) * (2 / side) - 1
    unit = unit.reshape(1, y1 - y0, x1 - x0, 2)
    here = F.grid_sample(layers, unit, mode="bicubic", align_corners=False)  # [1,6,y,x]
    shift = here[0, FLOW].permute(1, 2, 0)
    source = pixels + shift @ invert_affine(to_crop)[:, :2].T
    within = source * source.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]) - 1
    image = part.float()
    warped = F.grid_sample(
        image, within[None], mode="bicubic", padding_mode="reflection", align_corners=True
    )
    still = (shift.abs().amax(-1) < UNMOVED)[None, None]
    warped = torch.where(still, image[..., y0:y1, x0:x1], warped)
    shade = in_own_colour(warped / 255 * here[:, SHADING].expm1(), warped / 255)
    changed = warped + 255 * (shade + here[:, ADDED])
    return changed[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _box(frame: np.ndarray, alignment: Alignment, layers: Tensor) -> tuple[int, int, int, int]:
    """The part of a frame in which the layers do anything: x0, y0, x1, y1 px."""
    size = layers.shape[-1] // 2
    used = (layers[0].abs() > 1e-4).any(0)  # [2s,2s]
    rows, columns = (torch.nonzero(used.any(axis))[:, 0] for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    (x0, x1), (y0, y1) = ((int(one[0]) - 2, int(one[-1]) + 2) for one in (columns, rows))
    corners = torch.tensor([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]).float() - size / 2
    in_frame = apply_affine(alignment.crop_to_image.cpu().float(), corners)
    return bounding_box(in_frame, frame.shape[1], frame.shape[0])


def _around(layer: Tensor) -> Tensor:
    """A layer `[1,C,s,s]` of the crop on `[1,C,2s,2s]`."""
    return F.pad(layer, [layer.shape[-1] // 2] * 4)


def _moved(layers: Tensor, shift: Tensor) -> Tensor:
    """Layers `[1,C,2s,2s]` seen at places that are shifted by `[1,2,2s,2s]` crop px."""
    side = layers.shape[-1]
    axis = torch.arange(side, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # [2,2s,2s]
    unit = ((grid + shift[0] + 0.5) * (2 / side) - 1).permute(1, 2, 0)[None]
    return F.grid_sample(layers, unit, mode="bicubic", align_corners=False)


def _sample(flow: Tensor, points: Tensor) -> Tensor:
    """A flow `[1,2,2s,2s]` at crop positions `[N,2]`, `[N,2]`."""
    side = flow.shape[-1]
    unit = ((points + side / 4 + 0.5) * (2 / side) - 1)[None, None]
    return F.grid_sample(flow, unit, align_corners=False)[0, :, 0].T
