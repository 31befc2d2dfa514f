"""The same people in several expressions: a zip of photos with `labels.jsonl`, split by person.

Each line of it names a `file`, its `subject` and the `emotion`, and perhaps the `source`. People
who are kept out of training and tuning are chosen by their name alone, so that training and
evaluation agree about them without a list.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import InvalidImageError
from map_pipeline.images import load_image, to_array

Split = Literal["tuning", "kept"]
# Chosen so that a third of each source of the project's photos is kept, also of the small ones.
SALT = "split 2:"


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo's name in the zip, who is on it, one of `EMOTIONS`, and of which collection."""

    file: str
    subject: str
    emotion: str
    source: str = ""


class PeoplePhotos:
    """The photos of a zip's people in one split, read on demand.

    Attributes:
        photos: in the order of the labels; without those of other emotions, such as contempt.

    Args:
        path: the zip.
        split: "tuning" for training and tuning, "kept" for measuring.

    Raises:
        InvalidImageError: it isn't such a zip.
    """

    def __init__(self, path: Path, split: Split) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                lines = archive.read("labels.jsonl").decode().splitlines()
            labels = [_labelled(json.loads(line)) for line in lines]
        # TypeError: a line that is no dictionary.
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise self._error(error) from None
        self.photos = [
            one for one in labels if one.emotion in EMOTIONS and split_of(one.subject) == split
        ]

    def read(self, photo: LabelledPhoto) -> np.ndarray:
        """The photo as `uint8 [H,W,3]`.

        Raises:
            InvalidImageError: the zip lacks it, or it can't be read.
        """
        try:
            with zipfile.ZipFile(self._path) as archive:
                content = archive.read(photo.file)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise self._error(error) from None
        return to_array(load_image(content))

    def _error(self, error: Exception) -> InvalidImageError:
        return InvalidImageError(
            "`people` must be a zip file of photos with labels of subject and emotion, got "
            f"{self._path} ({error})."
        )


def split_of(subject: str) -> Split:
    """Whether a person is kept out of training and tuning: a third is, by a hash of the name."""
    return "kept" if name_hash(subject) % 3 == 0 else "tuning"


def name_hash(subject: str) -> int:
    """A number that is the same on every machine; people in its order are well mixed."""
    return int.from_bytes(hashlib.sha256(f"{SALT}{subject}".encode()).digest())


def _labelled(label: dict[str, str]) -> LabelledPhoto:
    return LabelledPhoto(label["file"], label["subject"], label["emotion"], label.get("source", ""))
