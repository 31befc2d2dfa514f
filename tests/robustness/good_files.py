"""Real files of every kind, with and without a face."""

import io
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from file_parts import chunk, png_header, runs_bmp
from PIL import Image, ImageCms, PngImagePlugin

PORTRAIT = Path(__file__).parents[2] / "examples" / "astronaut.png"


@cache
def portrait(side: int = 192) -> Image.Image:
    """A photo with one face."""
    return Image.open(PORTRAIT).convert("RGB").crop((130, 20, 322, 212)).resize((side, side))


@cache
def texture(width: int = 64, height: int = 48) -> Image.Image:
    """A small picture without a face."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def exif_block() -> bytes:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010F] = "camera" * 20
    block.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 20.0, 0.0)})
    return block.tobytes()


def adobe_rgb() -> bytes:
    """An EXIF block as of a camera that was set to Adobe RGB."""
    block = Image.Exif()
    block.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    return block.tobytes()


def display_p3(png: bytes) -> bytes:
    """A PNG that names its colours by the numbers of ITU-T H.273."""
    return png[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + png[33:]


@cache
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@cache
def samples() -> dict[str, bytes]:
    """Good files of every format and mode, without a face, with all the metadata they can carry."""
    photo = texture()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 200, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta tiff:Orientation='3'/>")
    meta = {"exif": exif_block(), "icc_profile": srgb_profile()}
    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    lab = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )

    def frames(kind: str) -> bytes:  # of new images, as Pillow leaves settings on those it saves
        more = [photo.rotate(90), photo.rotate(180)]
        return encode(photo, kind, save_all=True, append_images=more)

    return {
        "png": encode(photo, "PNG", pnginfo=text, **meta),
        "png rgba": encode(photo.convert("RGBA"), "PNG", **meta),
        "png palette": encode(photo.quantize(7), "PNG", transparency=b"\0\x80\xff", **meta),
        "png colour key": encode(photo, "PNG", transparency=(1, 2, 3)),
        "png grey alpha": encode(photo.convert("LA"), "PNG"),
        "png 16 bit": encode(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        "png 1 bit": encode(photo.convert("1"), "PNG"),
        "png animated": frames("PNG"),
        "png display p3": display_p3(encode(photo, "PNG")),
        "jpeg": encode(photo, "JPEG", comment=b"hello", **meta),
        "jpeg progressive": encode(photo, "JPEG", progressive=True, **meta),
        "jpeg cmyk": encode(photo.convert("CMYK"), "JPEG", **meta),
        "jpeg grey": encode(photo.convert("L"), "JPEG", **meta),
        "jpeg two pictures": frames("MPO"),
        "jpeg without end": encode(photo, "JPEG", **meta)[:-2],
        "jpeg adobe rgb": encode(photo, "JPEG", exif=adobe_rgb()),
        "webp": encode(photo, "WEBP", **meta),
        "webp lossless": encode(photo.convert("RGBA"), "WEBP", lossless=True, **meta),
        "webp animated": frames("WEBP"),
        "bmp": encode(photo, "BMP"),
        "bmp runs": runs_bmp(64, 48, b"\x40\x05\0\0" * 48 + b"\0\1"),
        "gif": encode(photo.quantize(16), "GIF", comment=b"hello"),
        "gif animated": frames("GIF"),
        "tiff": encode(photo, "TIFF", **meta),
        "tiff lzw": encode(photo, "TIFF", compression="tiff_lzw", icc_profile=srgb_profile()),
        "tiff deflate": encode(photo.convert("RGBA"), "TIFF", compression="tiff_deflate"),
        "tiff jpeg": encode(photo, "TIFF", compression="jpeg"),
        "tiff cmyk": encode(photo.convert("CMYK"), "TIFF"),
        "tiff lab": encode(lab, "TIFF"),
        "tiff 32 bit": encode(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "tiff float": encode(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "tiff pages": frames("TIFF"),
        "png 16 bit colour": deep_png(),
        "png cutout": encode(cutout(photo), "PNG", **meta),
        "webp cutout": encode(cutout(photo), "WEBP", exif=exif_block()),
        "avif": encode(photo, "AVIF", **meta),
        "avif cutout": encode(cutout(photo), "AVIF"),
        **heic(photo),
    }


def cutout(photo: Image.Image) -> Image.Image:
    """Mode RGBA: opaque in the middle, nothing at the left, and all between at the top."""
    alpha = np.full((photo.height, photo.width), 255, np.uint8)
    alpha[:16] = np.linspace(0, 255, 16).astype(np.uint8)[:, None]
    alpha[:, :8] = 0
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(alpha))
    return clear


def deep_png() -> bytes:
    """A PNG of 16 bits a colour, which Pillow can't write."""
    rows = np.zeros((48, 1 + 64 * 6), np.uint8)
    rows[:, 1:] = np.random.default_rng(0).integers(0, 256, (48, 64 * 6))
    pixels = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return png_header(64, 48, depth=16) + pixels + chunk(b"IEND", b"")


def heic(photo: Image.Image) -> dict[str, bytes]:
    """HEIC files, where the extra is installed that writes and reads them."""
    try:
        import pillow_heif
    except ImportError:
        return {}
    files = {}
    for name, image in (("heic", photo), ("heic cutout", cutout(photo))):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=90)
        files[name] = buffer.getvalue()
    return files


@cache
def faces() -> dict[str, bytes]:
    """Photos with a face in several formats; they pass the gate and are protected."""
    photo = portrait()
    return {
        "png": encode(photo, "PNG", exif=exif_block()),
        "jpeg": encode(photo, "JPEG", icc_profile=srgb_profile()),
        "webp": encode(photo, "WEBP"),
        "gif": encode(photo, "GIF"),
        "tiff": encode(photo, "TIFF"),
        "png cutout": encode(cutout(photo), "PNG"),
        "avif": encode(photo, "AVIF"),
        "jpeg without its end": encode(photo, "JPEG")[:-2],
    }


def crowd(columns: int, rows: int, side: int = 96) -> Image.Image:
    """A photo of `columns * rows` faces, each of `side` px."""
    one = portrait(side)
    photo = Image.new("RGB", (columns * side, rows * side))
    for column in range(columns):
        for row in range(rows):
            photo.paste(one, (column * side, row * side))
    return photo
