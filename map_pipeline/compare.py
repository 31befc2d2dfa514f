"""Comparing photos with every recogniser: any two of them, and a protected one after sharing.

Only forward passes: on a CPU copy of the networks (`judging_copy`) it needs no GPU time.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from map_pipeline.errors import MAPError
from map_pipeline.faces.detect import Face, select_faces
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.images.degradations import TRANSFORMS
from map_pipeline.measure import FAR, View, compare_identities, redetect_landmarks
from map_pipeline.pipeline import MAPPipeline, Target
from map_pipeline.report import FaceReport, RecogniserReport

# What is done to the protected photo: name for people -> key in `TRANSFORMS`.
TREATMENTS = {
    "as it is": "none",
    "JPEG 75": "jpeg75",
    "half size": "resize50",
    "half size + JPEG 75": "share",
}


@dataclass(frozen=True)
class Comparison:
    """What one recogniser says about two photos.

    Attributes:
        name: component name; title: what people call it; family: kind of network.
        similarity: cosine of the two largest faces, in [-1,1].
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
class RobustnessCheck:
    """What the recognisers say about a protected face after one treatment of the photo.

    Attributes:
        treatment: one of `TREATMENTS`.
        recognisers: their reports, the original against the treated photo.
    """

    treatment: str
    recognisers: list[RecogniserReport]


def judging_copy(pipe: MAPPipeline) -> MAPPipeline:
    """A pipeline that can measure but not protect, with copies of the networks as they are now.

    On ZeroGPU the main process has no GPU: copied before `pipe.to("cuda")`, these networks stay
    on the CPU and compare photos without asking for GPU time.
    """
    judges = {name: copy.deepcopy(net) for name, net in pipe.recognisers.items()}
    return MAPPipeline(
        unet=None,
        scheduler=pipe.scheduler,
        targets=copy.deepcopy(pipe.targets),
        **judges,
        alignment_template=pipe.config.alignment_template,
        surrogates=pipe.config.surrogates,
        target_ranker=pipe.config.target_ranker,
        detector=pipe.config.detector,
    )


def compare_photos(pipe: MAPPipeline, first: ImageInput, second: ImageInput) -> list[Comparison]:
    """Compare the largest faces of two photos with every recogniser.

    Raises:
        MAPError: a photo can't be read or shows no face; the text says which of the two.
    """
    views = [
        _largest_face(pipe, photo, name) for photo, name in ((first, "first"), (second, "second"))
    ]
    return [_compare(name, pipe, *views) for name in pipe.recognisers]


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
        one entry for each of `TREATMENTS`, in this order.
    """
    [face] = select_faces(pipe.face_detector.detect(original), [report.box])
    source = pipe.embed(pipe.view(original, face.landmarks))
    goal = pipe.built_in_target(report.target, source) if target is None else _own(pipe, target)
    used = {one.name for one in report.recognisers if one.used_in_optimisation}
    results = []
    for name, key in TREATMENTS.items():
        after = _treated_view(pipe, protected, face, TRANSFORMS[key])
        reports = [
            compare_identities(key, net, key in used, source[key], after, goal.embeddings[key])
            for key, net in pipe.recognisers.items()
        ]
        results.append(RobustnessCheck(name, reports))
    return results


def _treated_view(pipe: MAPPipeline, photo: np.ndarray, face: Face, transform: Callable) -> View:
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


def _largest_face(pipe: MAPPipeline, photo: ImageInput, name: str) -> View:
    try:
        pixels = to_array(load_image(photo))
        [face] = select_faces(pipe.face_detector.detect(pixels), "largest")
    except MAPError as error:
        raise type(error)(str(error).replace("`image`", f"the {name} photo")) from None
    return pipe.view(pixels, face.landmarks)


def _own(pipe: MAPPipeline, target: ImageInput) -> Target:
    return Target("own image", pipe.embed(_largest_face(pipe, target, "target")))


@torch.no_grad()
def _compare(name: str, pipe: MAPPipeline, first: View, second: View) -> Comparison:
    net = pipe.recognisers[name]
    similarity = float(net(*first)[0] @ net(*second)[0])
    limit = net.threshold(FAR) if net.config.thresholds else None
    return Comparison(
        name=name,
        title=net.config.title,
        family=net.config.family,
        similarity=similarity,
        threshold=limit,
        matches=None if limit is None else similarity >= limit,
    )
