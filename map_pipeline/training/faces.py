"""Aligned training faces: pictures from a zip or folder, and what is known about each.

A data set is a folder or zip of square RGB pictures of one size, aligned to the score network's
template, with an optional `labels.jsonl` (one JSON object a line: `file` and, if given by hand,
`emotion`). `map-protect train label` adds what networks see in them: `NAME.labels.npz`.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import is_grey
from map_pipeline.errors import InvalidImageError
from map_pipeline.files import write_atomically
from map_pipeline.images import SUFFIXES

HAND_LABELS = "labels.jsonl"


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces with their labels, all on the CPU.

    Attributes:
        names: file names.
        images: `uint8 [N,3,S,S]` RGB.
        emotions: `[N,7]` probabilities in the order of `EMOTIONS`; a row of zeros is unknown.
        landmarks68: `[N,68,2]` landmarks in units of the side; zeros where not found.
        has_landmarks: `bool [N]`.
        grey: `bool [N]`, whether the picture has no colour.
    """

    names: list[str]
    images: Tensor
    emotions: Tensor
    landmarks68: Tensor
    has_landmarks: Tensor
    grey: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Tensor) -> "FaceSet":
        """The faces at `indices` `[M]`."""
        names = [self.names[i] for i in indices.tolist()]
        tensors = (self.images, self.emotions, self.landmarks68, self.has_landmarks, self.grey)
        return FaceSet(names, *(tensor[indices] for tensor in tensors))

    def split(self, validation: int, seed: int = 0) -> tuple["FaceSet", "FaceSet"]:
        """Training and validation faces, drawn at random but always alike for one seed."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[validation:]), self.select(order[:validation])


def read_files(
    source: Path, wanted: Callable[[str], bool] = lambda _name: True, deep: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted files at the top of a folder or zip file, sorted by name.

    Args:
        deep: also those in folders below, named like "below/a.png".

    Raises:
        InvalidImageError: `source` is neither, or a damaged zip file.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*") if deep else source.iterdir()):
            name = path.relative_to(source).as_posix()
            if path.is_file() and wanted(name):
                yield name, path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                if (deep or "/" not in name) and not name.endswith("/") and wanted(name):
                    yield name, _extract(archive, name, source)
    else:
        raise InvalidImageError(f"`faces` must be a folder or a zip file, got {source}.")


def is_picture(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return Path(name).suffix.lower() in SUFFIXES


def read_pictures(source: Path) -> tuple[list[str], Tensor]:
    """Names and pictures `uint8 [N,3,S,S]` of a data set.

    Raises:
        InvalidImageError: there is no picture, one can't be read, or one isn't square and as large
            as the first.
    """
    found = list(read_files(source, is_picture))
    if not found:
        raise InvalidImageError(f"`faces` must hold pictures, got none in {source}.")
    with ThreadPoolExecutor() as threads:  # Pillow decodes outside Python's lock
        pictures = list(threads.map(decode, found))
    size = pictures[0].shape
    for (name, _), picture in zip(found, pictures, strict=True):
        if picture.shape != size or size[0] != size[1]:
            raise InvalidImageError(
                f"`faces` must hold square pictures of one size, got {picture.shape[1]} x "
                f"{picture.shape[0]} px in {name}."
            )
    return [name for name, _ in found], torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def decode(file: tuple[str, bytes]) -> np.ndarray:
    """The picture `uint8 [H,W,3]` in a file given by its name and content.

    Raises:
        InvalidImageError: it can't be read.
    """
    name, content = file
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.array(picture.convert("RGB"))
    except Exception:  # what Pillow raises for a damaged file has no end
        raise InvalidImageError(
            f"`faces` must hold pictures that can be read, got {name}."
        ) from None


def read_labels(source: Path) -> list[dict]:
    """Lines of `labels.jsonl`, each an object with a `file`; none without such a file.

    Raises:
        InvalidImageError: a line isn't one.
    """
    labels = []
    for name, content in read_files(source, lambda name: name == HAND_LABELS):
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            if line.strip():
                labels.append(_label(line, f"line {number} of {name} in {source}"))
    return labels


def read_hand_labels(source: Path) -> dict[str, str]:
    """File name -> emotion given by a person, where it is one of `EMOTIONS`."""
    labels = read_labels(source)
    return {one["file"]: one["emotion"] for one in labels if one.get("emotion") in EMOTIONS}


def labels_path(source: Path) -> Path:
    """Where the labels of a data set lie, beside it; a folder and its zip share them."""
    source = source.absolute()  # "." has no name
    name = source.stem if source.suffix.lower() == ".zip" else source.name
    return source.with_name(f"{name}.labels.npz")


def write_labels(path: Path, faces: FaceSet) -> None:
    """Store everything but the pictures."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array(faces.names),
        emotions=faces.emotions.numpy().astype(np.float16),
        landmarks68=faces.landmarks68.numpy().astype(np.float16),
        has_landmarks=faces.has_landmarks.numpy(),
    )
    write_atomically(path, buffer.getvalue())


