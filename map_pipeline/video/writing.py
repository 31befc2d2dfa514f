"""Writing a changed clip: H.264, the sound copied, and a file that is whole or absent."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
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


def check_output(path: Path) -> None:
    """Raise `InvalidVideoError` unless the file's name says a container that we write."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidVideoError(f"`OUT` must end in {', '.join(FORMATS)}, got {path.name!r}.")


def rewrite(clip: Clip, output: Path, change: Change) -> None:
    """Write a clip with changed pictures; what else the file said about itself is left out.

    Frames keep their times, the sound its packets. Players want even sides, so a clip of an odd
    width or height gets a column or row more.

    Raises:
        InvalidVideoError: the clip is damaged, or its sound doesn't fit into the output.
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


def _begin(target: Any, sound: Sequence[Any], form: str) -> dict[int, Any]:
    """Add the streams of the sound and write the head; index in the clip -> stream."""
    codecs = [one.codec_context.name if one.codec_context else "unknown" for one in sound]
    refused = InvalidVideoError(
        f"`OUT` must be able to hold the sound of the clip, got {form} for {', '.join(codecs)}"
        f"{'' if form == 'matroska' else '; try .mkv'}."
    )
    if form == "mp4" and any(codec.startswith("pcm_") for codec in codecs):
        raise refused  # FFmpeg would say so only at the end
    try:
        added = {one.index: target.add_stream_from_template(one) for one in sound}
        target.start_encoding()
    except (ValueError, AttributeError, import_av().FFmpegError):
        if not sound:
            raise
        raise refused from None
    return added


def _split(source: Any, sound: dict[int, Any], target: Any) -> Any:
    """The pictures of a clip, decoded; the packets of its sound go straight to the target."""
    streams = [source.streams.video[0], *source.streams.audio]
    for packet in source.demux(streams):
        if packet.stream.index not in sound:
            yield from packet.decode()
        elif packet.dts is not None:  # the last packet of each stream is an empty mark
            packet.stream = sound[packet.stream.index]
            target.mux(packet)


def _encodable(clip: Clip, frame: Frame, pixels: np.ndarray) -> Any:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    matrix = "itu709" if clip.colours[0] in (0, BT709) else "itu601"
    picture = import_av().VideoFrame.from_ndarray(pixels, format="rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace=matrix)
    picture.pts, picture.time_base = frame.pts, clip.time_base
    return picture
