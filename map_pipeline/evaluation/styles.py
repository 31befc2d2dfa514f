"""Uncommon styles of photos, made by filters from common ones.

The protection is asked to work on an old portrait or a drawing as on a studio photo. Collections
of such pictures with two photos per person don't exist, so the sources are filtered before they
are protected; the filters below are crude but documented and the same on every machine.

All lengths are shares of the photo's shorter side, so that a style looks the same at every size.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from map_pipeline.evaluation import worn
from map_pipeline.images import to_array
from map_pipeline.images.transforms import blur, grey

Style = Callable[[np.ndarray], np.ndarray]

SEED = 0  # of shot noise and grain: a photo looks the same in every run

DISPLAY_GAMMA = 2.2  # sRGB's encoding, near enough
LOW_LIGHT_EXPOSURE = 0.12  # share of the light that is left: about three stops less
LOW_LIGHT_PHOTONS = 2000.0  # that a pixel in full light counts; few photons give visible noise

SKETCH_SIGMA = 0.012  # width of the pencil's strokes
SKETCH_STRENGTH = 2.0  # exponent that darkens them
SKETCH_FLOOR = 24.0  # of 255; without it the noise of black hair turns into speckles

# Shadows and lights of a faded sepia print.
SEPIA_SHADOW = (70, 52, 38)
SEPIA_LIGHT = (236, 220, 188)
GRAIN_SIGMA = 8.0  # of 255
GRAINS = 300  # along the shorter side

# Rows are the red, green and blue of the result: https://www.w3.org/TR/filter-effects/#sepiaEquivalent
SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))

# Of a scratched print: how many marks, and their sizes as shares of the shorter side.
SCRATCHES, SPECKS = 14, 80
SCRATCH_WIDTH, SPECK_RADIUS, CREASE_WIDTH = 0.003, 0.004, 0.008
MARK = 205  # of 255, the bare paper; it shows through by `MARK_OPACITY`
MARK_OPACITY = 0.75
MARK_SCALE = 2  # marks are drawn so many times larger, for smooth edges

CARTOON_SIDE = 512  # px of the shorter side in which areas are made flat
CARTOON_WINDOW, CARTOON_PASSES = 5, 3  # of a median filter there
CARTOON_TONES = 6  # levels of brightness
OUTLINE_FROM, OUTLINE_TO = 0.55, 0.8  # of the sketch: black below, no line above

TILT = 45  # degrees
FOCUS_SIGMA = 0.008  # 2 px at 256 px: a third more than the "blur" of the robustness test


def low_light(photo: np.ndarray) -> np.ndarray:
    """A dark, noisy photo: less light (in linear light) and the shot noise of few photons."""
    light = (photo / 255) ** DISPLAY_GAMMA * LOW_LIGHT_EXPOSURE
    photons = np.random.default_rng(SEED).poisson(light * LOW_LIGHT_PHOTONS)
    return _to_uint8((photons / LOW_LIGHT_PHOTONS) ** (1 / DISPLAY_GAMMA) * 255)


def sketch(photo: np.ndarray) -> np.ndarray:
    """A pencil drawing: the luma, colour-dodged with its blurred negative.

    The dodge blend `base / (1 - blend)` with `blend = 1 - blurred` is `base / blurred`: white where
    the picture is flat, dark along edges.
    """
    luma = grey(photo)
    ratio = (luma + SKETCH_FLOOR) / (blur(luma, SKETCH_SIGMA) + SKETCH_FLOOR)
    return _to_uint8(ratio**SKETCH_STRENGTH * 255)


def old_photo(photo: np.ndarray) -> np.ndarray:
    """A faded sepia print: brown shadows to cream lights, with coarse grain."""
    luma = Image.fromarray(photo).convert("L")
    faded = to_array(ImageOps.colorize(luma, SEPIA_SHADOW, SEPIA_LIGHT))
    return _to_uint8(faded + _grain(*photo.shape[:2])[..., None])


def sepia(photo: np.ndarray) -> np.ndarray:
    """Brown tones of full strength, as the filter of that name in browsers and phones."""
    return _to_uint8(photo @ np.array(SEPIA).T)


def scratched(photo: np.ndarray) -> np.ndarray:
    """An old print that was handled badly: scratches down its length, specks, and a crease."""
    marks = _marks(*photo.shape[:2])[..., None] * MARK_OPACITY
    return _to_uint8(old_photo(photo) * (1 - marks) + MARK * marks)


def cartoon(photo: np.ndarray) -> np.ndarray:
    """Flat areas in few tones with dark outlines."""
    picture = Image.fromarray(photo)
    factor = CARTOON_SIDE / min(picture.size)
    small = picture.resize([max(round(side * factor), 1) for side in picture.size])
    for _ in range(CARTOON_PASSES):
        small = small.filter(ImageFilter.MedianFilter(CARTOON_WINDOW))
    flat = to_array(small.resize(picture.size, Image.Resampling.BICUBIC))
    luma = grey(flat)[..., :1] + 1.0
    step = 255 / CARTOON_TONES
    tones = flat * (step * np.rint(luma / step).clip(min=0.5) / luma)  # of its own hue
    lines = (sketch(flat) / 255 - OUTLINE_FROM) / (OUTLINE_TO - OUTLINE_FROM)
    return _to_uint8(tones * lines.clip(0, 1))


def tilted(photo: np.ndarray) -> np.ndarray:
    """The photo turned by 45 degrees, on the grey of its own mean."""
    picture = Image.fromarray(photo)
    mean = tuple(int(value) for value in photo.mean((0, 1)))
    return to_array(picture.rotate(TILT, Image.Resampling.BICUBIC, fillcolor=mean))


def _marks(height: int, width: int) -> np.ndarray:
    """`[height,width]` in [0,1]: 1 where the print of that size is scratched through."""
    rng, unit = np.random.default_rng(SEED), min(height, width)
    canvas = Image.new("L", (MARK_SCALE * width, MARK_SCALE * height))
    draw, size = ImageDraw.Draw(canvas), np.array(canvas.size)
    thin, thick = (max(round(MARK_SCALE * one * unit), 1) for one in (SCRATCH_WIDTH, CREASE_WIDTH))
    for _ in range(SCRATCHES):
        x, y, length, slant = rng.random(4) * (1, 1, 0.4, 0.06)
        draw.line([*(size * (x, y)), *(size * (x + slant - 0.03, y + length))], 255, thin)
    for _ in range(SPECKS):
        x, y, radius = rng.random(3) * (*size, MARK_SCALE * SPECK_RADIUS * unit)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], 255)
    left, right = 0.6 + 0.3 * rng.random(2)  # below most faces
    draw.line([0, size[1] * left, size[0], size[1] * right], 255, thick)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX)) / 255


def _grain(height: int, width: int) -> np.ndarray:
    """`[height,width]` float noise in lumps whose size follows the picture's."""
    scale = GRAINS / min(height, width)
    lumps = (max(round(height * scale), 1), max(round(width * scale), 1))
    noise = np.random.default_rng(SEED).normal(0, GRAIN_SIGMA, lumps).astype(np.float32)
    enlarged = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


STYLES: dict[str, Style] = {
    "plain": np.copy,
    "grey": grey,
    "low_light": low_light,
    "sketch": sketch,
    "sepia": sepia,
    "old_photo": old_photo,
    "scratched": scratched,
    "cartoon": cartoon,
    "blurred": lambda photo: blur(photo, FOCUS_SIGMA),
    "tilted": tilted,
    "glasses": worn.glasses,
    "beard": worn.beard,
    "made_up": worn.make_up,
    "mask": worn.mask,
}
"""Name -> filter of a photo `uint8 [H,W,3]`; the result has the same shape."""
