"""A protected photo after what happens to photos that are shared: JPEG and resizing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from map_pipeline.compare import largest_face
from map_pipeline.errors import NoFaceError
from map_pipeline.faces.detect import select_faces
from map_pipeline.faces.face import Face
from map_pipeline.identity.targets import Target
from map_pipeline.images import ImageInput
from map_pipeline.images.transforms import TRANSFORMS, Transform
from map_pipeline.measure import View, compare_identities, redetect_landmarks
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.report import FaceReport, RecogniserReport

# What is done to the protected photo: name for people -> key in `TRANSFORMS`.
CHECKED = {
    "as it is": "none",
    "JPEG 75": "jpeg75",
    "half size": "resize50",
    "half size + JPEG 75": "share",
}


@dataclass(frozen=True)
class RobustnessCheck:
    """What the recognisers say about a protected face after one treatment of the photo.

    Attributes:
        treatment: one of `CHECKED`.
        recognisers: their reports, the original against the treated photo.
    """

    treatment: str
    recognisers: list[RecogniserReport]


@torch.no_grad()
def check_robustness(
    pipe: MAPPipeline,
    original: np.ndarray,
    protected: np.ndarray,
    report: FaceReport,
    target: ImageInput | None = None,
) -> list[RobustnessCheck]:
    """Measure one protected face again after what happens to photos that are shared.

    Args:
        original: the photo, `uint8 [H,W,3]`.
        protected: the same after protection.
        report: of the face to look at.
        target: the user's own target picture, where `report.target` is not a built-in one.

    Returns:
        one entry for each of `CHECKED`, in this order.
    """
    face = _face_of(pipe, original, report)
    source = pipe.embed(pipe.view(original, face.landmarks))
    goal: Mapping[str, Tensor] = {}
    if target is not None:
        goal = _own(pipe, target).embeddings
    elif report.target is not None:
        goal = pipe.built_in_target(report.target, source).embeddings
    used = {one.name for one in report.recognisers if one.used_in_optimisation}
    results = []
    for name, key in CHECKED.items():
        after = _treated_view(pipe, protected, face, TRANSFORMS[key])
        reports = [
            compare_identities(key, net, key in used, source[key], after, goal.get(key))
            for key, net in pipe.recognisers.items()
        ]
        results.append(RobustnessCheck(name, reports))
    return results


def _face_of(pipe: MAPPipeline, photo: np.ndarray, report: FaceReport) -> Face:
    """The face of a report in its photo; perhaps one that was only found because it was asked for.

    Raises:
        NoFaceError: there's no such face.
    """
    try:
        [face] = select_faces(pipe.find_faces(photo), [report.box])
    except NoFaceError:
        [face] = select_faces(pipe.find_faces(photo, rotate=True), [report.box])
    return face


def _treated_view(pipe: MAPPipeline, photo: np.ndarray, face: Face, transform: Transform) -> View:
    """The face in the transformed photo, found anew as a recogniser would."""
    treated = transform(photo, 0)
    scale = treated.shape[1] / photo.shape[1]
    moved = replace(
        face,
        box=tuple(scale * corner for corner in face.box),
        landmarks=(face.landmarks * scale).astype(np.float32),
        landmarks68=None,
    )
    return pipe.view(treated, redetect_landmarks(pipe.face_detector, treated, moved))


def _own(pipe: MAPPipeline, target: ImageInput) -> Target:
    return Target("own image", pipe.embed(largest_face(pipe, target, "target")))
