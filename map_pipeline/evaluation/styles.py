"""Uncommon styles of photos, made by filters from common ones.

The protection is asked to work on an old portrait or a drawing as on a studio photo. Collections
of such pictures with two photos per person don't exist, so the sources are filtered before they
are protected; the filters below are crude but documented and the same on every machine.

All lengths are shares of the photo's shorter side, so that a style looks the same at every size.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from map_pipeline.images import to_array
from map_pipeline.images.degradations import blur, grey

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
    "old_photo": old_photo,
    "blurred": lambda photo: blur(photo, FOCUS_SIGMA),
}
"""Name -> filter of a photo `uint8 [H,W,3]`; the result has the same shape."""
