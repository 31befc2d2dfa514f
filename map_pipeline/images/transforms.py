"""What happens to a photo after it was protected: the transformations of the robustness test.

Each takes a photo `uint8 [H,W,3]` and a seed and returns a new `uint8 [h,w,3]`; only "noise" is
random. Ready-made suites of the field (such as DiffPrivate's: JPEG 50, 4-bit squeezing, Gaussian
blur, noise) hold most of them.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from map_pipeline.images import to_array

Transform = Callable[[np.ndarray, int], np.ndarray]

# Share of the shorter side, so that it blurs a large photo's face as much as a small one's:
# 1.5 px at 256 px.
BLUR_SIGMA = 0.006
NOISE_SIGMA = 10.0  # of 255, independent in each pixel and channel: a phone's camera at night
SCREENSHOT_SCALE = 0.62  # a photo as wide as a phone's screen instead of its own width
SHARPEN_SIGMA, SHARPEN_AMOUNT = 0.003, 0.8  # unsharp mask: share of the shorter side, and strength
# A phone's "warm" filter: an S-curve of tones, gains of red and blue, and dark corners.
FILTER_CONTRAST, FILTER_RED, FILTER_BLUE, FILTER_CORNERS = 0.35, 1.06, 0.9, 0.35
SQUEEZE_BITS = 4  # Xu et al. 2018, "Feature squeezing", https://arxiv.org/abs/1704.01155


def jpeg(photo: np.ndarray, quality: int) -> np.ndarray:
    """Write and read a JPEG of `quality` 1..95 (libjpeg's scale) with 4:2:0 chroma."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
    return to_array(Image.open(buffer))


def resize(photo: np.ndarray, factor: float) -> np.ndarray:
    """Reduce both sides by `factor` in (0,1], bicubic with a low-pass filter (Pillow's)."""
    height, width = photo.shape[:2]
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return to_array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))


def blur(photo: np.ndarray, sigma_share: float) -> np.ndarray:
    """Gaussian blur (Pillow's, by box filters); sigma as a share of the shorter side."""
    sigma = sigma_share * min(photo.shape[:2])
    return to_array(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma)))


def add_noise(photo: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Add Gaussian noise with the standard deviation `sigma` (of 255), clipped to 0..255."""
    noise = np.random.default_rng(seed).normal(0, sigma, photo.shape)
    return np.rint(photo + noise).clip(0, 255).astype(np.uint8)


def squeeze(photo: np.ndarray, bits: int) -> np.ndarray:
    """Round each value to the nearest of `2 ** bits` levels spread over 0..255."""
    step = 255 / (2**bits - 1)
    return np.rint(np.rint(photo / step) * step).astype(np.uint8)


def grey(photo: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma in all three channels."""
    return to_array(Image.fromarray(photo).convert("L"))


def screenshot(photo: np.ndarray) -> np.ndarray:
    """A photo shown smaller and sharpened, as screens and galleries show it, and captured."""
    small = resize(photo, SCREENSHOT_SCALE)
    detail = small.astype(np.float32) - blur(small, SHARPEN_SIGMA)
    return np.rint(small + SHARPEN_AMOUNT * detail).clip(0, 255).astype(np.uint8)


def phone_filter(photo: np.ndarray) -> np.ndarray:
    """More contrast, warmer colours and a vignette, in this order."""
    tones = photo.astype(np.float32) / 255
    curve = tones * tones * (3 - 2 * tones)  # of contrast, black and white stay
    tones += FILTER_CONTRAST * (curve - tones)
    tones *= np.array([FILTER_RED, 1.0, FILTER_BLUE], np.float32)
    height, width = photo.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    distance = ((x * x + y * y) / 2)[..., None]  # squared, 1 in the corners
    tones *= (1 - FILTER_CORNERS * distance).astype(np.float32)
    return np.rint(tones * 255).clip(0, 255).astype(np.uint8)


def _unseeded(function: Callable[..., np.ndarray], **settings: float) -> Transform:
    """A transformation without randomness: the seed is ignored."""
    return lambda photo, _seed: function(photo, **settings)


TRANSFORMS: dict[str, Transform] = {
    "none": _unseeded(np.copy),
    "jpeg90": _unseeded(jpeg, quality=90),
    "jpeg75": _unseeded(jpeg, quality=75),
    "jpeg50": _unseeded(jpeg, quality=50),
    "resize50": _unseeded(resize, factor=0.5),
    "resize25": _unseeded(resize, factor=0.25),
    # What a messenger or social network does to an upload.
    "share": _unseeded(lambda photo: jpeg(resize(photo, 0.5), 75)),
    "screenshot": _unseeded(screenshot),
    "phone_filter": _unseeded(phone_filter),
    "blur": _unseeded(blur, sigma_share=BLUR_SIGMA),
    "noise": lambda photo, seed: add_noise(photo, NOISE_SIGMA, seed),
    "squeeze4": _unseeded(squeeze, bits=SQUEEZE_BITS),
    "grey": _unseeded(grey),
}
"""Name -> transformation of a photo with a seed."""
