"""The little that is read of a file beside its pixels: how they're shown, and how a JPEG ends.

Pillow reads more than is needed, and copies every value that a tag names: an EXIF block of 1 MB
whose tags all name the whole block takes 60 GB. So a JPEG reaches Pillow without its metadata.
"""

import contextlib
import re
import struct
from dataclasses import dataclass

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
EXIF_START = b"Exif\0\0"
MPF_START = b"MPF\0"  # CIPA DC-007: where a JPEG file's further pictures lie
# Tags of EXIF and MPF.
ORIENTATION, EXIF_DIRECTORY, INTEROP_DIRECTORY, COLOUR_SPACE = 0x0112, 0x8769, 0xA005, 0xA001
INTEROP_INDEX, PICTURES = 0x0001, 0xB002
ADOBE_RGB = 2  # what Adobe's own programs write; cameras write "uncalibrated" and R03
UNCALIBRATED = 0xFFFF
THUMBNAILS = (0x010001, 0x010002)  # kinds of pictures in MPF that hold nothing of their own
MAX_SEGMENTS = 10_000  # before the pixels; photos have some ten, at most a few hundred
# Each scan is a pass over all pixels, for a few bytes. Progressive photos have about ten; libtiff's
# limit is the same.
MAX_SCANS = 100
MAX_COMPONENTS = 4  # of one scan
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the headers that list a picture's components
# Alone, without a length: TEM, RST0-7, SOI, EOI.
STANDALONE = {0x01, *range(0xD0, 0xDA)}
# What decoding needs of the application segments: JFIF, the colour profile, Adobe's colour model.
NEEDED = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
METADATA = {*range(0xE0, 0xF0), 0xFE}  # APP0-15 and the comment
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # fill bytes may stand before a marker
MARKER_AFTER_PIXELS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # RST0-7 are among them


@dataclass(frozen=True)
class JpegParts:
    """A JPEG file taken apart.

    Attributes:
        bare: it without the metadata before its pixels.
        exif: its EXIF block, empty without one.
        others: how many pictures beside the first one it has, thumbnails left out.
        ended: whether its end marker is there; complete: whether no scan is left out.
    """

    bare: bytes
    exif: bytes
    others: int
    ended: bool
    complete: bool


@dataclass(frozen=True)
class ExifHints:
    """What an EXIF block says about how pixels are shown.

    Attributes:
        orientation: 1 to 8, other numbers mean nothing.
        gamut: as of `gamut.named_gamut`.
    """

    orientation: int = 1
    gamut: str | None = None


def take_apart(content: bytes) -> JpegParts:
    """Split a JPEG file into what decoding needs and what is of interest beside.

    Raises:
        ValueError: there are more than `MAX_SEGMENTS` segments or `MAX_SCANS` scans, or a segment
            has no length.
    """
    kept: list[bytes] = []
    exif, others, components, position = b"", 0, b"", 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(content, position)
        if found is None or found[1][0] == START_OF_SCAN:
            start = len(content) if found is None else found.end() - 2
            ended, known = _read_scans(content, start)
            bare = b"".join([*kept, content[start:]])
            return JpegParts(bare, exif, others, ended, len(known) == 64 * len(components))
        marker, position = found[1][0], found.end()
        if marker in STANDALONE:
            kept.append(bytes([0xFF, marker]))
            continue
        length = _length(content, position)
        body = content[position + 2 : position + length]
        position += length
        if marker == 0xE1 and body.startswith(EXIF_START):
            exif = exif or body
        if marker == 0xE2 and body.startswith(MPF_START):
            others = others or _other_pictures(body.removeprefix(MPF_START))
        if marker in FRAMES:
            components = body[6::3]
        if marker not in METADATA or (marker in NEEDED and body.startswith(NEEDED[marker])):
            kept.append(struct.pack(">BBH", 0xFF, marker, length) + body)
    raise ValueError(f"more than {MAX_SEGMENTS:,} segments before the pixels")


