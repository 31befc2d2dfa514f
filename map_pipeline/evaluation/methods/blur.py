"""What people do without such a tool: blur the face, or show it as a mosaic.

Both hide the person from people as well, and still leave much for a recogniser (Newton et al.
2005, https://doi.org/10.1109/TKDE.2005.32). Their strength is relative to the face, so that it
means the same in every photo. The defaults are mild, about the strongest at which the bundled
detector still finds nearly every face (14 and 16 of 16 dev photos; with twice as much none): beyond
that there is no face left to compare, and the question is no longer who it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from map_pipeline.evaluation.methods.base import FacePlace, Task, find_face
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of the face.

    Attributes:
        sigma: standard deviation as a share of the distance between the eyes, > 0; a face is about
            2.2 such distances wide.
    """

    sigma: float = 0.1
    name: str = "blur"
    surrogates: ClassVar = 0

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"`sigma` must be > 0, got {self.sigma}.")

    @property
    def title(self) -> str:
        """Name and strength."""
        return f"Gaussian blur, {self.sigma:g} eye distances"

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the photo with the face blurred; see `Method.protect`."""
        place = find_face(pipe, task.photo)
        radius = self.sigma * place.eye_distance
        return _replace(
            task.photo, place, lambda part: part.filter(ImageFilter.GaussianBlur(radius))
        )


@dataclass(frozen=True)
class Mosaic:
    """The face in squares of one colour each.

    Attributes:
        block: side of a square as a share of the distance between the eyes, > 0; the default gives
            about 22 squares over the width of a face.
    """

    block: float = 0.1
    name: str = "mosaic"
    surrogates: ClassVar = 0

    def __post_init__(self) -> None:
        if self.block <= 0:
            raise ValueError(f"`block` must be > 0, got {self.block}.")

    @property
    def title(self) -> str:
        """Name and strength."""
        return f"mosaic, squares of {self.block:g} eye distances"

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the photo with the face as a mosaic; see `Method.protect`."""
        place = find_face(pipe, task.photo)
        side = self.block * place.eye_distance
        return _replace(task.photo, place, lambda part: _squares(part, side))


def _squares(image: Image.Image, side: float) -> Image.Image:
    size = (max(round(image.width / side), 1), max(round(image.height / side), 1))
    few = image.resize(size, Image.Resampling.BOX)
    return few.resize(image.size, Image.Resampling.NEAREST)


def _replace(
    photo: np.ndarray, place: FacePlace, change: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    """Change the surroundings of a face and keep the change inside the mask only."""
    x0, y0, x1, y1 = place.region.box
    result = photo.copy()
    part = result[y0:y1, x0:x1]
    changed = np.asarray(change(Image.fromarray(part)))
    np.copyto(part, changed, where=place.mask_in_box()[..., None])
    return result
