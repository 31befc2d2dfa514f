"""The only place that reads, writes and converts pictures.

Three forms exist: a PIL image in mode RGB, a `uint8 [H,W,3]` array, and a tensor
`[1,3,H,W] float32 RGB in [0,1]`. `load_image` is the gate that every picture of a user passes, from
the page, the command line and Python alike; its rules stand in `rules.py`. Whatever else a file
carried (EXIF, GPS, comments, colour profile, more frames) is gone behind it; `load_photo` also
gives the alpha channel, and says what was lost.
"""

from map_pipeline.images.forms import ImageInput, to_array, to_pil, to_tensor, uint8_tensor
from map_pipeline.images.gate import load_image, load_photo, quiet_pillow
from map_pipeline.images.photo import Photo, as_picture
from map_pipeline.images.rules import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SECONDS,
    MIN_SIDE,
    SUFFIXES,
    Rule,
    rules_table,
)
from map_pipeline.images.writing import save_image

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "MIN_SIDE",
    "SUFFIXES",
    "ImageInput",
    "Photo",
    "Rule",
    "as_picture",
    "load_image",
    "load_photo",
    "quiet_pillow",
    "rules_table",
    "save_image",
    "to_array",
    "to_pil",
    "to_tensor",
    "uint8_tensor",
]