def load_faces(sources: Sequence[Path]) -> FaceSet:
    """Load labelled data sets as one.

    A data set without `.labels.npz` has unknown landmarks68, and emotions only where given by hand.

    Raises:
        InvalidImageError: pictures of several sizes, or labels of other pictures.
    """
    parts = [_load(source) for source in sources]
    sizes = {part.images.shape[-1] for part in parts}
    if len(sizes) != 1:
        raise InvalidImageError(f"`faces` must all be of one size, got {sorted(sizes)} px.")
    names = [name for part in parts for name in part.names]
    fields = ("images", "emotions", "landmarks68", "has_landmarks", "grey")
    return FaceSet(names, *(torch.cat([getattr(p, f) for p in parts]) for f in fields))


def hand_emotions(names: Sequence[str], labels: dict[str, str]) -> Tensor:
    """`[N,7]` one-hot rows, zeros where nobody gave a label."""
    emotions = torch.zeros(len(names), len(EMOTIONS))
    for row, name in enumerate(names):
        if name in labels:
            emotions[row, EMOTIONS.index(labels[name])] = 1
    return emotions


def find_grey(images: Tensor) -> Tensor:
    """`bool [N]` of `uint8 [N,3,S,S]`: which pictures have no colour."""
    return torch.cat([is_grey(part.float() / 255) for part in images.split(256)])


def _load(source: Path) -> FaceSet:
    names, images = read_pictures(source)
    path = labels_path(source)
    if path.is_file():
        emotions, landmarks68, has_landmarks = _read_stored(path, names)
    else:
        emotions = hand_emotions(names, read_hand_labels(source))
        landmarks68, has_landmarks = torch.zeros(len(names), 68, 2), torch.zeros(len(names)).bool()
    return FaceSet(names, images, emotions, landmarks68, has_landmarks, find_grey(images))


def _read_stored(path: Path, names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Emotions, landmarks68 and which of them were found, of the pictures with these names."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            named = stored["names"].tolist()
            known = [
                torch.from_numpy(stored[k]) for k in ("emotions", "landmarks68", "has_landmarks")
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidImageError(
            f"`faces` must have labels that can be read, got {path} ({error}); label them again."
        ) from None
    if named != names:
        raise InvalidImageError(
            f"`faces` must be the pictures that {path} labels; label them again."
        )
    return known[0].float(), known[1].float(), known[2]


def _extract(archive: zipfile.ZipFile, name: str, source: Path) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InvalidImageError(
            f"`faces` must be a whole zip file, got {source} ({error})."
        ) from None


def _label(line: str, place: str) -> dict:
    try:
        label = json.loads(line)
    except json.JSONDecodeError:
        label = None
    if not isinstance(label, dict) or not isinstance(label.get("file"), str):
        raise InvalidImageError(f'`faces` must have labels like {{"file": "a.png"}}, see {place}.')
    return label
