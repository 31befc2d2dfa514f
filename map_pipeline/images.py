"""The only place that reads, writes and converts pictures.

Three forms exist: a PIL image in mode RGB, a `uint8 [H,W,3]` array, and a tensor
`[1,3,H,W] float32 RGB in [0,1]`. Whatever else a file carried (EXIF, GPS, comments, colour
profile, alpha) is gone after `load_image`.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from map_pipeline.errors import InvalidImageError

ImageInput = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor

# Formats people photograph and share in; each is recognised by content, never by file name.
# Pillow's JPEG reader also takes MPO, the two-picture JPEG of some phones.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 50_000_000  # a 50-megapixel photo is 150 MB as uint8 RGB; more is refused
MIN_SIDE = 40  # px; a smaller picture can't hold a face that can be protected
# What Pillow's readers raise for damaged files (found by flipping bytes of each format).
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error)
UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageInput) -> Image.Image:
    """Read any accepted input as an upright PIL image in mode RGB without metadata.

    Args:
        source: a path, the bytes of a file, a PIL image, a `uint8 [H,W]`, `[H,W,3]` or `[H,W,4]`
            array, a float array of these shapes in [0,1], or a tensor `[3,H,W]` or `[1,3,H,W]`
            in [0,1].

    Raises:
        InvalidImageError: not a picture, damaged, of an unsupported type, or of a size outside
            `MIN_SIDE` px a side to `MAX_PIXELS` px in all.
    """
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, Tensor | np.ndarray):
        image = Image.fromarray(_to_uint8(source))
    elif isinstance(source, str | os.PathLike | bytes):
        return _read(source)
    else:
        raise InvalidImageError(
            "`image` must be a path, bytes, PIL image, array or tensor, "
            f"got {type(source).__name__}."
        )
    _check_size(image)
    with _damage_as_invalid("a PIL image"):  # Pillow reads pixels late, perhaps only here
        return _normalise(image)


def to_array(image: Image.Image) -> np.ndarray:
    """Convert a PIL image to a writable `uint8 [H,W,3]` RGB array."""
    return np.array(image.convert("RGB"))


def uint8_tensor(photo: np.ndarray) -> Tensor:
    """A `uint8 [H,W,3]` array as `uint8 [1,3,H,W]` without copying its pixels."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None]


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Convert a PIL image or `uint8 [H,W,3]` array to `[1,3,H,W] float32` in [0,1]."""
    array = to_array(image) if isinstance(image, Image.Image) else image
    return uint8_tensor(array).float() / 255


def to_pil(image: np.ndarray | Tensor) -> Image.Image:
    """Convert a `uint8 [H,W,3]` array or a `[3,H,W]` / `[1,3,H,W]` tensor in [0,1] to PIL RGB."""
    return Image.fromarray(_to_uint8(image)).convert("RGB")


def save_image(image: Image.Image, path: str | os.PathLike) -> None:
    """Write pixels and nothing else, atomically: PNG, or JPEG at quality 95 for .jpg/.jpeg.

    Raises:
        InvalidImageError: the suffix is neither .png nor .jpg/.jpeg.
        OSError: the folder can't be written; no partial file is left.
    """
    path = Path(path)
    buffer = io.BytesIO()
    pixels = Image.fromarray(to_array(image))  # a fresh image: no `info`, so no metadata is kept
    if path.suffix.lower() == ".png":
        pixels.save(buffer, "PNG")
    elif path.suffix.lower() in (".jpg", ".jpeg"):
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        raise InvalidImageError(f"`OUT` must end in .png, .jpg or .jpeg, got {path.name!r}.")
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it, so it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(source: str | os.PathLike | bytes) -> Image.Image:
    name = "the upload" if isinstance(source, bytes) else repr(Path(source).name)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise InvalidImageError(f"`image` must be an existing file, got {name}.")
    with _damage_as_invalid(name), warnings.catch_warnings():
        # Pillow only warns between its limit and twice that; ours is checked right below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        )
        with opened:
            _check_size(opened)
            return _normalise(opened)


@contextmanager
def _damage_as_invalid(name: str) -> Iterator[None]:
    """Turn what Pillow raises for the file called `name` into an `InvalidImageError`."""
    rule = f"`image` must be a whole {', '.join(FORMATS)} file, got {name}"
    try:
        yield
    except InvalidImageError:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"`image` must have at most {MAX_PIXELS:,} px; {error}") from None
    except UnidentifiedImageError:  # its text holds the full path, which isn't for everybody
        raise InvalidImageError(f"{rule}, which is none of these.") from None
    except DAMAGE as error:
        raise InvalidImageError(f"{rule} ({error}).") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise InvalidImageError(
            f"`image` must be at least {MIN_SIDE} px a side and have at most {MAX_PIXELS:,} px, "
            f"got {width:,} x {height:,}."
        )


def _normalise(image: Image.Image) -> Image.Image:
    """Upright, sRGB, on white where transparent, in mode RGB, without any `info`."""
    upright = _to_srgb(_turn_upright(image))
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        upright = Image.fromarray(_sixteen_bit_to_uint8(np.asarray(upright)))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return Image.fromarray(np.array(upright.convert("RGB")))


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation.

    `ImageOps.exif_transpose` writes the EXIF block anew, which fails on the odd blocks of some
    cameras and editors; here it is only read.
    """
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return image  # an unreadable block: show the pixels as they are, as browsers do
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a damaged profile: show the pixels as they are, as browsers do


def _sixteen_bit_to_uint8(array: np.ndarray) -> np.ndarray:
    """Map 16-bit values by 65535; values that fit 8 bits stay, as PIL uses "I" for both."""
    values = np.nan_to_num(array.astype(np.float64))
    top = 65535.0 if values.max(initial=0) > 255 else 255.0
    return np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)


def _to_uint8(image: np.ndarray | Tensor) -> np.ndarray:
    """Bring an array or tensor of any accepted shape to `uint8 [H,W,3]` (or `[H,W,4]`)."""
    if isinstance(image, Tensor):
        image = image.detach().float().cpu().numpy()
        image = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
        image = image.transpose(1, 2, 0) if image.ndim == 3 and image.shape[0] == 3 else image
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise InvalidImageError(
            "`image` must have the shape [H,W], [H,W,3] or [H,W,4] as an array, or [3,H,W] as a "
            f"tensor, got {list(image.shape)}."
        )
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise InvalidImageError(f"`image` must be uint8 or float in [0,1], got {image.dtype}.")
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true for NaN
        raise InvalidImageError(f"`image` as float must lie in [0,1], got [{low:.3g}, {high:.3g}].")
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
