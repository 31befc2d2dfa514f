"""Putting a change of the aligned crop back: into the photo, and into the picture the losses see.

Both ways multiply the residual with a mask that fades to zero at the crop's border, bring it to the
target's resolution with the same code, and add it. The photo itself is never resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from map_pipeline.faces.align import (
    Alignment,
    affine_scale,
    apply_affine,
    bounding_box,
    compose_affine,
    crop_resize_affine,
    reduce_antialiased,
    square_corners,
    warp_affine,
)

# Most pixels that are warped at once, so that a face that fills a 50-megapixel photo needs no more
# memory than a small one (about 40 MB).
STRIP_PIXELS = 1_000_000


# Shape of the mask: |x|^p + |y|^p = 1. Between a circle (2), which would cut the chin, and a
# square, which would let changes of hair and background show.
MASK_EXPONENT = 2.5
BORDER = 0.3  # width of its fade, as a share of half the side

# What `quiet_features` keeps of a residual, and how far nose, eyes with their brows, and mouth
# reach, in eye distances. The nose's region is wider and higher than a nose: wings painted beside
# it would widen it, and bars painted above it would move the brows.
ON_NOSE, ON_EYES, ON_MOUTH = 0.2, 0.6, 0.2
BRIDGE_RADIUS, WINGS_RADIUS, EYE_RADIUS, MOUTH_RADIUS, EDGE = 0.25, 0.6, 0.45, 0.2, 0.3
ABOVE_EYES = 0.6  # where the nose's ridge begins, as a share of its length from eyes to tip


def feather_mask(size: int) -> Tensor:
    """A smooth rounded mask: 1 on the face, 0 from the crop's outermost pixels outwards.

    Args:
        size: side of the crop, px.

    Returns:
        `[1, 1, size, size]` float32 in [0, 1].
    """
    axis = torch.linspace(-1, 1, size).abs() ** MASK_EXPONENT
    radius = (axis[:, None] + axis[None, :]) ** (1 / MASK_EXPONENT)
    ramp = ((1 - radius) / BORDER).clamp(0, 1)
    return (ramp * ramp * (3 - 2 * ramp))[None, None]


def quiet_features(
    landmarks: Tensor, size: int, on_nose: float = ON_NOSE, on_eyes: float = ON_EYES
) -> Tensor:
    """How much of a change is kept where: less on what people know a face by.

    That is nose, eyes and brows. The mouth is spared, too: it shows the expression, and lips and
    teeth that are bent or painted over are what looks edited first.

    Args:
        landmarks: `[B,5,2]` crop px: eyes, nose tip, mouth corners.
        size: side of the crop, px.
        on_nose, on_eyes: what is kept there, in [0,1].

    Returns:
        `[B,1,size,size]` in [0,1].
    """
    axis = torch.arange(size, dtype=torch.float32, device=landmarks.device)
    pixels = torch.cartesian_prod(axis, axis).flip(1)  # [size * size,2]
    left, right, tip = landmarks[:, None, :3].float().unbind(2)  # [B,1,2]
    unit = (right - left).norm(dim=-1).clamp(min=1)
    # Distance to the nose's ridge, which ends where its wings are, and to the eyes.
    top = torch.lerp((left + right) / 2, tip, -ABOVE_EYES)
    to_nose, share = _to_segment(pixels, top, tip)
    nose_radius = BRIDGE_RADIUS + (WINGS_RADIUS - BRIDGE_RADIUS) * share
    to_eyes = torch.stack([(pixels - eye).norm(dim=-1) for eye in (left, right)]).amin(0)
    kept = _kept(to_nose / unit - nose_radius, on_nose)
    kept = kept.minimum(_kept(to_eyes / unit - EYE_RADIUS, on_eyes))
    kept = kept.minimum(quiet_mouth(landmarks, pixels))
    return kept.unflatten(1, (1, size, size))


def quiet_mouth(landmarks: Tensor, places: Tensor) -> Tensor:
    """How much of a change is kept at some places: little on the mouth. See `quiet_features`.

    Args:
        landmarks: `[B,5,2]` crop px; places: `[M,2]` crop px, perhaps outside of it.

    Returns:
        `[B,M]` in [0,1].
    """
    left, right, _, *corners = landmarks[:, None].float().unbind(2)  # [B,1,2]
    to_mouth, _ = _to_segment(places.float(), *corners)
    unit = (right - left).norm(dim=-1).clamp(min=1)
    return _kept(to_mouth / unit - MOUTH_RADIUS, ON_MOUTH)


def _to_segment(places: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Distance `[B,M]` of places `[M,2]` to segments between `[B,1,2]`, and the share of the way
    along them in [0,1] at which they're nearest."""
    along = (end - start).square().sum(-1).clamp(min=1)
    share = (((places - start) * (end - start)).sum(-1) / along).clamp(0, 1)
    return (places - torch.lerp(start, end, share[..., None])).norm(dim=-1), share


def _kept(beyond: Tensor, least: float) -> Tensor:
    """`least` where a place is on a feature, 1 from `EDGE` beyond it on, smooth between."""
    ramp = (beyond / EDGE).clamp(0, 1)
    return least + (1 - least) * ramp * ramp * (3 - 2 * ramp)


