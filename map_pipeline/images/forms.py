"""Conversions between the three forms of a picture: PIL image, `uint8` array, float tensor."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from map_pipeline.images.rules import MAX_PIXELS, MIN_SIDE, Rule

ImageInput = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor


def to_array(image: Image.Image) -> np.ndarray:
    """Convert a PIL image to a writable `uint8 [H,W,3]` RGB array, on white where transparent."""
    return np.array(flatten(image))


def flatten(image: Image.Image) -> Image.Image:
    """A PIL image in mode RGB, on white where transparent."""
    if not image.has_transparency_data:
        return _as_rgb(image)
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    return Image.composite(rgba.convert("RGB"), white, rgba.getchannel("A"))


def uint8_tensor(photo: np.ndarray) -> Tensor:
    """A `uint8 [H,W,3]` array as `uint8 [1,3,H,W]` without copying its pixels."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None]


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Convert a PIL image or `uint8 [H,W,3]` array to `[1,3,H,W] float32` in [0,1]."""
    array = to_array(image) if isinstance(image, Image.Image) else image
    return uint8_tensor(array).float() / 255


def to_pil(image: np.ndarray | Tensor) -> Image.Image:
    """Convert a `uint8 [H,W,3]` array or a `[3,H,W]` / `[1,3,H,W]` tensor in [0,1] to PIL RGB."""
    return _as_rgb(Image.fromarray(_eight_bits(_channels_last(image))))


def _as_rgb(image: Image.Image) -> Image.Image:
    """An image in mode RGB, without a copy where it is so already: photos are large."""
    return image if image.mode == "RGB" else image.convert("RGB")


def to_uint8(image: np.ndarray | Tensor) -> np.ndarray:
    """Bring an array or tensor of a user to `uint8 [H,W]`, `[H,W,3]` or `[H,W,4]`.

    Raises:
        InvalidImageError: another shape or type, values outside their range, a size that isn't
            accepted. The size is looked at first: an array can claim more than the memory holds.
    """
    array = _channels_last(image)
    check_size(array.shape[1], array.shape[0])
    return np.ascontiguousarray(_eight_bits(array))


def check_size(width: int, height: int) -> None:
    """Raise `InvalidImageError` for a picture that is too small or too large, px."""
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise Rule.SIZE.error(f"{width:,} x {height:,}")


def _channels_last(image: np.ndarray | Tensor) -> np.ndarray:
    """`[H,W]`, `[H,W,3]` or `[H,W,4]` with the type and values that came."""
    shape = tuple(image.shape)
    if isinstance(image, Tensor):
        if shape[-3:-2] != (3,) or shape[:-3] not in ((), (1,)):
            raise Rule.SHAPE.error(f"{list(shape)}")
        return _to_numpy(image).reshape(shape[-3:]).transpose(1, 2, 0)
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,), (4,)):
        raise Rule.SHAPE.error(f"{list(shape)}")
    return np.asarray(image)  # also of a matrix or masked array: those have rules of their own


def _to_numpy(tensor: Tensor) -> np.ndarray:
    try:
        known = tensor.detach().cpu()
        return (known.float() if known.dtype.is_floating_point else known).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, meta
        raise Rule.TYPE.error(f"a {tensor.layout} tensor ({error})") from None


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise Rule.TYPE.error(f"{array.dtype}")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true for NaN
        raise Rule.RANGE.error(f"[{low:.3g}, {high:.3g}]")
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
