"""Clips made of example pictures: stills that move, and what else tests lay on a canvas."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from map_pipeline.faces.align import warp_affine

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 25
GREY = 96


def still(name: str = "astronaut") -> np.ndarray:
    """An example picture, `uint8 [H,W,3]`."""
    return np.array(Image.open(EXAMPLES / f"{name}.png").convert("RGB"))


def portrait() -> np.ndarray:
    """A face of about 90 px, `uint8 [256,256,3]`."""
    return still()[0:256, 96:352]


def turned(
    picture: np.ndarray, degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """A picture turned, scaled and moved about its middle; its edge is mirrored outwards."""
    height, width = picture.shape[:2]
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    middle = np.array([width - 1, height - 1]) / 2
    offset = middle - linear @ (middle + np.array(shift))
    back = torch.from_numpy(np.concatenate([linear, offset[:, None]], 1)).float()
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    warped = warp_affine(image, back[None], (height, width), "reflection", "bicubic")
    return warped[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def swaying(picture: np.ndarray, count: int, rate: float = RATE) -> list[np.ndarray]:
    """A still that moves, turns and comes nearer, smoothly."""
    phases = 2 * np.pi * np.arange(count) / rate / 2
    return [
        turned(picture, 6 * np.sin(p), 1 + 0.06 * np.sin(0.7 * p), (9 * np.sin(1.3 * p), 5 * p % 4))
        for p in phases
    ]


def placed(face: np.ndarray, size: tuple[int, int], x: float, y: float) -> np.ndarray:
    """A picture at a place (its left upper corner, may lie outside) of a grey one (w, h)."""
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    paste(canvas, face, round(x), round(y))
    return canvas


def paste(canvas: np.ndarray, face: np.ndarray, x: int, y: int) -> None:
    """Lay a picture on another at a place, as far as it lies within."""
    height, width = canvas.shape[:2]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + face.shape[1], width), min(y + face.shape[0], height)
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = face[y0 - y : y1 - y, x0 - x : x1 - x]


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: float = RATE,
    times: Sequence[float] | None = None,
    sound: bool | str = False,
    change: Callable[[av.VideoStream], None] | None = None,
) -> Path:
    """A clip of frames `uint8 [H,W,3]`.

    Args:
        times: seconds of the frames, where they don't come at `rate`.
        sound: with a tone of the same length, AAC or of the named codec.
        change: called with the stream before the first frame.
    """
    frames = list(frames)
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = "made at home"
        video = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "12"})
        odd = frames[0].shape[0] % 2 or frames[0].shape[1] % 2
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv444p" if odd else "yuv420p"
        video.codec_context.time_base = Fraction(1, 12800)
        if change is not None:
            change(video)
        codec = sound if isinstance(sound, str) else "aac"
        tone = container.add_stream(codec, rate=16000) if sound else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            seconds = index / rate if times is None else times[index]
            frame.pts, frame.time_base = round(seconds * 12800), Fraction(1, 12800)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if tone is not None:
            write_tone(container, tone, len(frames) / rate)
    return path


def write_tone(
    container: av.container.OutputContainer, tone: av.AudioStream, length: float
) -> None:
    """A tone of so many seconds."""
    samples = np.sin(np.arange(round(16000 * length)) * 0.3).astype(np.float32)[None]
    for start in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, start : start + 1024])
        form = tone.codec_context.format.name
        if form == "s16":
            part = (part * 30000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part, format=form, layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(tone.encode(frame))
    container.mux(tone.encode(None))


def read_clip(path: Path) -> tuple[np.ndarray, list[float]]:
    """Frames `uint8 [N,H,W,3]` as stored, and their times."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([one.to_ndarray(format="rgb24") for one in frames]), [
        one.time for one in frames
    ]


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    """Time and content of each packet of the sound."""
    with av.open(str(path)) as container:
        packets = list(container.demux(audio=0))
    return [(float(p.pts * p.time_base), bytes(p)) for p in packets if p.pts is not None]