def add_residual(
    region_image: Tensor, residual: Tensor, region_to_crop: Tensor, mask: Tensor
) -> Tensor:
    """Add a change of the crop to pictures; differentiable in the pictures and the residual.

    Args:
        region_image: `[B, 3, h, w]` in [0, 1].
        residual: `[B, 3, s, s]`, difference of two crops in [0, 1].
        region_to_crop: `[B, 2, 3]` (or `[1, 2, 3]`) affine, px to px.
        mask: `[1, 1, s, s]` in [0, 1], see `feather_mask`.

    Returns:
        `[B, 3, h, w]` in [0, 1].
    """
    size = (region_image.shape[-2], region_image.shape[-1])
    change = _Change.of(residual * mask, region_to_crop)
    return (region_image + change.on(region_to_crop, size)).clamp(0, 1)


@torch.no_grad()
def paste_residual(
    photo: np.ndarray, residual: Tensor, alignment: Alignment, mask: Tensor, in_place: bool = False
) -> np.ndarray:
    """Add a change of the crop to a photo at full resolution.

    Args:
        photo: uint8 RGB `[H, W, 3]`; left as it is unless `in_place`.
        residual: `[1, 3, s, s]`, difference of two crops in [0, 1].
        alignment: where the crop lies in the photo; its size is s.
        mask: `[1, 1, s, s]` in [0, 1], see `feather_mask`.
        in_place: change `photo` itself, which saves a copy of all its pixels.

    Returns:
        uint8 RGB `[H, W, 3]`, bit for bit `photo` outside the crop.
    """
    size = alignment.size
    if residual.shape != (1, 3, size, size) or not residual.isfinite().all():
        raise ValueError(
            f"`residual` must be finite and of shape {[1, 3, size, size]}, "
            f"got {list(residual.shape)}{'' if residual.isfinite().all() else ' with NaN or inf'}."
        )
    photo_to_crop = alignment.image_to_crop[None].float().cpu()
    change = _Change.of((residual * mask).float().cpu(), photo_to_crop)
    centre = (size - 1) / 2
    corners = square_corners((centre, centre), centre)
    in_photo = apply_affine(alignment.crop_to_image.cpu(), corners)
    x0, y0, x1, y1 = bounding_box(in_photo, photo.shape[1], photo.shape[0])

    pasted = photo if in_place else photo.copy()
    rows = max(STRIP_PIXELS // (x1 - x0), 1)
    for top in range(y0, y1, rows):
        part = pasted[top : min(top + rows, y1), x0:x1]
        to_photo = torch.tensor([[[1.0, 0.0, x0], [0.0, 1.0, top]]])
        part_to_crop = compose_affine(to_photo, photo_to_crop)
        delta = change.on(part_to_crop, (part.shape[0], part.shape[1]))
        added = part + delta[0].permute(1, 2, 0).numpy() * 255
        part[:] = np.rint(added).clip(0, 255).astype(np.uint8)
    return pasted


@dataclass(frozen=True)
class _Change:
    """A masked residual at the resolution of the image it goes to, or at its own if that is less.

    Attributes:
        pixels: `[B, 3, r, r]`.
        crop_to_pixels: affine `[2, 3]`.
        crop_size: s.
    """

    pixels: Tensor
    crop_to_pixels: Tensor
    crop_size: int

    @classmethod
    def of(cls, change: Tensor, image_to_crop: Tensor) -> Self:
        """Band-limit a change `[B, 3, s, s]` for the coarsest image of the batch."""
        crop_px_per_image_px = float(affine_scale(image_to_crop).max())
        reduced, scale = reduce_antialiased(change, 1 / crop_px_per_image_px)
        return cls(reduced, crop_resize_affine((0, 0), scale), change.shape[-1])

    def on(self, image_to_crop: Tensor, size: tuple[int, int]) -> Tensor:
        """The change `[B, 3, h, w]` as it lies on an image of `size` (h, w); 0 outside the crop."""
        image_to_pixels = compose_affine(image_to_crop, self.crop_to_pixels.to(image_to_crop))
        # Bicubic: a bilinearly enlarged change would show its facets on the skin of large photos.
        spread = warp_affine(self.pixels, image_to_pixels, size, "zeros", mode="bicubic")
        # Interpolation reaches a little beyond the crop, where nothing may change.
        return spread * _inside(image_to_crop, size, self.crop_size)


def _inside(image_to_crop: Tensor, size: tuple[int, int], crop_size: int) -> Tensor:
    """Which pixels `[B, 1, h, w]` of an image lie within the crop."""
    rows = torch.arange(size[0], device=image_to_crop.device)[:, None]
    columns = torch.arange(size[1], device=image_to_crop.device)[None, :]
    a, b, c = image_to_crop[..., None, None].unbind(2)  # [B,2,1,1] each
    in_crop = a * columns + b * rows + c  # [B,2,h,w]
    return ((in_crop >= 0) & (in_crop <= crop_size - 1)).all(1, keepdim=True)
