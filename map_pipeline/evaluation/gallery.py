"""Photos as recognisers see them: each face is detected once and embedded once.

The gallery holds the second photos of the set's people. Its first photos, paired with them, are the
clean pairs on which thresholds are estimated.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.dataset import PhotoSet, Problem
from map_pipeline.evaluation.protocol import genuine, impostors, rank
from map_pipeline.files import write_atomically
from map_pipeline.images import load_image, to_array
from map_pipeline.measure import View
from map_pipeline.pipeline import MAPPipeline

NO_FACE = "must show a face, but none was found"

Embeddings = dict[str, np.ndarray]
"""Recogniser name -> float32 `[D]` of length 1."""


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """The largest face of one picture: its surroundings and its embeddings."""

    view: View
    embeddings: Embeddings


def embed_largest_face(pipe: MAPPipeline, photo: np.ndarray) -> DetectedFace | None:
    """Find and embed the largest face of a photo `uint8 [H,W,3]`, however small; None if none."""
    faces = pipe.face_detector.detect(photo)
    return embed_face(pipe, photo, faces[0].landmarks) if faces else None


@torch.no_grad()
def embed_face(pipe: MAPPipeline, photo: np.ndarray, landmarks: np.ndarray) -> DetectedFace:
    """Embed the face at known landmarks `[5,2]` px."""
    view = pipe.view(photo, landmarks)
    return DetectedFace(view, {name: e[0].cpu().numpy() for name, e in pipe.embed(view).items()})


def embed_composite(pipe: MAPPipeline, name: str) -> tuple[DetectedFace, np.ndarray]:
    """A built-in target's mirrored picture, the probe of a target without another photo.

    Composites are aligned, so their landmarks are known without a detector, which may miss a face
    that fills its picture.

    Returns:
        the face, and the mirrored picture `uint8 [S,S,3]`.

    Raises:
        UnknownOptionError: there is no such composite.
    """
    if pipe.targets is None:
        raise UnknownOptionError(
            f"`target` must be an id of the photo set: the checkpoint has no targets, got {name!r}."
        )
    picture = np.ascontiguousarray(to_array(pipe.targets.picture(name))[:, ::-1])
    side = picture.shape[1]
    template = np.array(pipe.config.alignment_template, np.float32) * side
    # Mirrored, the right eye becomes the left one: landmarks go by the side of the image.
    mirrored = template[[1, 0, 2, 4, 3]] * np.float32([-1, 1]) + np.float32([side - 1, 0])
    return embed_face(pipe, picture, mirrored), picture


class EmbeddingCache:
    """Embeddings by the content of a file, so that a continued run doesn't compute them anew.

    Args:
        path: NPZ file to start from, if it exists, and to save to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, np.ndarray] = {}
        if path.is_file():
            with np.load(path) as file:
                self._known = dict(file)

    def embed(self, pipe: MAPPipeline, content: bytes) -> Embeddings:
        """Embeddings of the largest face in the bytes of a file.

        Raises:
            InvalidImageError: the file can't be read, or shows no face.
        """
        photo = to_array(load_image(content))
        key = hashlib.sha256(content).hexdigest()
        dims = [net.config.embedding_dim for net in pipe.recognisers.values()]
        if key not in self._known:
            seen = embed_largest_face(pipe, photo)
            empty = np.zeros(0, np.float32)
            vectors = list(seen.embeddings.values()) if seen else []
            self._known[key] = np.concatenate([empty, *vectors])
        joined = self._known[key]
        if not len(joined):
            raise InvalidImageError(f"`image` {NO_FACE}.")
        return dict(zip(pipe.recognisers, np.split(joined, np.cumsum(dims)[:-1]), strict=True))

    def save(self) -> None:
        """Write what is known, atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, **self._known)
        write_atomically(self._path, buffer.getvalue())


@dataclass(frozen=True)
class Gallery:
    """Clean embeddings of a set's people.

    Attributes:
        first, second: person -> embeddings of the photo to protect and of the other one; people
            are missing whose photo can't be used.
        members: people whose second photos are the gallery, and on whom thresholds are estimated.
        problems: photos that can't be used.
    """

    first: Mapping[str, Embeddings]
    second: Mapping[str, Embeddings]
    members: frozenset[str]
    problems: Sequence[Problem]

    @property
    def size(self) -> int:
        """Number of faces that a search goes through: the members' and the target's probe."""
        return len(self._names) + 1

    def place(self, name: str, recogniser: str, own: float, probe: float, face: np.ndarray) -> int:
        """Place of a person's other photo among all second photos and the target's probe.

        Args:
            name: of the person; own, probe: similarity of the face to the person's other photo
                and to the target's probe; face: its embedding `[D]`.
        """
        similarities = self._matrices[recogniser] @ face
        others = similarities[[other != name for other in self._names]]
        return rank(own, np.append(others, probe))

    def pairs(self, recogniser: str) -> tuple[np.ndarray, np.ndarray]:
        """Similarities of all impostor pairs and of all genuine pairs of the members."""
        both = sorted(self.members & self.first.keys() & self.second.keys())
        if not both:
            return np.zeros(0), np.zeros(0)
        first = np.stack([self.first[name][recogniser] for name in both])
        second = np.stack([self.second[name][recogniser] for name in both])
        return impostors(first, second), genuine(first, second)

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self.members & self.second.keys())

    @cached_property
    def _matrices(self) -> dict[str, np.ndarray]:
        """Recogniser -> second photos of the members, `[N,D]`."""
        faces = [self.second[name] for name in self._names]
        return {key: np.stack([face[key] for face in faces]) for key in (faces or [{}])[0]}


def build_gallery(
    pipe: MAPPipeline,
    photos: PhotoSet,
    cache: EmbeddingCache,
    members: int,
    limit: int | None = None,
) -> Gallery:
    """Embed both photos of a set's people; what can't be used is a problem with the file's name.

    Args:
        members: how many of the first people make up the gallery.
        limit: how many people are protected; those beyond the gallery are embedded as well.
    """
    first: dict[str, Embeddings] = {}
    second: dict[str, Embeddings] = {}
    problems = []
    pairs = photos.pairs[: max(members, len(photos.pairs[:limit]))]
    for pair in tqdm(pairs, unit="person", desc="clean photos"):
        for file, place in ((pair.first, first), (pair.second, second)):
            if file is None:
                continue
            try:
                place[pair.name] = cache.embed(pipe, photos.read(file))
            except (InvalidImageError, OSError) as error:
                problems.append(Problem(file, " ".join(str(error).split())))
    names = frozenset(pair.name for pair in photos.pairs[:members])
    return Gallery(first, second, names, problems)
