"""Moving the features of a face: a smooth deformation from where landmarks are to where they go.

A diffusion model repaints; it hardly moves anything, since inversion ties it to the picture. So the
geometry of an expression - raised brows, lips apart, corners of the mouth up - is made by a warp of
the photo at its own resolution, and the score network only paints what a warp can't (teeth, folds).

A flow is a field `[1,2,2s,2s]` in px of the aligned crop of side s. It is centred on the crop and
reaches half a side beyond it, since the chin lies at the crop's border and has to move with the
jaw. Its entry at (row, column) belongs to the crop's position (column - s/2, row - s/2) and says
how far from there the picture that appears there comes from (x, y).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.drawing import polygon_mask
from map_pipeline.faces.align import (
    Alignment,
    affine_scale,
    apply_affine,
    bounding_box,
    compose_affine,
    invert_affine,
    pixel_grid,
    square_corners,
)
from map_pipeline.faces.paste import feather_mask

# Reach of a point's motion, as a share of the crop's side: hair and background stay in place. With
# less (.10), lips that part fold sooner.
REACH = 0.14
# Share of a landmark's own motion that is traded for smoothness: small errors of single landmarks
# shall not print creases. Lips close and part by opposite motions of points that nearly touch.
# Points between the landmarks only lead the skin along.
SMOOTHING, LIP_SMOOTHING, SKIN_SMOOTHING = 0.03, 0.02, 0.1
LIPS, INNER_LIPS, SKIN = slice(48, 68), slice(60, 68), slice(68, None)  # landmarks come first
# The motion is made of so many small ones: each is far from folding over, and so is their sequence.
STEPS = 10
# Least area factor of the whole map; where landmarks ask for less, the motion is made smaller.
MIN_AREA, SMALLER = 0.03, 0.8
UNMOVED = 0.02  # crop px; what moves less keeps its bits
STRIP_PIXELS = 1_000_000  # most photo pixels warped at once, see `faces.paste`
GRID = 4  # it is evaluated at every so many px of the crop and enlarged from there


def displacement(
    landmarks: Tensor, moved: Tensor, size: int, mouth_painted: bool = False
) -> tuple[Tensor, Tensor]:
    """The flow that brings landmarks to other places, and where it brings them; never folds.

    Interpolation with Wendland's C2 function (1995, https://doi.org/10.1007/BF02123482): smooth as
    a thin-plate spline, but zero beyond its reach.

    Args:
        landmarks: `[N,2]` crop px, where they are; see `spread`.
        moved: `[N,2]` crop px, where they shall be.
        size: s, side of the crop, px.
        mouth_painted: whether something is painted between the lips, so that it may fold there.
            Lips that nearly touch could else hardly part.

    Returns:
        the flow `[1,2,2s,2s]`, and the places reached `[N,2]` crop px: `moved`, or on the way
        there if going all of it would fold the picture.
    """
    start, goal = landmarks.detach().double().cpu(), moved.detach().double().cpu()
    reached, share = goal, 1.0
    least = _least_skin_area if mouth_painted else lambda flow, *_: least_area(flow)
    while least(flow := _sequence(start, reached, size), reached, size) < MIN_AREA:
        share *= SMALLER
        reached = torch.lerp(start, goal, share)
    return flow * feather_mask(2 * size), reached.to(moved)


def _sequence(landmarks: Tensor, moved: Tensor, size: int) -> Tensor:
    """The flow `[1,2,2s,2s]` that goes the way in `STEPS` small motions, one after the other.

    Args:
        landmarks: `[N,2]` crop px, where they are.
        moved: `[N,2]` crop px, where they shall be.
    """
    centres, shifts = moved, landmarks - moved
    grid = points = flow_grid(size)
    for _ in range(STEPS):
        points = points + _smooth_motion(centres, shifts / STEPS, size, points)
        centres = centres + shifts / STEPS
    coarse = 2 * size // GRID
    return enlarge((points - grid).T.reshape(1, 2, coarse, coarse).float(), size)


def flow_grid(size: int) -> Tensor:
    """Positions `[M,2]` (float64, crop px) at which flows are evaluated, row after row."""
    axis = torch.linspace(-size / 2, 1.5 * size - 1, 2 * size // GRID, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)


def enlarge(flows: Tensor, size: int) -> Tensor:
    """Flows `[B,2,2s,2s]` from their values on `flow_grid`."""
    return F.interpolate(flows, (2 * size, 2 * size), mode="bicubic", align_corners=True)


def _smooth_motion(centres: Tensor, shifts: Tensor, size: int, points: Tensor) -> Tensor:
    """The motion `[M,2]` of `points` `[M,2]` that moves `centres` `[N,2]` by about `shifts`."""
    return spread(centres, size, points, REACH) @ shifts


def spread(centres: Tensor, size: int, points: Tensor, reach: float) -> Tensor:
    """Shares `[...,M,N]` of the shifts of `centres` `[...,N,2]` that move `points` `[M,2]`.

    Args:
        centres: the 68 landmarks, and perhaps points of the skin.
        size: s, side of the crop, px.
        reach: of a centre's motion, as a share of the crop's side.
    """
    rounding = centres.new_full((centres.shape[-2],), SMOOTHING)
    rounding[LIPS], rounding[SKIN] = LIP_SMOOTHING, SKIN_SMOOTHING
    kernel = _kernel(torch.cdist(centres, centres) / (reach * size)) + rounding.diag()
    towards = _kernel(torch.cdist(centres, points) / (reach * size))
    return torch.linalg.solve(kernel, towards).transpose(-1, -2)


def least_area(flow: Tensor) -> float:
    """Smallest area factor of the map of a flow `[1,2,h,w]`; negative where it folds over."""
    return float(_areas(flow).min())


def _least_skin_area(flow: Tensor, landmarks: Tensor, size: int) -> float:
    """`least_area` beside what lies between the lips; `landmarks` `[N,2]` crop px after it."""
    mouth = polygon_mask(landmarks[INNER_LIPS] + size / 2, 2 * size)[0, 0, :-1, :-1]
    return float(_areas(flow)[mouth == 0].min())


def _areas(flow: Tensor) -> Tensor:
    """Area factors `[h-1,w-1]` of the map of a flow `[1,2,h,w]`."""
    x, y = flow[0]
    dx_dx, dx_dy = 1 + x.diff(dim=1)[:-1], x.diff(dim=0)[:, :-1]
    dy_dx, dy_dy = y.diff(dim=1)[:-1], 1 + y.diff(dim=0)[:, :-1]
    return dx_dx * dy_dy - dx_dy * dy_dx


def deform(image: Tensor, image_to_crop: Tensor, flow: Tensor) -> Tensor:
    """Deform the faces in `image` `[B,C,h,w]`; differentiable, what doesn't move is unchanged.

    Args:
        image_to_crop: `[2,3]` affine, px to px, the same for all.
        flow: `[B,2,2s,2s]` crop px, see `displacement`.
    """
    height, width = image.shape[-2:]
    affine = image_to_crop.to(image.device, torch.float32)
    pixels = pixel_grid(height, width, image.device)
    in_crop = apply_affine(affine, pixels.reshape(-1, 2))
    shift = _sample(flow.to(image.device), in_crop).transpose(1, 2).reshape(-1, height, width, 2)
    source = pixels + shift @ invert_affine(affine)[:, :2].T
    unit = source * pixels.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]) - 1
    warped = F.grid_sample(
        image.float(), unit, mode="bicubic", padding_mode="reflection", align_corners=True
    ).clamp(0, 1)
    if flow.requires_grad:  # what doesn't move yet must feel that it could
        return warped
    still = (shift.abs().amax(-1) < UNMOVED)[:, None]
    return torch.where(still, image.float(), warped)


def deform_crop(crop: Tensor, flow: Tensor) -> Tensor:
    """Deform aligned crops `[B,3,s,s]` themselves."""
    return deform(crop, torch.eye(2, 3), flow)


def join_flows(first: Tensor, second: Tensor) -> Tensor:
    """The flow `[1,2,2s,2s]` that deforms as `first` does and the result of that as `second`."""
    side = first.shape[-1]
    axis = torch.arange(side, dtype=first.dtype, device=first.device) - side / 4
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # [2,2s,2s]
    seen = (grid + second[0]).flatten(1).T
    return second + _sample(first, seen).reshape(second.shape)


@torch.no_grad()
def deform_photo(photo: np.ndarray, alignment: Alignment, flow: Tensor) -> np.ndarray:
    """Deform a face of a photo `uint8 [H,W,3]` at full resolution.

    Args:
        alignment: where the crop lies in the photo.
        flow: `[1,2,2s,2s]` crop px, see `displacement`.

    Returns:
        `uint8 [H,W,3]`, bit for bit `photo` where nothing moves.
    """
    centre = (alignment.size - 1) / 2
    corners = apply_affine(
        alignment.crop_to_image.cpu().float(),
        square_corners((centre, centre), alignment.size + 0.5),
    )
    x0, y0, x1, y1 = bounding_box(corners, photo.shape[1], photo.shape[0])
    to_crop = alignment.image_to_crop.cpu().float()
    # How far a strip has to reach into its neighbours, px of the photo; 3 for the interpolation.
    longest = float(flow.square().sum(1).max().sqrt())
    reach = math.ceil(longest / float(affine_scale(to_crop))) + 3
    left, right = max(x0 - reach, 0), min(x1 + reach, photo.shape[1])
    result = photo.copy()
    rows = max(STRIP_PIXELS // (x1 - x0), 1)
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        above, below = max(top - reach, 0), min(bottom + reach, photo.shape[0])
        part = torch.from_numpy(photo[above:below, left:right].copy()).permute(2, 0, 1)[None]
        to_photo = torch.tensor([[1.0, 0.0, left], [0.0, 1.0, above]])
        warped = deform(part.float() / 255, compose_affine(to_photo, to_crop), flow.cpu())
        pixels = (warped[0].permute(1, 2, 0) * 255).round().byte().numpy()
        result[top:bottom, x0:x1] = pixels[top - above : bottom - above, x0 - left : x1 - left]
    return result


def _kernel(distance: Tensor) -> Tensor:
    """Wendland's C2 function of distances as shares of its reach."""
    return (1 - distance).clamp(min=0) ** 4 * (4 * distance + 1)


def _sample(flow: Tensor, points: Tensor) -> Tensor:
    """Flows `[B,2,2s,2s]` at crop positions `[N,2]`, `[B,2,N]`; 0 beyond the flow."""
    side = flow.shape[-1]
    unit = ((points + side / 4) * (2 / (side - 1)) - 1).expand(len(flow), 1, -1, -1)
    return F.grid_sample(flow, unit, mode="bilinear", align_corners=True)[:, :, 0]
