"""Masks of polygons and Gaussian blur, on tensors."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

POLYGON_SCALE = 4  # polygons are drawn this many times larger


def polygon_mask(points: Tensor, size: int) -> Tensor:
    """`[1,1,size,size]` in [0,1]: 1 inside the polygon `[N,2]` px, with smooth edges."""
    picture = Image.new("L", (size * POLYGON_SCALE, size * POLYGON_SCALE))
    corners = [(x, y) for x, y in ((points + 0.5) * POLYGON_SCALE).tolist()]
    ImageDraw.Draw(picture).polygon(corners, fill=255)
    mask = torch.from_numpy(np.array(picture)).float()[None, None] / 255
    return F.avg_pool2d(mask, POLYGON_SCALE)


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `[B,C,H,W]`; `sigma` in px."""
    reach = max(round(3 * sigma), 1)
    line = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = (-(line**2) / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    groups = images.shape[1]
    across = F.conv2d(F.pad(images, [reach, reach, 0, 0], "replicate"), weights, groups=groups)
    upright = weights.transpose(-1, -2)
    return F.conv2d(F.pad(across, [0, 0, reach, reach], "replicate"), upright, groups=groups)
