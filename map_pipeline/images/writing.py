"""Writing pictures so that each is whole or absent."""

import io
import os
from pathlib import Path

from PIL import Image

from map_pipeline.errors import InvalidImageError
from map_pipeline.files import write_atomically


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write pixels and nothing else, atomically: PNG, or JPEG at quality 95 for .jpg/.jpeg.

    Raises:
        InvalidImageError: the suffix is neither .png nor .jpg/.jpeg.
        OSError: the folder can't be written; no partial file is left.
    """
    path = Path(path)
    buffer = io.BytesIO()
    pixels = image
    if image.mode != "RGB" or image.info:
        pixels = image.convert("RGB")  # always a copy
        pixels.info = {}  # so no metadata is kept
    if path.suffix.lower() == ".png":
        pixels.save(buffer, "PNG")
    elif path.suffix.lower() in (".jpg", ".jpeg"):
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        raise InvalidImageError(f"`OUT` must end in .png, .jpg or .jpeg, got {path.name!r}.")
    write_atomically(path, buffer.getvalue())
