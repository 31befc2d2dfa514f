"""A PIL image of any mode as upright sRGB pixels: orientation, depth, transparency, profile."""

import io
import re

import numpy as np
from PIL import Image, ImageCms

from map_pipeline.images.forms import flatten
from map_pipeline.images.gamut import profile_of
from map_pipeline.images.photo import Photo

UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
GREY = ("1", "L")
TOPS = {"I": (255, 65535, 2**32 - 1), "F": (1, 255, 65535, 2**32 - 1)}
# Colour space of a profile -> the mode it's for. A picture is never forced into another space: a
# CMYK picture with an RGB profile has a wrong profile, which is ignored, as browsers do.
PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# In what Pillow calls the packing of the stored pixels; "BGR;16" are 5 and 6 bits per colour.
DEEP = re.compile(r"(?<!BGR);(12|16|32)")
# Profiles of sRGB differ by rounding, and in how they write its curve near black.
SAME_LEVELS = 3


def is_deep(image: Image.Image) -> bool:
    """Whether an image whose pixels aren't loaded yet holds more than 8 bits per colour."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return True
    if image.info.get("bit_depth", 8) > 8:  # of HEIC
        return True
    return any(DEEP.search(str(part[3])) for part in getattr(image, "tile", ()))


def normalise(
    image: Image.Image, orientation: int = 1, deep: bool = False, gamut: str | None = None
) -> Photo:
    """A new picture, upright and sRGB, without any `info`.

    Args:
        image: loaded, of any mode.
        orientation: the EXIF orientation; what is none of 1 to 8 means 1.
        deep: whether its file held more than 8 bits per colour, see `is_deep`.
        gamut: what colours its file names, see `gamut.named_gamut`; a profile counts for more.

    Raises:
        ValueError: the mode can't be converted, or a pixel of mode "F" is no finite number.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        colours = Image.fromarray(_to_eight_bits(image))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        colours = rgba.convert("L" if image.mode == "LA" else "RGB")
    else:
        colours = image
    notes = ["more than 8 bits a colour became 8 bits"] if deep or is_deep(image) else []
    named = None if profile or colours.mode in ("CMYK", "LAB") else gamut
    colours, note = _to_srgb(colours, profile or profile_of(named))
    if named:
        became = "became" if profile_of(named) else "were taken for"
        note = f"colours of {named} {became} sRGB"
    if note:
        notes.append(note)
    if orientation in UPRIGHT:
        colours = colours.transpose(UPRIGHT[orientation])
    if alpha is None or alpha.getextrema() == (255, 255):
        colours.info = {}  # it's a new image by now
        return Photo(colours, notes=tuple(notes))
    if orientation in UPRIGHT:
        alpha = alpha.transpose(UPRIGHT[orientation])
    cutout = _cut_out(colours, alpha)
    return Photo(flatten(cutout), cutout, tuple(notes))


def _cut_out(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Mode RGBA. What nobody sees becomes white: a removed background often still lies there."""
    rgba = np.dstack([np.asarray(colours), np.asarray(alpha)])
    rgba[rgba[..., 3] == 0, :3] = 255
    return Image.fromarray(rgba)


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """An image of any 8-bit mode without alpha as sRGB in mode RGB, and what that lost."""
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transform(image, lab), "CIE Lab colours became sRGB"
    note = "CMYK colours became sRGB" if image.mode == "CMYK" else None
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = PROFILE_MODES.get(source.profile.xcolor_space.strip())
            fits = mode == ("L" if image.mode in GREY else image.mode)
            if mode is not None and (fits or (mode == "RGB" and image.mode != "CMYK")):
                converted = _transform(image.convert(mode), source)
                return converted, _profile_note(source, mode)
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile: show the pixels as they are, as browsers do
        note = "the colour profile is damaged or for other colours, and was ignored"
    return image.convert("RGB"), note


def _profile_note(profile: ImageCms.ImageCmsProfile, mode: str) -> str | None:
    """What the conversion from a profile changed; None where it is sRGB in all but name."""
    if mode != "CMYK":
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 1, 3)
        probe = Image.fromarray(grid).convert(mode)
        shown = np.array(_transform(probe, profile)).astype(int)
        if np.abs(shown - np.array(probe.convert("RGB"))).max() <= SAME_LEVELS:
            return None
    try:
        name = ImageCms.getProfileDescription(profile)
    except ImageCms.PyCMSError:  # profiles needn't have a name
        name = ""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())[:60]
    return f"colours of the profile {name or 'without a name'!r} became sRGB"


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    if converted is None:  # only in place, which isn't asked for
        raise ImageCms.PyCMSError("no picture came back")
    return converted


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """A grey picture of mode I;16, I or F as `uint8 [H,W]`.

    16 bits are 16 bits. "I" and "F" hold anything from 8 to 32 bits: the first of `TOPS` that no
    value exceeds is taken for white.

    Raises:
        ValueError: a value is no finite number.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return np.rint(np.arange(65536) / 257).astype(np.uint8)[values]
    highest = float(values.max())
    if not (np.isfinite(highest) and np.isfinite(values.min())):
        raise ValueError("a pixel is no finite number")
    top = next((top for top in TOPS[image.mode] if highest <= top), highest)
    scaled = values.astype(np.float32)
    scaled *= 255 / top
    return np.rint(scaled, out=scaled).clip(0, 255).astype(np.uint8)
