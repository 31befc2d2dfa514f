"""A picture behind the gate, with what its file held beyond 8-bit sRGB."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from map_pipeline.images.forms import to_pil


@dataclass(frozen=True)
class Photo:
    """A picture that passed the gate.

    Attributes:
        pixels: upright, mode RGB, on white where transparent.
        cutout: the same in mode RGBA, white where nothing shows; None if all of it is opaque.
        notes: what was lost on the way, a phrase each.
        format: of the file, such as "JPEG"; None for what came as pixels.
    """

    pixels: Image.Image
    cutout: Image.Image | None = None
    notes: tuple[str, ...] = ()
    format: str | None = None

    @property
    def picture(self) -> Image.Image:
        """Mode RGB, or RGBA where it's transparent."""
        return self.pixels if self.cutout is None else self.cutout


def as_picture(changed: np.ndarray, before: np.ndarray, cutout: Image.Image | None) -> Image.Image:
    """A changed photo as a picture with the alpha channel of the original.

    Laid on white, it looks like `changed`; pixels that stayed keep their colour and alpha.

    Args:
        changed: `uint8 [H,W,3]`; before: `Photo.pixels` as such an array.
        cutout: see `Photo`.
    """
    if cutout is None:
        return to_pil(changed)
    rgba = np.array(cutout)
    places = (changed != before).any(-1) & (rgba[..., 3] > 0)
    difference = changed[places].astype(np.float32) - before[places]
    colours = rgba[places, :3] + difference * 255 / rgba[places, 3:]
    rgba[places, :3] = np.rint(colours).clip(0, 255)
    return Image.fromarray(rgba)
