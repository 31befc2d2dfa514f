"""Finding faces: the bundled detector, insightface's SCRFD, and which faces to protect."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from map_pipeline.config import DETECTORS
from map_pipeline.errors import (
    CheckpointError,
    FaceTooSmallError,
    MAPError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.faces.boxes import BoxFinder, iou
from map_pipeline.faces.landmarks import LandmarkFinder, five_points

MIN_FACE_SIDE = 40  # px, shorter side of the box; below, too little of a face is there to change
MIN_BOX_IOU = 0.3  # overlap from which a box given by the user means a detected face
# Of more faces the largest are taken: landmarks take 20 to 100 ms each, so a picture made of
# thousands of faces would take minutes.
MAX_FACES = 64
SAME_FACE_DISTANCE = 0.5  # mean distance of the five points, in eye distances
INSIGHTFACE_SCORE_THRESHOLD = 0.5  # insightface's own default
INSIGHTFACE_ROOT_VARIABLE = "MAP_INSIGHTFACE_ROOT"

Box = Sequence[float]
"""x0, y0, x1, y1 in photo px."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in photo px."""
    landmarks: np.ndarray
    """float32 `[5, 2]` photo px: left and right eye (image left first), nose tip, mouth corners."""
    score: float
    """Confidence of the detector in [0, 1]."""
    landmarks68: np.ndarray | None = None
    """float32 `[68, 2]` photo px in iBUG order, if the detector knows them."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the box, px."""
        x0, y0, x1, y1 = self.box
        return x1 - x0, y1 - y0


class FaceDetector(Protocol):
    """What the pipeline needs of a detector."""

    name: str

    def detect(self, photo: np.ndarray) -> list[Face]:
        """Find the faces of an upright photo, biggest first.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
        """
        ...


class BundledDetector:
    """RFB-320 boxes and 68 landmarks on onnxruntime's CPU provider; nothing is downloaded.

    Finds faces from about 40 px with a roll of up to 45 degrees. Safe to share between threads.
    """

    name = "RFB-320 + 68 points (bundled)"

    def __init__(self) -> None:
        self._boxes = BoxFinder()
        self._contours = LandmarkFinder()

    def detect(self, photo: np.ndarray) -> list[Face]:
        """Find the faces of an upright photo (uint8 RGB `[H, W, 3]`), biggest first.

        Of more than `MAX_FACES` only the biggest are looked at.
        """
        faces: list[Face] = []
        boxes, scores = self._boxes.find(photo)
        biggest = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(-1))[::-1][:MAX_FACES]
        chosen = np.sort(biggest)  # in their order still: the better of two of one face is first
        for box, score in zip(boxes[chosen], scores[chosen], strict=True):
            landmarks68 = self._contours.find(photo, box)
            if landmarks68 is None:
                continue
            x0, y0, x1, y1 = box.tolist()
            face = Face((x0, y0, x1, y1), five_points(landmarks68), float(score), landmarks68)
            if not any(_same_face(face, other) for other in faces):
                faces.append(face)
        return _biggest_first(faces)


class InsightFaceDetector:
    """insightface's SCRFD detector with its five landmarks, on onnxruntime's CPU provider.

    The model packs are licensed for non-commercial research only and never ship with this package.

    Args:
        pack: name of the model pack.
        root: folder whose `models/<pack>` holds the pack; by default the environment variable
            `MAP_INSIGHTFACE_ROOT`, else `~/.insightface`.
        download: whether a missing pack may be downloaded from insightface's GitHub releases.

    Raises:
        CheckpointError: the pack is missing, incomplete, or cannot be loaded or downloaded.
    """

    name = "insightface SCRFD"

    def __init__(
        self,
        pack: str = "buffalo_l",
        root: str | os.PathLike[str] | None = None,
        download: bool = False,
    ) -> None:
        if not (download or insightface_pack_present(pack, root)):
            raise CheckpointError(
                f"`detector` 'insightface' must have its model pack in {_pack_folder(pack, root)}, "
                "got no .onnx file there. Put the pack there, or choose 'insightface-download'."
            )
        self._analysis = _load_insightface(pack, _insightface_root(root))

    def detect(self, photo: np.ndarray) -> list[Face]:
        """Find the faces of an upright photo (uint8 RGB `[H, W, 3]`), biggest first."""
        faces = []
        for found in self._analysis.get(np.ascontiguousarray(photo[..., ::-1])):  # it wants BGR
            x0, y0, x1, y1 = (float(v) for v in found.bbox)
            landmarks = np.asarray(found.kps, np.float32)
            faces.append(Face((x0, y0, x1, y1), landmarks, float(found.det_score)))
        return _biggest_first(faces)


def load_detector(name: str = "auto", root: str | os.PathLike[str] | None = None) -> FaceDetector:
    """Load a detector.

    Args:
        name: "bundled"; "insightface", whose model pack must be on disk; "insightface-download",
            which fetches a missing pack once (its weights are for non-commercial research); or
            "auto" for insightface where its pack is on disk and loads, else the bundled detector.
        root: see `InsightFaceDetector`.

    Raises:
        UnknownOptionError: there is no such detector.
        CheckpointError: "insightface" was asked for and its pack is not usable.
    """
    if name == "bundled":
        return BundledDetector()
    if name in ("insightface", "insightface-download"):
        return InsightFaceDetector(root=root, download=name == "insightface-download")
    if name != "auto":
        raise UnknownOptionError(f"`detector` must be one of {', '.join(DETECTORS)}; got {name!r}.")
    if insightface_pack_present(root=root):
        try:
            return InsightFaceDetector(root=root)
        except CheckpointError as error:
            logger.warning("Using the bundled face detector: %s", error)
    return BundledDetector()


