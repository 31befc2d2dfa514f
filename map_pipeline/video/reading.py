"""Reading clips frame after frame with PyAV: upright, in RGB, with the time of each frame."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from map_pipeline.errors import InvalidVideoError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
# Only containers that hold their pictures themselves: a playlist under the name of a clip could
# make FFmpeg read other files, or addresses of a network.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
MAX_SIDE = 4096  # px; 4K is accepted, one frame of it takes 25 MB
MIN_SIDE = 32
MAX_RATE = 1000  # frames per second; what announces more is wrong
BT709 = 1  # FFmpeg's number of the colour matrix of HD video; others are read as BT.601


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip; it's converted only if somebody asks for its pixels.

    Attributes:
        index: from 0 on.
        pts: when it's shown, in units of the clip's `time_base`.
        seconds: when it's shown, from the start of the first frame.
    """

    index: int
    pts: int
    seconds: float
    picture: av.VideoFrame

    def pixels(self) -> np.ndarray:
        """Upright, `uint8 [H,W,3]`, RGB."""
        turns = round(self.picture.rotation / 90)
        matrix = "itu709" if self.picture.colorspace == BT709 else "itu601"
        rgb = self.picture.to_ndarray(format="rgb24", src_colorspace=matrix)
        return np.ascontiguousarray(np.rot90(rgb, turns))


@dataclass(frozen=True)
class Clip:
    """A video file that was looked into, see `open_clip`; reading it again starts anew.

    Attributes:
        path: the file.
        size: width and height of upright frames, px.
        rate: frames per second on average.
        time_base: unit of time stamps, seconds.
        frame_count: how many frames the file announces; an estimate, at least 1.
        colours: FFmpeg's numbers of colour matrix, primaries and transfer.
        pixel_aspect: width over height of an upright pixel; None for square ones.
        notes: what a rewritten clip will lack.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    frame_count: int
    colours: tuple[int, int, int]
    pixel_aspect: Fraction | None
    notes: tuple[str, ...] = ()

    def frames(self) -> Iterator[Frame]:
        """All frames in the order they're shown.

        Raises:
            InvalidVideoError: the file is damaged here.
        """
        with opened(self.path) as container:
            video = container.streams.video[0]
            yield from numbered(self, container.decode(video))

    def measure(self) -> tuple[int, float]:
        """How many frames are stored, and for how many seconds they're shown; decodes none.

        Unlike what the file announces, which may be anything.

        Raises:
            InvalidVideoError: the file is damaged.
        """
        with opened(self.path) as container:
            packets = container.demux(container.streams.video[0])
            times = [one.pts for one in packets if one.size]
        known = [pts for pts in times if pts is not None]
        shown = float((max(known) - min(known)) * self.time_base) if known else 0.0
        return len(times), max(shown + float(1 / self.rate), len(times) / MAX_RATE)


def open_clip(path: str | os.PathLike[str]) -> Clip:
    """Look into a video file.

    Raises:
        InvalidVideoError: it's no video, or one that can't be used.
        ModuleNotFoundError: PyAV isn't installed.
        OSError: the file can't be read.
    """
    path = Path(path)
    with opened(path) as container:
        if not container.streams.video:
            raise _error(path, "no video track in it")
        video = container.streams.video[0]
        first = next(iter(container.decode(video)), None)
        if first is None:
            raise _error(path, "no frame in it")
        sideways = round(first.rotation / 90) % 2 == 1
        size = (first.height, first.width) if sideways else (first.width, first.height)
        if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
            raise InvalidVideoError(
                f"`clip` must have sides of {MIN_SIDE} to {MAX_SIDE} px, got {size[0]} x {size[1]}."
            )
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        if not 0 < rate <= MAX_RATE:
            rate = Fraction(25)
        aspect = first.sample_aspect_ratio if hasattr(first, "sample_aspect_ratio") else None
        aspect = aspect or video.sample_aspect_ratio
        if aspect in (None, 0, 1):
            aspect = None
        elif sideways:
            aspect = 1 / aspect
        seconds = (container.duration or 0) / 1_000_000
        colours = (first.colorspace, first.color_primaries, first.color_trc)
        return Clip(
            path=path,
            size=size,
            rate=rate,
            time_base=video.time_base or 1 / rate,
            frame_count=max(video.frames or round(seconds * rate), 1),
            colours=(int(colours[0]), int(colours[1]), int(colours[2])),
            pixel_aspect=aspect,
            notes=_unread_sound(container.streams.audio),
        )


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file as PyAV sees it; its errors become `InvalidVideoError`."""
    av = import_av()
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise _error(path, "an empty file")
        try:
            options = {"format_whitelist": CONTAINERS}
            with av.open(file, container_options=options, metadata_errors="ignore") as container:
                for video in container.streams.video:
                    video.thread_type = "AUTO"
                yield container
        except av.FFmpegError as error:
            raise _error(path, str(error.strerror or error)) from None


def numbered(clip: Clip, pictures: Iterator[Any]) -> Iterator[Frame]:
    """Frames of decoded pictures, with time stamps that grow."""
    last, first = None, None
    for index, picture in enumerate(pictures):
        step = max(round(1 / (clip.rate * clip.time_base)), 1)
        pts = picture.pts
        if pts is None:
            pts = 0 if last is None else last + step
        if last is not None and pts <= last:  # encoders don't take two frames of one time
            pts = last + 1
        if first is None:
            first = pts
        yield Frame(index, pts, float((pts - first) * clip.time_base), picture)
        last = pts


def import_av() -> Any:
    """PyAV, which only video needs.

    Raises:
        ModuleNotFoundError: it isn't installed; the text says how to.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Video needs PyAV: pip install 'map-pipeline[video]'.", name="av"
        ) from None
    return av


def _unread_sound(tracks: Sequence[av.AudioStream]) -> tuple[str, ...]:
    unread = sum(track.codec_context is None for track in tracks)
    if not unread:
        return ()
    return (f"{unread} of {len(tracks)} sound tracks can't be read here and will be left out",)


def _error(path: Path, reason: str) -> InvalidVideoError:
    return InvalidVideoError(
        f"`clip` must be a video that can be read, got {path.name!r} ({reason.strip('. ')})."
    )
