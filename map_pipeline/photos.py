"""The photos of one call of the pipeline: their names in errors, and what is reported of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch.profiler import record_function

from map_pipeline.errors import InvalidImageError, UnknownOptionError, naming_photo
from map_pipeline.faces.detect import FaceChoice, select_faces
from map_pipeline.faces.doubts import DoubtFinder
from map_pipeline.faces.face import Face
from map_pipeline.images import ImageInput, load_photo, to_array
from map_pipeline.report import PhotoReport


@dataclass(frozen=True)
class PhotoTask:
    """One photo of a call.

    Attributes:
        name: what errors call it, such as "`image[2]`"; None if it's the only one.
        photo: `uint8 [H,W,3]`; cutout: the same with its alpha channel, None if it has none.
        found: all its faces; chosen: those to protect; emotions: of these, in their order.
        notes: what was lost when it was read, see `Photo`.
    """

    name: str | None
    photo: np.ndarray
    cutout: Image.Image | None
    found: list[Face]
    chosen: list[Face]
    emotions: list[str]
    notes: tuple[str, ...]

    def report(self, doubt_finder: DoubtFinder) -> PhotoReport:
        """What was found in the photo, and what of it isn't protected."""
        left = [face.box for face in self.found if face not in self.chosen]
        doubtful = doubt_finder.find(self.photo, self.found)
        return PhotoReport(len(self.found), left, doubtful, list(self.notes))


def name_photos(image: Any) -> tuple[list[Any], list[str | None]]:
    """The photos of a call, and what errors call each: nothing in particular if it's the only one.

    Raises:
        InvalidImageError: an empty list.
    """
    if not isinstance(image, list | tuple):
        return [image], [None]
    if not image:
        raise InvalidImageError("`image` must be a photo or a list of at least one, got none.")
    return list(image), [f"`image[{index}]`" for index in range(len(image))]


def emotion_of_each(emotion: str | Sequence[str], faces: int) -> list[str]:
    """The emotion of each of so many faces, given one for all of them or one for each.

    Raises:
        UnknownOptionError: there are more or fewer emotions than faces.
    """
    if isinstance(emotion, str):
        return [emotion] * faces
    if len(emotion) != faces:
        raise UnknownOptionError(
            f"`emotion` must be one for all faces or one for each of the {faces} chosen ones, "
            f"got {len(emotion)}."
        )
    return list(emotion)


def read_photo(
    image: ImageInput,
    name: str | None,
    find_faces: Callable[[np.ndarray], list[Face]],
    choice: FaceChoice,
    emotion: str | Sequence[str],
) -> PhotoTask:
    """Read a photo of a call and find its faces.

    Args:
        name: what errors call it; choice: which faces to protect, see `select_faces`.
        emotion: one for all of them or one for each.

    Raises:
        InvalidImageError, NoFaceError, FaceTooSmallError: see their texts.
    """
    with naming_photo(name), record_function("detect"):
        read = load_photo(image)
        photo, cutout, notes = to_array(read.pixels), read.cutout, read.notes  # [H,W,3]
        del read  # a copy of the pixels
        found = find_faces(photo)
        chosen = select_faces(found, choice)
        asked = emotion_of_each(emotion, len(chosen))
        return PhotoTask(name, photo, cutout, found, chosen, asked, notes)