def _read_scans(content: bytes, position: int) -> tuple[bool, set[tuple[int, int]]]:
    """Whether the end marker follows, and which coefficients (component, 0 to 63) scans give fully.

    Raises:
        ValueError: there are too many scans. What comes behind the picture isn't looked at.
    """
    scans, known = 0, set[tuple[int, int]]()
    for _ in range(MAX_SEGMENTS):
        found = MARKER_AFTER_PIXELS.search(content, position)
        if found is None or found[1][0] == END_OF_IMAGE:
            return found is not None, known
        marker, position = found[1][0], found.end()
        length = 0 if marker in STANDALONE else _length(content, position)
        if marker == START_OF_SCAN:
            scans += 1
            known |= _completed(content[position + 2 : position + length])
        position += length
        if scans > MAX_SCANS:
            break
    raise ValueError(f"more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments")


def _completed(header: bytes) -> set[tuple[int, int]]:
    """The coefficients of which the scan with this header gives the last bit."""
    components, limits = header[1:-3:2], header[-3:]
    if not 0 < len(components) <= MAX_COMPONENTS or limits[1] > 63 or limits[2] & 15:
        return set()
    return {(name, index) for name in components for index in range(limits[0], limits[1] + 1)}


def _length(content: bytes, position: int) -> int:
    length = int.from_bytes(content[position : position + 2], "big")
    if length < 2:
        raise ValueError("segment without a length")
    return length


def exif_hints(exif: bytes) -> ExifHints:
    """What an EXIF block says; nothing where it is damaged."""
    tiff = _Tiff(exif.removeprefix(EXIF_START))
    main = tiff.directory()
    more = tiff.linked(main, EXIF_DIRECTORY)
    interop = tiff.linked(more, INTEROP_DIRECTORY)
    space = tiff.short(more, COLOUR_SPACE)
    gamut = "an unnamed space" if space == UNCALIBRATED else None
    if space == ADOBE_RGB or interop.get(INTEROP_INDEX, b"")[4:] == b"R03\0":
        gamut = "Adobe RGB"
    return ExifHints(tiff.short(main, ORIENTATION) or 1, gamut)


def _other_pictures(mpf: bytes) -> int:
    """How many pictures beside the first one an MPF block lists, thumbnails left out."""
    tiff = _Tiff(mpf)
    kinds = [number & 0xFFFFFF for number in tiff.longs(tiff.directory(), PICTURES)[::4]]
    return sum(kind not in THUMBNAILS for kind in kinds[1:])


class _Tiff:
    """The tags of an EXIF or MPF block, which is made like a TIFF file; damaged ones are left out.

    A directory is a dictionary: tag -> eight bytes, the number of values and where they are, or
    the values themselves where four bytes hold them.
    """

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._order = {b"II": "<", b"MM": ">"}.get(block[:2])

    def directory(self, start: int | None = None) -> dict[int, bytes]:
        """The directory at this place, by default the first one."""
        found: dict[int, bytes] = {}
        if self._order is None:
            return found
        with contextlib.suppress(struct.error):  # the block ends before its tags do
            if start is None:
                (start,) = struct.unpack_from(self._order + "I", self._block, 4)
            (count,) = struct.unpack_from(self._order + "H", self._block, start)
            for index in range(count):
                entry = start + 2 + 12 * index
                tag, value = struct.unpack_from(self._order + "H2x8s", self._block, entry)
                found.setdefault(tag, value)
        return found

    def linked(self, directory: dict[int, bytes], tag: int) -> dict[int, bytes]:
        """The directory whose place a tag gives; empty if there is none."""
        if tag not in directory:
            return {}
        return self.directory(struct.unpack(f"{self._order}4xI", directory[tag])[0])

    def short(self, directory: dict[int, bytes], tag: int) -> int | None:
        """The value of a tag that holds a 16-bit number."""
        if tag not in directory:
            return None
        return struct.unpack(f"{self._order}4xH2x", directory[tag])[0]

    def longs(self, directory: dict[int, bytes], tag: int) -> tuple[int, ...]:
        """The content of a tag, of at least eight bytes, as 32-bit numbers."""
        if tag not in directory:
            return ()
        length, start = struct.unpack(f"{self._order}II", directory[tag])
        content = self._block[start : start + length]
        return struct.unpack_from(f"{self._order}{len(content) // 4}I", content)
