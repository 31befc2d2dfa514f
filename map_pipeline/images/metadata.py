"""The little that is read of a file's metadata: its orientation, and where it is in a JPEG.

Pillow reads more than is needed, and copies every value that a tag names: an EXIF block of 1 MB
whose tags all name the whole block takes 60 GB. So a JPEG reaches Pillow without its metadata.
"""

import re
import struct

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
ORIENTATION = 0x0112  # EXIF tag
EXIF_START = b"Exif\0\0"
MAX_SEGMENTS = 10_000  # before the pixels; photos have some ten, at most a few hundred
# Each scan is a pass over all pixels, for a few bytes. Progressive photos have about ten; libtiff's
# limit is the same.
MAX_SCANS = 100
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# Alone, without a length: TEM, RST0-7, SOI, EOI.
STANDALONE = {0x01, *range(0xD0, 0xDA)}
# What decoding needs of the application segments: JFIF, the colour profile, Adobe's colour model.
NEEDED = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
METADATA = {*range(0xE0, 0xF0), 0xFE}  # APP0-15 and the comment
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # fill bytes may stand before a marker
MARKER_AFTER_PIXELS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # RST0-7 are among them


def bare_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG file without the metadata before its pixels, and its EXIF block (empty without one).

    Raises:
        ValueError: there are more than `MAX_SEGMENTS` segments or `MAX_SCANS` scans, or a segment
            has no length.
    """
    kept: list[bytes] = []
    exif, position = b"", 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(content, position)
        if found is None or found[1][0] == START_OF_SCAN:
            start = len(content) if found is None else found.end() - 2
            _check_scans(content, start)
            return b"".join([*kept, content[start:]]), exif
        marker, position = found[1][0], found.end()
        if marker in STANDALONE:
            kept.append(bytes([0xFF, marker]))
            continue
        length = _length(content, position)
        body = content[position + 2 : position + length]
        position += length
        if marker == 0xE1 and body.startswith(EXIF_START):
            exif = exif or body
        if marker not in METADATA or (marker in NEEDED and body.startswith(NEEDED[marker])):
            kept.append(struct.pack(">BBH", 0xFF, marker, length) + body)
    raise ValueError(f"more than {MAX_SEGMENTS:,} segments before the pixels")


def _check_scans(content: bytes, position: int) -> None:
    """Raise ValueError if too many scans follow; what comes behind the picture isn't looked at."""
    scans = 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER_AFTER_PIXELS.search(content, position)
        if found is None or found[1][0] == END_OF_IMAGE:
            return
        marker, position = found[1][0], found.end()
        if marker not in STANDALONE:
            position += _length(content, position)
        scans += marker == START_OF_SCAN
        if scans > MAX_SCANS:
            break
    raise ValueError(f"more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments")


def _length(content: bytes, position: int) -> int:
    length = int.from_bytes(content[position : position + 2], "big")
    if length < 2:
        raise ValueError("segment without a length")
    return length


def orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block; 1 where it has none or is damaged."""
    tiff = exif.removeprefix(EXIF_START)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * index)
            if tag == ORIENTATION:
                return value
    except struct.error:  # the block ends before its tags do
        pass
    return 1
