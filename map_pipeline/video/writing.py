"""Writing a changed clip: H.264, the sound copied or as AAC, a file whole or absent."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from map_pipeline.errors import InvalidVideoError
from map_pipeline.video.reading import BT709, Clip, Frame, import_av, numbered, opened

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
# 16 of 0 to 51 looks like the input. Fewer bits, or "veryfast", make a calm face flicker:
# by 1.25 times the input's own change, this by 1.13.
ENCODER = {"crf": "16", "preset": "fast"}
# What a player needs to know before the pictures stands first, so that a page can start at once.
CONTAINER = {"mp4": {"movflags": "faststart"}, "mov": {"movflags": "faststart"}}

Change = Callable[[Frame], np.ndarray]
"""The new picture of a frame, `uint8 [H,W,3]`, RGB."""
Way = Callable[[Any], Iterable[Any]]
"""What becomes of a packet of sound: packets to write."""


def check_output(path: Path) -> None:
    """Raise `InvalidVideoError` unless the file's name says a container that we write."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidVideoError(f"`OUT` must end in {', '.join(FORMATS)}, got {path.name!r}.")


def rewrite(clip: Clip, output: Path, change: Change) -> None:
    """Write a clip with changed pictures; what else the file said about itself is left out.

    Frames keep their times, the sound its packets; where the container can't hold these, they
    become AAC, mono or stereo. Sound that can't be read is left out, see `Clip.notes`. Players want
    even sides, so a clip of an odd width or height gets a column or row more.

    Raises:
        InvalidVideoError: the clip is damaged.
        OSError: the folder can't be written.
    """
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own until it's whole: whatever stops us leaves no half clip.
    temporary = output.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with opened(clip.path) as source, temporary.open("wb") as file:
            _copy(clip, source, file, FORMATS[output.suffix.lower()], change)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(clip: Clip, source: Any, file: Any, form: str, change: Change) -> None:
    av = import_av()
    with av.open(file, "w", format=form, options=CONTAINER.get(form, {})) as target:
        video = target.add_stream("libx264", rate=clip.rate, options=ENCODER)
        encoder = video.codec_context
        encoder.width, encoder.height = (side + side % 2 for side in clip.size)
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = clip.time_base
        matrix, encoder.color_primaries, encoder.color_trc = clip.colours
        encoder.colorspace = matrix or BT709  # 0 is RGB, which 4:2:0 can't be
        if clip.pixel_aspect is not None:
            encoder.sample_aspect_ratio = clip.pixel_aspect
        sound = _begin(target, source.streams.audio, form)
        pictures = _split(source, sound, target)
        for frame in numbered(clip, pictures):
            for packet in video.encode(_encodable(clip, frame, change(frame))):
                target.mux(packet)
        for packet in video.encode(None):
            target.mux(packet)


def _begin(target: Any, sound: Sequence[Any], form: str) -> dict[int, Way]:
    """Add the streams of the sound; index in the clip -> what is done with its packets."""
    ways: dict[int, Way] = {}
    for track in sound:
        if track.codec_context is None:  # named in `Clip.notes`
            continue
        if _fits(track, form):
            ways[track.index] = _copied(target.add_stream_from_template(track))
        else:
            ways[track.index] = _as_aac(_add_aac(target, track))
    return ways


def _fits(track: Any, form: str) -> bool:
    """Whether the container takes a track's packets as they are."""
    if form == "mp4" and track.codec_context.name.startswith("pcm_"):
        return False  # FFmpeg refuses some only at the very end, and few players play the others
    av = import_av()
    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            trial.add_stream_from_template(track)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _copied(stream: Any) -> Way:
    def way(packet: Any) -> Iterable[Any]:
        packet.stream = stream
        return [packet] if packet.dts is not None else []  # the last is an empty mark

    return way


def _as_aac(stream: Any) -> Way:
    def way(packet: Any) -> Iterable[Any]:
        frames = packet.decode()
        for frame in frames if packet.size else [*frames, None]:  # None: that was all
            yield from stream.encode(frame)

    return way


def _add_aac(target: Any, track: Any) -> Any:
    rates = import_av().Codec("aac", "w").audio_rates
    rate = track.rate if track.rate in rates else 48000
    return target.add_stream("aac", rate=rate, layout="mono" if track.channels == 1 else "stereo")


def _split(source: Any, sound: dict[int, Way], target: Any) -> Any:
    """The pictures of a clip, decoded; the packets of its sound go straight to the target."""
    streams = [source.streams.video[0], *(source.streams[index] for index in sound)]
    for packet in source.demux(streams):
        if packet.stream.index not in sound:
            yield from packet.decode()
        else:
            for one in sound[packet.stream.index](packet):
                target.mux(one)


def _encodable(clip: Clip, frame: Frame, pixels: np.ndarray) -> Any:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    matrix = "itu709" if clip.colours[0] in (0, BT709) else "itu601"
    picture = import_av().VideoFrame.from_ndarray(pixels, format="rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace=matrix)
    picture.pts, picture.time_base = frame.pts, clip.time_base
    return picture
