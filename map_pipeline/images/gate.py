"""The input gate: any picture of a user becomes upright sRGB pixels, or an `InvalidImageError`.

Nothing here trusts a file. Its name counts for nothing, its size is checked before any pixel is
decoded, and the decoders read through `_Meter`, which ends what takes too long or reads too much.
"""

import io
import logging
import os
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError
from torch import Tensor

from map_pipeline.errors import InvalidImageError
from map_pipeline.images.forms import ImageInput, check_size, to_uint8
from map_pipeline.images.gamut import named_gamut
from map_pipeline.images.heic import HEAD, can_read_heic, is_heic
from map_pipeline.images.metadata import JPEG_END, JPEG_START, JpegParts, exif_hints, take_apart
from map_pipeline.images.normalise import is_deep, normalise
from map_pipeline.images.photo import Photo
from map_pipeline.images.rules import FORMATS, MAX_BYTES, MAX_SECONDS, TIFF_COMPRESSIONS, Rule

READS_PER_BYTE = 4  # decoders read a file once, TIFF tags up to three times; bombs 65,000 times
# Put behind a JPEG that lacks its end: only where pixels are missing, a decoder takes it for some.
# It differs from zeros, which stand for what isn't there at all, from its first bit.
FILLER = bytes(range(254, 0, -1))
ZEROS = 512  # in a row at the end of a file are no pixels, but room for a download that broke off
BLOCK = 4096  # bytes that a decoder gets at once, so that the time is looked at often enough


def load_image(source: ImageInput, notes: list[str] | None = None) -> Image.Image:
    """Read any accepted input as an upright PIL image in mode RGB without metadata.

    Args:
        source: see `load_photo`.
        notes: gets a line for everything that was lost on the way, such as 16 bits a colour.

    Raises:
        InvalidImageError: see `load_photo`.
    """
    photo = load_photo(source)
    if notes is not None:
        notes += photo.notes
        if photo.cutout is not None:
            notes.append("transparent parts became white")
    return photo.pixels


def load_photo(source: ImageInput) -> Photo:
    """Read any accepted input, with its transparency and what was lost on the way.

    Args:
        source: a path, the bytes of a file, a PIL image, a `uint8 [H,W]`, `[H,W,3]` or `[H,W,4]`
            array, a float array of these shapes in [0,1], or a tensor `[3,H,W]` or `[1,3,H,W]`,
            uint8 or float in [0,1].

    Raises:
        InvalidImageError: one of the rules in `rules.Rule` is broken; the text says which.
    """
    if isinstance(source, np.ndarray | Tensor):
        return normalise(Image.fromarray(to_uint8(source)))
    if isinstance(source, Image.Image):
        return _load_opened(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), "the upload")
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        name = repr(Path(path).name)
        return _decode(_read_file(path, name), name)
    raise Rule.KIND.error(type(source).__name__)


def quiet_pillow() -> None:
    """Keep Pillow's comments on odd files out of a program's output; what matters is an error.

    For programs, not for `load_image`: what is shown of other libraries is the caller's choice.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _load_opened(image: Image.Image) -> Photo:
    """A PIL image of the caller; perhaps of a file whose pixels are yet to be read."""
    check_size(*image.size)
    with _refusing("a PIL image"):
        content = _reread(image)
        deep, notes = is_deep(image), _notes_on_frames(image, content)
        try:
            image.load()
        except OSError:  # it ends early
            if image.format not in ("JPEG", "MPO") or image.tell():
                raise
            return _decode(content, "a PIL image")
        exif = image.info.get("exif") or b""
        photo = _upright(image, exif, deep, named_gamut(content))
    return _with_notes(photo, notes)


def _reread(image: Image.Image) -> bytes:
    """The file of an image whose pixels aren't read yet, or a byte too many; else nothing."""
    file = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    content = file.read(MAX_BYTES + 1)
    file.seek(place)
    return content


def _read_file(path: str, name: str) -> bytes:
    """The content of a regular file; pipes, devices and folders are refused without waiting."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_BYTES + 1) if regular else b""
    except OSError as error:  # its text holds the full path, which isn't for everybody
        raise Rule.FILE.error(f"{name} ({error.strerror})") from None
    except ValueError:  # a null character, or one that file names can't hold
        raise Rule.FILE.error(f"{name}, which can't be a file name") from None
    if not regular:
        raise Rule.FILE.error(f"{name}, which is something else")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """`os.open` that doesn't wait for the other end of a pipe (Windows has no such pipes)."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode(content: bytes, name: str) -> Photo:
    """The picture in the content of a file; `name` is for the errors."""
    if len(content) > MAX_BYTES:
        raise Rule.BYTES.error(f"{name}, which is larger")
    heic = is_heic(content[:HEAD])
    if heic and not can_read_heic():
        raise Rule.FORMAT.error(
            f"{name}, which is HEIC: save it as JPEG, or pip install 'map-pipeline[heic]'"
        )
    with _refusing(name):
        if not content.startswith(JPEG_START):
            return _open(content, name, formats=("HEIF",) if heic else FORMATS)
        parts = take_apart(content)
        photo = _open(parts.bare, name, parts.exif) if parts.ended else _open_endless(parts, name)
    if not parts.others:
        return photo
    return _with_notes(photo, ["a further picture in the file, such as an HDR map, was left out"])


