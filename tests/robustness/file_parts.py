"""Parts of picture files, for files that no encoder writes."""

import struct
import zlib

PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", size)


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def runs_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of run-length coded bytes."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs
