"""Similarity alignment of faces: five landmarks -> affine transforms -> differentiable crops.

Coordinates are pixels, x to the right, y down, with pixel centres at integers (as in OpenCV and
dlib). An affine is a float32 tensor `[..., 2, 3]` named after what it maps, e.g. `image_to_crop`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Landmark order everywhere: left eye, right eye (image left first), nose tip, mouth corners.
# ArcFace's reference positions in a 112 px crop (insightface `arcface_dst`).
ARCFACE_TEMPLATE_112 = torch.tensor(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
# Mean five-point position in dlib's 150 px face chip (padding 0.25), measured on CelebA-HQ.
DLIB_TEMPLATE_150 = torch.tensor(
    [[46.8, 45.9], [100.2, 46.2], [73.6, 77.5], [49.4, 101.4], [97.7, 101.5]]
)

# Distance between the eyes in ARCFACE_TEMPLATE_112, px.
_TEMPLATE_EYE_DISTANCE = 35.238
# Half side and centre, in ARCFACE_TEMPLATE_112 px, of the square that holds the ArcFace crop
# (y 0..112), the same crop lowered by 6 % of its side (y 7..119) and dlib's chip (y 21..120).
_REGION_HALF_SIDE = 60.0
_REGION_CENTRE = (56.0, 60.0)
_REGION_MARGIN = 1.15  # side of a region as a multiple of that square's


def arcface_template(size: int, raise_by: float = 0.0) -> Tensor:
    """ArcFace's five points `[5, 2]` for a crop of `size` px, raised by `raise_by` of the side."""
    template = ARCFACE_TEMPLATE_112 * (size / 112)
    return template - torch.tensor([0.0, raise_by * size])


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity (rotation, uniform scale, shift; never a reflection) as an affine.

    Args:
        source: points `[B, N, 2]` px, N >= 2 and not all equal.
        target: points `[B, N, 2]` or `[N, 2]` px.

    Returns:
        `source_to_target` `[B, 2, 3]`, differentiable with respect to both point sets.
    """
    target = target.to(source)
    source_mean = source.mean(-2, keepdim=True)
    target_mean = target.mean(-2, keepdim=True)
    p, q = source - source_mean, target - target_mean
    # Umeyama (1991) in two dimensions needs no SVD: [[a, -b], [b, a]] with a + ib = <p, q> / |p|^2.
    norm = p.square().sum((-2, -1))
    a = (p * q).sum((-2, -1)) / norm
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(-1) / norm
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    shift = target_mean.transpose(-1, -2) - linear @ source_mean.transpose(-1, -2)
    return torch.cat([linear, shift], -1)


def apply_affine(affine: Tensor, points: Tensor) -> Tensor:
    """Map `points` `[..., N, 2]` with `affine` `[..., 2, 3]`."""
    return points @ affine[..., :2].transpose(-1, -2) + affine[..., None, :, 2]


def invert_affine(affine: Tensor) -> Tensor:
    """`target_to_source` of a `source_to_target` affine `[..., 2, 3]`."""
    linear = torch.linalg.inv(affine[..., :2])
    return torch.cat([linear, -linear @ affine[..., 2:]], -1)


def compose_affine(first: Tensor, second: Tensor) -> Tensor:
    """The affine `[..., 2, 3]` that applies `first` and then `second`."""
    linear = second[..., :2] @ first[..., :2]
    return torch.cat([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], -1)


def affine_scale(affine: Tensor) -> Tensor:
    """Target px per source px `[...]`: the square root of the affine's area factor."""
    return torch.linalg.det(affine[..., :2]).abs().sqrt()


def pixel_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions (x, y) of the pixels of a picture, float32 `[h, w, 2]`."""
    rows = torch.arange(height, device=device, dtype=torch.float32)
    columns = torch.arange(width, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)


def warp_affine(
    images: Tensor,
    output_to_input: Tensor,
    size: tuple[int, int],
    padding_mode: str = "zeros",
    mode: str = "bilinear",
) -> Tensor:
    """Resample `images` through an affine; differentiable in both arguments.

    No low-pass filter is applied: where the output is smaller than the input, reduce the input
    first (see `extract_region`).

    Args:
        images: `[B, C, H, W]`, any float dtype.
        output_to_input: `[B, 2, 3]` (or `[1, 2, 3]`), maps output px to input px.
        size: (h, w) of the output.
        padding_mode: "zeros", "border" or "reflection", for samples outside the input.
        mode: "bilinear" or "bicubic" interpolation.

    Returns:
        `[B, C, h, w]` in the dtype of `images`.
    """
    batch, _, height, width = images.shape
    # Half-precision coordinates would be off by more than a pixel: work in float32.
    affine = output_to_input.to(device=images.device, dtype=torch.float32)
    input_to_unit = affine.new_tensor(
        [[2 / max(width - 1, 1), 0, -1], [0, 2 / max(height - 1, 1), -1]]
    )
    output_to_unit = compose_affine(affine, input_to_unit)
    points = pixel_grid(*size, device=affine.device).reshape(1, -1, 2)
    grid = apply_affine(output_to_unit, points).reshape(-1, *size, 2).expand(batch, -1, -1, -1)
    warped = F.grid_sample(
        images.float(), grid, mode=mode, padding_mode=padding_mode, align_corners=True
    )
    return warped.to(images.dtype)


def aligned_crop(
    images: Tensor, landmarks: Tensor, template: Sequence[Sequence[float]], size: int
) -> Tensor:
    """Move five landmarks onto a template.

    Sampling is bilinear without a low-pass filter: reduce images first in which the face has many
    more pixels than the crop.

    Args:
        images: [B,3,H,W] float, RGB in [0,1].
        landmarks: [B,5,2] px in `images`.
        template: five (x, y) in px of the crop.
        size: side of the crop in px.

    Returns:
        [B,3,size,size] with the dtype of `images`, black outside of the image.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"`images` must be [B,3,H,W], got {list(images.shape)}.")
    if landmarks.shape != (len(images), 5, 2):
        raise ValueError(
            f"`landmarks` must be [{len(images)},5,2], got {list(landmarks.shape)}: "
            "five points for every image."
        )
    landmarks = landmarks.to(images.device, torch.float32)
    target = torch.tensor(template, device=images.device)
    # Autocast would round positions to bf16, which is off by half a pixel.
    with torch.autocast(images.device.type, enabled=False):
        crop_to_image = invert_affine(similarity_transform(landmarks, target))
        return warp_affine(images, crop_to_image, (size, size), padding_mode="zeros")


