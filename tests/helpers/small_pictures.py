"""Small pictures as files of every kind."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATION, GPS = 0x0112, 0x8825


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth uint8 RGB picture `[H,W,3]` whose corners all differ."""
    x, y = np.linspace(0, 200, width)[None, :], np.linspace(0, 150, height)[:, None]
    return np.stack([x + 0 * y, y + 0 * x, (x + y) / 2], -1).round().astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block.get_ifd(GPS).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 20.0, 0.0)})
    return block


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size, without any pixel."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )


def linear_profile(srgb: bytes) -> bytes:
    """The sRGB profile with its tone curves replaced by the identity, in place."""
    data = bytearray(srgb)
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        tag, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            assert size >= 12
            data[offset : offset + 12] = b"curv" + bytes(8)  # count 0 is the identity
    return bytes(data)


def wide_gamut_profile() -> bytes:
    """The sRGB profile with the primaries of Display P3, and a name of the same length."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        tag, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if tag in primaries:
            values = [round(value * 65536) for value in primaries[tag]]
            struct.pack_into(">3i", data, offset + 8, *values)
    return bytes(data).replace(
        "sRGB built-in".encode("utf-16-be"), "Wide <b> \n 1 ".encode("utf-16-be")
    )


def deep_png() -> bytes:
    """A colour PNG of 16 bits, which Pillow can't write."""
    rows = np.zeros((48, 1 + 64 * 6), np.uint8)
    rows[:, 1:] = np.random.default_rng(0).integers(0, 256, (48, 384))
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)