def insightface_pack_present(
    pack: str = "buffalo_l", root: str | os.PathLike[str] | None = None
) -> bool:
    """Whether the pack's folder holds any network."""
    return any(_pack_folder(pack, root).glob("*.onnx"))


def select_faces(
    faces: Sequence[Face], which: Literal["largest", "all"] | Sequence[Box] = "largest"
) -> list[Face]:
    """Choose the faces to protect among the detected ones.

    Faces with a box side shorter than `MIN_FACE_SIDE` are left out, with a warning in the log.

    Args:
        faces: detected faces.
        which: "largest", "all", or boxes (x0, y0, x1, y1 px), each of which must overlap a
            detected face by an intersection over union of at least `MIN_BOX_IOU`.

    Returns:
        at least one face, each once; biggest first, or in the order of the boxes.

    Raises:
        NoFaceError: nothing was detected, or a box matches no face.
        FaceTooSmallError: none of the chosen faces is large enough.
        UnknownOptionError: `which` is none of the above.
    """
    if isinstance(which, str) and which not in ("largest", "all"):
        raise UnknownOptionError(
            f"`faces` must be 'largest', 'all' or a list of boxes, got {which!r}."
        )
    if not faces:
        raise NoFaceError(
            "`image` must show a face, got none that the detector finds. A face must be at least "
            f"{MIN_FACE_SIDE} px wide, upright and not hidden."
        )
    chosen = _biggest_first(faces)
    if which == "largest":
        chosen = chosen[:1]
    elif which != "all":
        chosen = _match_boxes(faces, which)
    return _large_enough(chosen)


def _match_boxes(faces: Sequence[Face], boxes: Sequence[Box]) -> list[Face]:
    if len(boxes) == 0:
        raise UnknownOptionError("`faces` must name at least one box, got an empty list.")
    detected = np.array([face.box for face in faces], np.float64)
    chosen: list[Face] = []
    for box in boxes:
        overlap = iou(_checked_box(box), detected)
        best = int(overlap.argmax())
        if overlap[best] < MIN_BOX_IOU:
            corners = ", ".join(f"{float(v):.0f}" for v in box)
            raise NoFaceError(f"`faces` must be boxes of detected faces, got ({corners}).")
        if faces[best] not in chosen:
            chosen.append(faces[best])
    return chosen


def _checked_box(box: Box) -> np.ndarray:
    try:
        corners = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if (
        corners.shape != (4,)
        or not np.isfinite(corners).all()
        or (corners[2:] <= corners[:2]).any()
    ):
        raise UnknownOptionError(
            f"`faces` must hold boxes (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {box!r}."
        )
    return corners


def _large_enough(chosen: Sequence[Face]) -> list[Face]:
    large = [face for face in chosen if min(face.size) >= MIN_FACE_SIDE]
    if not large:
        width, height = max((face.size for face in chosen), key=min)
        raise FaceTooSmallError(
            f"`faces` must be at least {MIN_FACE_SIDE} px wide and high: the face is "
            f"{width:.0f} x {height:.0f} px; the smallest that can be protected is "
            f"{MIN_FACE_SIDE} px."
        )
    if len(large) < len(chosen):
        logger.warning(
            "%d face(s) smaller than %d px left out.", len(chosen) - len(large), MIN_FACE_SIDE
        )
    return large


def _same_face(one: Face, other: Face) -> bool:
    """Whether the landmarks of two boxes, both on a tilted face, ended on the same features."""
    eye_distance = np.linalg.norm(one.landmarks[1] - one.landmarks[0])
    between = np.linalg.norm(one.landmarks - other.landmarks, axis=1).mean()
    return bool(between < SAME_FACE_DISTANCE * eye_distance)


def _biggest_first(faces: Sequence[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.size[0] * face.size[1], reverse=True)


def _insightface_root(root: str | os.PathLike[str] | None) -> Path:
    root = root or os.environ.get(INSIGHTFACE_ROOT_VARIABLE) or "~/.insightface"
    return Path(root).expanduser()


def _pack_folder(pack: str, root: str | os.PathLike[str] | None) -> Path:
    return _insightface_root(root) / "models" / pack


def _load_insightface(pack: str, root: Path) -> Any:
    """A prepared `FaceAnalysis` that only detects; every failure becomes a CheckpointError."""
    try:
        # Imported here: it pulls in OpenCV, whose system libraries a bare server may lack.
        from insightface.app import FaceAnalysis

        analysis = FaceAnalysis(
            pack, str(root), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
        )
        analysis.prepare(ctx_id=-1, det_thresh=INSIGHTFACE_SCORE_THRESHOLD)
    except MAPError:
        raise
    except AssertionError:
        # What insightface raises for a folder without a detection model, without any text.
        raise CheckpointError(
            f"`detector` 'insightface' must find a detection model in {root / 'models' / pack}, "
            "got none. Delete the folder and fetch the pack again."
        ) from None
    except Exception as error:  # offline, a damaged file, a missing library: all mean "unusable"
        raise CheckpointError(
            f"`detector` 'insightface' must be loadable from {root / 'models' / pack}, "
            f"got {type(error).__name__}: {error}"
        ) from error
    return analysis
