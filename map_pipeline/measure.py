"""Measuring one protected face: what every network sees in it, before and after."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from map_pipeline.config import EMOTIONS, FAR
from map_pipeline.expression.classifiers import (
    ExpressionClassifier,
    TransformersExpressionClassifier,
)
from map_pipeline.faces.align import extract_region
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.faces.face import Face, turn_face
from map_pipeline.identity.losses import ssim
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.images import uint8_tensor
from map_pipeline.report import ExpressionReport, RecogniserReport


class View(NamedTuple):
    """One face as the networks see it: `[1,3,h,w]` in [0,1] and landmarks `[1,5,2]` px."""

    image: Tensor
    landmarks: Tensor


def view_face(photo: np.ndarray, landmarks: np.ndarray, device: torch.device) -> View:
    """The surroundings of a face in a photo `uint8 [H,W,3]`, on a device.

    Args:
        landmarks: `[5,2]` photo px: eyes, nose tip, mouth corners, image left first.
    """
    region = extract_region(uint8_tensor(photo), torch.as_tensor(landmarks))
    return View(region.image.to(device), region.landmarks[None].to(device))


class FacesAgain:
    """The faces of a finished photo, found anew as a recogniser would.

    Args:
        detector: looks at the photo once for each way up.
        photo: `uint8 [H,W,3]`.
    """

    def __init__(self, detector: FaceDetector, photo: np.ndarray) -> None:
        self.detector, self._photo = detector, photo
        self._found: dict[int, list[Face]] = {}

    def landmarks(self, face: Face) -> np.ndarray:
        """Landmarks `[5,2]` of the face detected nearest to `face`; its own if none is near.

        The photo is turned until `face` is upright, as detectors know upright faces best.
        """
        if face.turns not in self._found:
            turned = np.ascontiguousarray(np.rot90(self._photo, face.turns))
            seen = self.detector.detect(turned)
            self._found[face.turns] = [turn_face(one, -face.turns, turned) for one in seen]
        return _nearest(self._found[face.turns], face)


def redetect_landmarks(detector: FaceDetector, photo: np.ndarray, face: Face) -> np.ndarray:
    """The same for one face of a photo."""
    return FacesAgain(detector, photo).landmarks(face)


def _nearest(found: Sequence[Face], face: Face) -> np.ndarray:
    centre = face.landmarks.mean(0)
    distance = [float(np.linalg.norm(one.landmarks.mean(0) - centre)) for one in found]
    if not distance or min(distance) > face.eye_distance:
        return face.landmarks
    return found[int(np.argmin(distance))].landmarks


def image_quality(before: Tensor, after: Tensor) -> tuple[float, float]:
    """SSIM in [-1,1] and PSNR in dB of two pictures `[1,3,h,w]`; infinite if nothing changed."""
    error = (after - before).square().mean()
    return float(ssim(after, before)), float(-10 * error.log10()) if error > 0 else float("inf")


@torch.no_grad()
def compare_identities(
    name: str, net: FaceRecogniser, used: bool, source: Tensor, after: View, target: Tensor | None
) -> RecogniserReport:
    """How one recogniser sees the protected face.

    Args:
        used: whether the optimisation differentiated through it.
        source: `[1,D]`, its embedding of the unprotected face; target: of the target, or None.
    """
    protected = net(*after).float()
    source_after = float(protected[0] @ source[0])
    limit = net.threshold(FAR) if net.config.thresholds else None
    target_before = target_after = impersonates = None
    if target is not None:
        target_before = float(source[0] @ target[0])
        target_after = float(protected[0] @ target[0])
        impersonates = None if limit is None else target_after >= limit
    return RecogniserReport(
        name=name,
        title=net.config.title,
        family=net.config.family,
        used_in_optimisation=used,
        thresholds=dict(net.config.thresholds),
        target_before=target_before,
        target_after=target_after,
        source_after=source_after,
        impersonates=impersonates,
        no_longer_matches=None if limit is None else source_after < limit,
    )


@torch.no_grad()
def compare_expressions(
    name: str,
    net: ExpressionClassifier | TransformersExpressionClassifier,
    used: bool,
    before: View,
    after: View,
) -> ExpressionReport:
    """Emotion probabilities by one expression network."""
    first, second = (_probabilities(net, view) for view in (before, after))
    return ExpressionReport(name, net.config.title, used, first, second)


def _probabilities(
    net: ExpressionClassifier | TransformersExpressionClassifier, view: View
) -> dict[str, float]:
    values = net(view.image, view.landmarks).float().softmax(-1)[0].tolist()
    return dict(zip(EMOTIONS, values, strict=True))
