"""A PIL image of any mode as upright sRGB pixels: orientation, depth, transparency, profile."""

import io

import numpy as np
from PIL import Image, ImageCms

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


def normalise(
    image: Image.Image, orientation: int = 1, notes: list[str] | None = None
) -> Image.Image:
    """A new image in mode RGB, sRGB, on white where transparent, without any `info`.

    Args:
        image: loaded, of any mode.
        orientation: the EXIF orientation; what is none of 1 to 8 means 1.
        notes: gets a line for what is lost.

    Raises:
        ValueError: the mode can't be converted, or a pixel of mode "F" is no finite number.
    """
    notes = [] if notes is None else notes
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        colours = Image.fromarray(_to_eight_bits(image))
        if np.asarray(image).max() > 255 or image.mode == "F":
            notes.append("more than 8 bits a colour became 8 bits")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        if alpha.getextrema() != (255, 255):
            notes.append("transparent parts became white")
        colours = rgba.convert("L" if image.mode == "LA" else "RGB")
    else:
        colours = image
    colours = _to_srgb(colours, profile, notes)
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    if orientation in UPRIGHT:
        colours = colours.transpose(UPRIGHT[orientation])
    colours.info = {}  # it's a new image by now
    return colours


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """An image of any 8-bit mode without alpha as sRGB in mode RGB."""
    if image.mode == "LAB":
        return _transform(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = PROFILE_MODES.get(source.profile.xcolor_space.strip())
            fits = mode == ("L" if image.mode in GREY else image.mode)
            if mode is not None and (fits or (mode == "RGB" and image.mode != "CMYK")):
                converted = _transform(image.convert(mode), source)
                name = " ".join(ImageCms.getProfileDescription(source).split())
                if "sRGB" not in name:
                    notes.append(f"colours of the profile {name[:60]!r} became sRGB")
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile: show the pixels as they are, as browsers do
    return image.convert("RGB")


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