def _open(
    content: bytes, name: str, exif: bytes = b"", formats: tuple[str, ...] = FORMATS
) -> Photo:
    """The picture in the content of a file of one of these formats.

    Args:
        exif: of a JPEG, whose content has none.
    """
    with Image.open(_Meter(content), formats=formats) as image:
        check_size(*image.size)
        packing = image.info.get("compression") if image.format == "TIFF" else "raw"
        if packing not in TIFF_COMPRESSIONS:
            raise Rule.FORMAT.error(f"{name}, a TIFF packed as {packing}")
        image.decodermaxblock = BLOCK
        deep = is_deep(image)
        notes = _notes_on_frames(image, content)
        image.load()
        exif = exif or image.info.get("exif") or b""
        return _with_notes(_upright(image, exif, deep, named_gamut(content)), notes)


def _open_endless(parts: JpegParts, name: str) -> Photo:
    """The picture in a JPEG that lacks its end marker.

    Raises:
        OSError: pixels are missing, too. A decoder makes them up of whatever follows.
    """
    truncated = OSError("image file is truncated")
    if not parts.complete:
        raise truncated
    kept = parts.bare.rstrip(b"\xff")  # half a marker
    if kept.endswith(bytes(ZEROS)):
        kept = kept.rstrip(b"\0") + bytes(2)  # pixels may end with zeros
    photo, other = (_open(kept + rest + JPEG_END, name, parts.exif) for rest in (b"", FILLER))
    if ImageChops.difference(photo.pixels, other.pixels).getbbox():
        raise truncated
    return _with_notes(photo, ["the file lacks its end marker, but all its pixels are there"])


def _notes_on_frames(image: Image.Image, content: bytes) -> list[str]:
    """What is said of a picture that stands in its file with others: frames, pages, a burst.

    Args:
        content: of the file; empty if the image was loaded before.
    """
    try:
        if image.format == "GIF" and content:  # looking for more frames, Pillow forgets this one
            with Image.open(_Meter(content), formats=("GIF",)) as again:
                several = getattr(again, "is_animated", False)
        else:
            several = image.format != "GIF" and getattr(image, "is_animated", False)
    except InvalidImageError:  # it takes too long
        raise
    except Exception:  # what follows is damaged; Pillow raises anything
        several = True
    return ["only one of several pictures in the file was used"] if several else []


def _with_notes(photo: Photo, notes: list[str]) -> Photo:
    return replace(photo, notes=(*notes, *photo.notes))


def _upright(image: Image.Image, exif: bytes, deep: bool, gamut: str | None = None) -> Photo:
    """The picture in a loaded image.

    Args:
        deep: see `is_deep`; gamut: see `named_gamut`.
    """
    hints = exif_hints(exif)
    # Pillow turns a TIFF by itself and leaves what its EXIF block says.
    turn = 1 if image.format == "TIFF" else hints.orientation
    return replace(normalise(image, turn, deep, gamut or hints.gamut), format=image.format)


class _Meter(io.BytesIO):
    """The content of a file that may only be read for so long, and so many bytes of it.

    Pillow's loops over chunks, tags, scans and comments all read here, so this one limit holds for
    every way of being slow: a 2-MB JPEG of 160,000 scans takes minutes, a TIFF whose tags all name
    the same bytes takes any amount of memory.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._soonest = time.monotonic() + MAX_SECONDS
        self._end = time.thread_time() + MAX_SECONDS
        self._budget = READS_PER_BYTE * len(content) + BLOCK

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does.

        Raises:
            InvalidImageError: the time or the bytes are used up.
        """
        part = super().read(size)
        self._budget -= len(part)
        if self._budget < 0 or self._is_late():
            raise Rule.TIME.error("a file made to take longer")
        return part

    def _is_late(self) -> bool:
        # The clock on the wall costs nothing; the one of the thread is a system call.
        return time.monotonic() > self._soonest and time.thread_time() > self._end


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn whatever decoding the file called `name` raises into an `InvalidImageError`."""
    try:
        yield
    except InvalidImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Rule.SIZE.error(f"{name}, which has far more") from None
    except UnidentifiedImageError:
        raise Rule.FORMAT.error(f"{name}, which is none of these") from None
    # Everything: what Pillow raises for a damaged file has no end (OSError, SyntaxError, KeyError,
    # struct.error, ZeroDivisionError ...), and nothing of ours runs inside.
    except Exception as error:
        raise Rule.FORMAT.error(f"{name} ({error})") from None
