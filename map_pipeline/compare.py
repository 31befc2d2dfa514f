"""Comparing two photos with every recogniser.

Only forward passes: on a CPU copy of the networks (`judging_copy`) it needs no GPU time.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from map_pipeline.config import FAR
from map_pipeline.errors import naming_photo
from map_pipeline.faces.detect import check_choice, select_faces
from map_pipeline.faces.doubts import DoubtFinder
from map_pipeline.faces.face import MIN_FACE_SIDE, FourNumbers
from map_pipeline.faces.quality import quality_issues
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.measure import View, redetect_landmarks
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Comparison:
    """What one recogniser says about two faces.

    Attributes:
        name: component name; title: what people call it; family: kind of network.
        similarity: cosine of their embeddings, in [-1,1].
        threshold: similarity from which on they count as one person (FAR 1 %); None if unknown.
        matches: `similarity` reaches it; None without threshold.
    """

    name: str
    title: str
    family: str
    similarity: float
    threshold: float | None
    matches: bool | None


@dataclass(frozen=True)
class FoundFace:
    """A face of a compared photo.

    Attributes:
        number: 1 for the largest of its photo.
        box: x0, y0, x1, y1 in photo px.
        problems: why recognisers may be wrong about it, in plain words; see `faces.quality`.
        compared: whether it is part of a pair.
    """

    number: int
    box: FourNumbers
    problems: tuple[str, ...]
    compared: bool


@dataclass(frozen=True)
class FacePair:
    """A face of each photo and what the recognisers say about the two.

    Attributes:
        first: number of the first photo's face; second: of the second's.
        recognisers: one entry per recogniser.
    """

    first: int
    second: int
    recognisers: list[Comparison]


@dataclass(frozen=True)
class PhotoFaces:
    """Who is in a photo.

    Attributes:
        faces: all that were found, largest first.
        doubtful: boxes (x0, y0, x1, y1 photo px) of what may be more faces, turned or half hidden.
    """

    faces: list[FoundFace]
    doubtful: list[FourNumbers]


@dataclass(frozen=True)
class PhotoComparison:
    """Two photos, face by face.

    Attributes:
        first: who is in the first photo; second: in the second.
        pairs: every compared face of the first photo with every one of the second; at least one.
    """

    first: PhotoFaces
    second: PhotoFaces
    pairs: list[FacePair]


def judging_copy(pipe: MAPPipeline) -> MAPPipeline:
    """A pipeline with copies of the networks as they are now, for all that needs no gradients.

    On ZeroGPU the main process has no GPU: copied before `pipe.to("cuda")`, these networks stay
    on the CPU, compare photos and edit expressions without asking for GPU time.
    """
    settings = ("alignment_template", "surrogates", "target_ranker", "detector", "weights_date")
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    return MAPPipeline(**parts, **{name: pipe.config[name] for name in settings})


@torch.no_grad()
def compare_faces(
    pipe: MAPPipeline,
    first: ImageInput,
    second: ImageInput,
    faces: Literal["largest", "all"] = "all",
    rotate: bool = False,
) -> PhotoComparison:
    """Compare each face of one photo with each of another, with every recogniser.

    Args:
        faces: "largest" compares one pair. Faces with a side shorter than `MIN_FACE_SIDE` are
            listed but never compared.
        rotate: whether to look for turned faces beside upright ones, too.

    Raises:
        MAPError: a photo can't be read, shows no face or none that is large enough; the text says
            which of the two.
        UnknownOptionError: `faces` is none of the above.
    """
    check_choice(faces)
    seen, ones = _look(pipe, first, "first", faces, rotate)
    seen_too, others = _look(pipe, second, "second", faces, rotate)
    pairs = [
        FacePair(n, m, _compare(pipe, one, other))
        for n, one in ones.items()
        for m, other in others.items()
    ]
    return PhotoComparison(seen, seen_too, pairs)


@torch.no_grad()
def find_again(
    pipe: MAPPipeline,
    before: ImageInput,
    after: ImageInput,
    boxes: Sequence[FourNumbers],
    other: ImageInput,
) -> tuple[list[Comparison], list[Comparison]]:
    """Whether recognisers find a protected person by another photo of them.

    Args:
        before: the unprotected photo; after: the protected one, of the same size.
        boxes: of the protected faces, photo px. Of several the one counts that is most like the
            other photo's largest face before.

    Returns:
        What every recogniser says about the other photo and the one before, and after.

    Raises:
        MAPError: no face where one should be; the text says in which photo.
    """
    person = pipe.embed(largest_face(pipe, other, "other"))
    pictures = [to_array(load_image(one)) for one in (before, after)]
    with naming_photo("the unprotected photo"):
        faces = select_faces(pipe.find_faces(pictures[0], rotate=True), boxes)

    def compared(photo: np.ndarray, landmarks: np.ndarray) -> list[Comparison]:
        return _compare(pipe, person, pipe.embed(pipe.view(photo, landmarks)))

    unprotected = [compared(pictures[0], face.landmarks) for face in faces]
    likeness = [sum(one.similarity for one in rows) for rows in unprotected]
    nearest = likeness.index(max(likeness))
    again = redetect_landmarks(pipe.face_detector, pictures[1], faces[nearest])
    return unprotected[nearest], compared(pictures[1], again)


def largest_face(pipe: MAPPipeline, photo: ImageInput, name: str) -> View:
    """The largest face of a photo.

    Args:
        name: what an error calls the photo, such as "first".

    Raises:
        MAPError: it can't be read, shows no face or the largest is too small.
    """
    with naming_photo(f"the {name} photo"):
        pixels = to_array(load_image(photo))
        [face] = select_faces(pipe.find_faces(pixels), "largest")
    return pipe.view(pixels, face.landmarks)


def _look(
    pipe: MAPPipeline,
    photo: ImageInput,
    name: str,
    faces: Literal["largest", "all"],
    rotate: bool,
) -> tuple[PhotoFaces, dict[int, dict[str, Tensor]]]:
    """Who is in a photo, and number -> embeddings `[1,D]` of the faces to compare."""
    with naming_photo(f"the {name} photo"):
        pixels = to_array(load_image(photo))
        found = pipe.find_faces(pixels, rotate)
        large = [face for face in found if min(face.size) >= MIN_FACE_SIDE]
        chosen = select_faces(large or found, faces)  # without a large one it raises
    listed, embeddings = [], {}
    for number, face in enumerate(found, 1):
        compared = face in chosen
        listed.append(FoundFace(number, face.box, quality_issues(face, pixels), compared))
        if compared:
            embeddings[number] = pipe.embed(pipe.view(pixels, face.landmarks))
    return PhotoFaces(listed, DoubtFinder().find(pixels, found)), embeddings


def _compare(
    pipe: MAPPipeline, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> list[Comparison]:
    """What every recogniser says about two faces, given their embeddings `[1,D]` by name."""
    compared = []
    for name, net in pipe.recognisers.items():
        similarity = float(first[name][0] @ second[name][0])
        limit = net.threshold(FAR) if net.config.thresholds else None
        compared.append(
            Comparison(
                name=name,
                title=net.config.title,
                family=net.config.family,
                similarity=similarity,
                threshold=limit,
                matches=None if limit is None else similarity >= limit,
            )
        )
    return compared