@dataclass(frozen=True)
class Alignment:
    """How one face's square crop lies in its image: a pair of inverse affines `[2, 3]`."""

    image_to_crop: Tensor
    crop_to_image: Tensor
    size: int
    """Side of the crop, px."""

    @classmethod
    def from_landmarks(cls, landmarks: Tensor, template: Tensor, size: int) -> Alignment:
        """Align `landmarks` `[5, 2]` (image px) to `template` `[5, 2]` (px of a crop of `size`)."""
        landmarks = torch.as_tensor(landmarks, dtype=torch.float32)
        image_to_crop = similarity_transform(landmarks, template)
        return cls(image_to_crop, invert_affine(image_to_crop), size)


@dataclass(frozen=True)
class FaceRegion:
    """The part of a photo around one face, reduced without aliasing.

    A photo position (x, y) and its region position (u, v) belong together by
    `u = (x - x0 + 0.5) * scale_x - 0.5` (likewise v), the mapping of a resize with
    `align_corners=False`, written for pixel centres at integers.
    """

    image: Tensor
    """`[1, 3, h, w]`, values as in the photo."""
    landmarks: Tensor
    """`[5, 2]` px of `image`."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in photo px; x1 and y1 are exclusive."""
    scale: tuple[float, float]
    """Region px per photo px along x and y (equal but for rounding to whole pixels); at most 1."""

    @property
    def photo_to_region(self) -> Tensor:
        """Affine `[2, 3]` from photo px to region px."""
        return crop_resize_affine(self.box[:2], self.scale).to(self.landmarks.device)

    @property
    def region_to_photo(self) -> Tensor:
        """Affine `[2, 3]` from region px to photo px."""
        return invert_affine(self.photo_to_region)


def extract_region(photo: Tensor, landmarks: Tensor, max_face_px: float = 72.0) -> FaceRegion:
    """Cut out the surroundings of a face and reduce them so that crops of it are band-limited.

    The box bounds the rotated square that holds every recogniser's crop (ArcFace, dlib) and the
    score network's, somewhat enlarged, and is clipped to the photo.

    Args:
        photo: `[1, 3, H, W]` float in [0, 1], or uint8, of which only the box is made float.
        landmarks: `[5, 2]` photo px.
        max_face_px: largest distance between the eyes in the region, px (of the fitted face, so
            that a turned head does not count as a small one). Nothing is ever enlarged.
    """
    height, width = photo.shape[-2:]
    landmarks = torch.as_tensor(landmarks, dtype=torch.float32, device=photo.device)
    template_to_photo = similarity_transform(ARCFACE_TEMPLATE_112.to(landmarks), landmarks)
    corners = square_corners(_REGION_CENTRE, _REGION_HALF_SIDE * _REGION_MARGIN).to(landmarks)
    box = bounding_box(apply_affine(template_to_photo, corners), width, height)
    x0, y0, x1, y1 = box
    eye_distance = _TEMPLATE_EYE_DISTANCE * float(affine_scale(template_to_photo))
    surroundings = photo[..., y0:y1, x0:x1]
    if surroundings.dtype == torch.uint8:
        surroundings = surroundings.float() / 255
    image, scale = reduce_antialiased(surroundings, max_face_px / eye_distance)
    photo_to_region = crop_resize_affine((x0, y0), scale).to(landmarks)
    return FaceRegion(image, apply_affine(photo_to_region, landmarks), box, scale)


def bounding_box(points: Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole px x0, y0, x1, y1 (exclusive) around `points` `[N, 2]`, clipped; never empty."""
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    x0 = min(max(math.floor(left), 0), width - 1)
    y0 = min(max(math.floor(top), 0), height - 1)
    x1 = min(max(math.ceil(right) + 1, x0 + 1), width)
    y1 = min(max(math.ceil(bottom) + 1, y0 + 1), height)
    return x0, y0, x1, y1


def crop_resize_affine(corner: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """Affine `[2, 3]` of cutting at `corner` (x, y) and then resizing by `scale` (x, y).

    It maps pixel centres as a resize with `align_corners=False` does.
    """
    (x0, y0), (sx, sy) = corner, scale
    return torch.tensor([[sx, 0.0, (0.5 - x0) * sx - 0.5], [0.0, sy, (0.5 - y0) * sy - 0.5]])


def square_corners(centre: tuple[float, float], half_side: float) -> Tensor:
    """The corners `[4, 2]` of a square."""
    unit = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    return torch.tensor(centre) + unit * half_side


def reduce_antialiased(image: Tensor, factor: float) -> tuple[Tensor, tuple[float, float]]:
    """Reduce `[B, C, H, W]` by about `factor`; the exact scale per axis (x, y) comes with it.

    A factor of 1 or more returns the image itself.
    """
    height, width = image.shape[-2:]
    if factor >= 1:
        return image, (1.0, 1.0)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    reduced = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    return reduced, (size[1] / width, size[0] / height)
