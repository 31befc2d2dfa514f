"""Finding faces: the bundled detector, insightface's SCRFD, and which faces to protect."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from map_pipeline.config import DETECTORS
from map_pipeline.errors import (
    CheckpointError,
    FaceTooSmallError,
    MAPError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    affine_scale,
    apply_affine,
    similarity_transform,
)
from map_pipeline.faces.boxes import BoxFinder, iou, is_nested
from map_pipeline.faces.face import (
    MAX_NESTED_ROLL,
    MIN_FACE_SIDE,
    SURE_UNCERTAINTY,
    Face,
    FourNumbers,
    biggest_first,
    distinct_faces,
    roll_between,
    same_head,
)
from map_pipeline.faces.landmarks import (
    GOOD_UNCERTAINTY,
    MAX_UNCERTAINTY,
    LandmarkFinder,
    five_points,
)
from map_pipeline.faces.search import GOOD_SCORE, search

MIN_BOX_IOU = 0.3  # overlap from which a box given by the user means a detected face
# Of more faces the largest are taken: landmarks take 10 to 100 ms each, so a picture made of
# thousands of faces would take minutes. There may be several boxes of a face.
MAX_FACES = 64
MAX_BOXES = 128
MAX_TILT = 60  # degrees of roll to which the box of an upright face will do
# Of the bundled detector's boxes in ArcFace's 112 px template, on 3,905 upright faces.
TEMPLATE_BOX_CENTRE, TEMPLATE_BOX_SIZE = (57.5, 63.7), (84.4, 106.0)
INSIGHTFACE_SCORE_THRESHOLD = 0.5  # insightface's own default
INSIGHTFACE_ROOT_VARIABLE = "MAP_INSIGHTFACE_ROOT"
INSIGHTFACE_PACK = "buffalo_l"

Box = Sequence[float] | np.ndarray
"""x0, y0, x1, y1 in photo px."""
FaceChoice = Literal["largest", "all"] | Sequence[Box] | np.ndarray | torch.Tensor
"""Which faces to protect; boxes `[N, 4]`."""
CHOICE_RULE = "`faces` must be 'largest', 'all' or boxes (x0, y0, x1, y1)"

logger = logging.getLogger(__name__)


class FaceDetector(Protocol):
    """What the pipeline needs of a detector."""

    name: str

    def detect(self, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        """Find the faces of a photo, biggest first.

        Where there's no upright face, turned ones are looked for, too.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            rotate: look for turned faces also beside upright ones; it takes four times as long.
        """
        ...

    def detect_upright(self, photo: np.ndarray) -> list[Face]:
        """The faces of a single look at a photo (uint8 RGB `[H, W, 3]`), biggest first."""
        ...


class BundledDetector:
    """RFB-320 boxes and 68 landmarks on onnxruntime's CPU provider; nothing is downloaded.

    Finds faces from about 40 px at any roll; of turned faces beside upright ones nine of ten unless
    asked to `rotate`. Safe to share between threads.
    """

    name = "RFB-320 + 68 points (bundled)"

    def __init__(self) -> None:
        self._boxes = BoxFinder()
        self._contours = LandmarkFinder()

    def detect(self, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        """Find the faces of a photo, see `FaceDetector.detect`.

        Of more than `MAX_FACES` only the biggest are looked at.
        """
        return search(self.detect_upright, photo, rotate)

    def detect_upright(self, photo: np.ndarray) -> list[Face]:
        """The faces of a single look, see `FaceDetector.detect_upright`."""
        faces: list[Face] = []
        boxes, scores = self._boxes.find(photo)
        biggest = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(-1))[::-1][:MAX_BOXES]
        for index in np.sort(biggest):  # in their order still: the best is first
            face = self._face_in(photo, boxes[index], float(scores[index]), faces)
            if face is not None:
                faces.append(face)
        return distinct_faces(faces)[:MAX_FACES]

    def _face_in(
        self, photo: np.ndarray, box: np.ndarray, score: float, found: Sequence[Face]
    ) -> Face | None:
        """The face of a box, unless it's one of those found, or a part of one."""
        around = [face for face in found if is_nested(box, np.array([face.box])).any()]
        if around and not self._may_be_another(photo, box, score, around):
            return None
        max_uncertainty = SURE_UNCERTAINTY if score >= GOOD_SCORE else GOOD_UNCERTAINTY
        contour = self._contours.find(photo, box, max_uncertainty)
        if contour is None:
            return None
        landmarks68, uncertainty = contour
        points = five_points(landmarks68)
        face = Face(_corners(box), points, score, landmarks68, uncertainty)
        if abs(face.roll) > MAX_TILT:
            face = replace(face, box=_turned_box(face, photo))
        if around and not (
            uncertainty < max_uncertainty
            and all(roll_between(face, other) < MAX_NESTED_ROLL for other in around)
            and self._contours.is_steady(photo, box, landmarks68, -90 * face.turns)
        ):
            return None
        return face

    def _may_be_another(
        self, photo: np.ndarray, box: np.ndarray, score: float, around: Sequence[Face]
    ) -> bool:
        """Whether a box within the boxes `around` it, or half on them, looks like another head."""
        if score < GOOD_SCORE:
            return False
        rough, uncertainty = self._contours.glance(photo, box)
        points = five_points(rough)
        return uncertainty < MAX_UNCERTAINTY and not any(
            same_head(points, face.landmarks) for face in around
        )


class InsightFaceDetector:
    """insightface's SCRFD detector with its five landmarks, on onnxruntime's CPU provider.

    The model packs are licensed for non-commercial research only and never ship with this package.

    Args:
        download: whether a missing pack may be downloaded from insightface's GitHub releases.

    Raises:
        CheckpointError: the pack is missing, incomplete, or cannot be loaded or downloaded.
    """

    name = "insightface SCRFD"

    def __init__(self, download: bool = False) -> None:
        if not (download or insightface_pack_present()):
            raise CheckpointError(
                f"`detector` 'insightface' must have its model pack in {insightface_folder()}, "
                "got no .onnx file there. Put the pack there, or choose 'insightface-download'."
            )
        self._analysis = _load_insightface(insightface_folder())

    def detect(self, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        """Find the faces of a photo, see `FaceDetector.detect`."""
        return search(self.detect_upright, photo, rotate)

    def detect_upright(self, photo: np.ndarray) -> list[Face]:
        """The faces of a single look, see `FaceDetector.detect_upright`."""
        faces = []
        for found in self._analysis.get(np.ascontiguousarray(photo[..., ::-1])):  # it wants BGR
            x0, y0, x1, y1 = (float(v) for v in found.bbox)
            landmarks = np.asarray(found.kps, np.float32)
            faces.append(Face((x0, y0, x1, y1), landmarks, float(found.det_score)))
        return biggest_first(faces)


def load_detector(name: str = "auto") -> FaceDetector:
    """Load a detector.

    Args:
        name: "bundled"; "insightface", whose model pack must be on disk; "insightface-download",
            which fetches a missing pack once (its weights are for non-commercial research); or
            "auto" for insightface where its pack is on disk and loads, else the bundled detector.

    Raises:
        UnknownOptionError: there is no such detector.
        CheckpointError: "insightface" was asked for and its pack is not usable.
    """
    if name == "bundled":
        return BundledDetector()
    if name in ("insightface", "insightface-download"):
        return InsightFaceDetector(download=name == "insightface-download")
    if name != "auto":
        raise UnknownOptionError(f"`detector` must be one of {', '.join(DETECTORS)}; got {name!r}.")
    if insightface_pack_present():
        try:
            return InsightFaceDetector()
        except CheckpointError as error:
            logger.warning("Using the bundled face detector: %s", error)
    return BundledDetector()


def insightface_folder() -> Path:
    """Where insightface's model pack lies: in `MAP_INSIGHTFACE_ROOT`, else `~/.insightface`."""
    root = Path(os.environ.get(INSIGHTFACE_ROOT_VARIABLE) or "~/.insightface").expanduser()
    return root / "models" / INSIGHTFACE_PACK


def insightface_pack_present() -> bool:
    """Whether the pack's folder holds any network."""
    return any(insightface_folder().glob("*.onnx"))


def select_faces(faces: Sequence[Face], which: FaceChoice | None = None) -> list[Face]:
    """Choose the faces to protect among the detected ones.

    Faces with a box side shorter than `MIN_FACE_SIDE` are left out, with a warning in the log.

    Args:
        faces: detected faces.
        which: "largest" (also for None), "all", or boxes `[N, 4]` (x0, y0, x1, y1 px) as a list,
            array or tensor, each of which must overlap a detected face by an intersection over
            union of at least `MIN_BOX_IOU`.

    Returns:
        at least one face, each once; biggest first, or in the order of the boxes.

    Raises:
        NoFaceError: nothing was detected, or a box matches no face.
        FaceTooSmallError: none of the chosen faces is large enough.
        UnknownOptionError: `which` is none of the above.
    """
    choice = check_choice(which)
    if not faces:
        raise NoFaceError(
            "`image` must show a face, but none was found. A face must be at least "
            f"{MIN_FACE_SIDE} px wide and not hidden."
        )
    chosen = biggest_first(faces)
    if choice == "largest":
        chosen = chosen[:1]
    elif not isinstance(choice, str):
        chosen = _match_boxes(faces, choice)
    return _large_enough(chosen)


def check_choice(which: FaceChoice | None) -> Literal["largest", "all"] | list[np.ndarray]:
    """The choice of `select_faces` as "largest", "all" or a list of boxes `[4]`.

    Raises:
        UnknownOptionError: it's none of these.
    """
    if which is None:
        return "largest"
    if isinstance(which, str):
        if which == "largest":
            return "largest"
        if which == "all":
            return "all"
        raise UnknownOptionError(f"{CHOICE_RULE}, got {which!r}.")
    if isinstance(which, torch.Tensor):
        which = which.detach().cpu().numpy()
    try:
        boxes = list(which)
    except TypeError:  # a number, or an array without a dimension
        raise UnknownOptionError(f"{CHOICE_RULE}, got {which!r}.") from None
    if not boxes:
        raise UnknownOptionError("`faces` must name at least one box, got none.")
    return [_checked_box(box) for box in boxes]


def _match_boxes(faces: Sequence[Face], boxes: Sequence[np.ndarray]) -> list[Face]:
    detected = np.array([face.box for face in faces], np.float64)
    chosen: list[Face] = []
    for box in boxes:
        overlap = iou(box, detected)
        best = int(overlap.argmax())
        if overlap[best] < MIN_BOX_IOU:
            corners = ", ".join(f"{v:.0f}" for v in box)
            raise NoFaceError(f"`faces` must be boxes of detected faces, got ({corners}).")
        if faces[best] not in chosen:
            chosen.append(faces[best])
    return chosen


def _checked_box(box: Any) -> np.ndarray:
    if isinstance(box, torch.Tensor):
        box = box.detach().cpu().numpy()
    try:
        corners = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if (
        corners.shape != (4,)
        or not np.isfinite(corners).all()
        or (corners[2:] <= corners[:2]).any()
    ):
        shown = box.tolist() if isinstance(box, np.ndarray) else box
        raise UnknownOptionError(
            f"`faces` must hold boxes (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {shown!r}."
        )
    return corners


def _large_enough(chosen: Sequence[Face]) -> list[Face]:
    large = [face for face in chosen if min(face.size) >= MIN_FACE_SIDE]
    if not large:
        width, height = max((face.size for face in chosen), key=min)
        raise FaceTooSmallError(
            f"`faces` must be at least {MIN_FACE_SIDE} px wide and high, got one of "
            f"{width:.0f} x {height:.0f} px."
        )
    if len(large) < len(chosen):
        logger.warning(
            "%d face(s) smaller than %d px left out.", len(chosen) - len(large), MIN_FACE_SIDE
        )
    return large


def _corners(box: np.ndarray) -> FourNumbers:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


def _turned_box(face: Face, photo: np.ndarray) -> FourNumbers:
    """A box around a face that lies on its side or upside down, as the detector would draw it.

    What it draws around such faces is as wide as around upright ones, and so too short or too wide.
    """
    to_photo = similarity_transform(ARCFACE_TEMPLATE_112, torch.from_numpy(face.landmarks)[None])
    centre = apply_affine(to_photo, torch.tensor(TEMPLATE_BOX_CENTRE)[None])[0, 0].numpy() + 0.5
    size = np.array(TEMPLATE_BOX_SIZE) * float(affine_scale(to_photo)[0])
    half = (size if face.turns == 2 else size[::-1]) / 2
    limits = np.array(photo.shape[1::-1])
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, limits)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _load_insightface(folder: Path) -> Any:
    """A prepared `FaceAnalysis` that only detects; every failure becomes a CheckpointError."""
    try:
        # Imported here: it pulls in OpenCV, whose system libraries a bare server may lack.
        from insightface.app import FaceAnalysis

        root = str(folder.parents[1])
        analysis = FaceAnalysis(
            folder.name, root, allowed_modules=["detection"], providers=["CPUExecutionProvider"]
        )
        analysis.prepare(ctx_id=-1, det_thresh=INSIGHTFACE_SCORE_THRESHOLD)
    except MAPError:
        raise
    except AssertionError:
        # What insightface raises for a folder without a detection model, without any text.
        raise CheckpointError(
            f"`detector` 'insightface' must find a detection model in {folder}, "
            "got none. Delete the folder and fetch the pack again."
        ) from None
    except Exception as error:  # offline, a damaged file, a missing library: all mean "unusable"
        raise CheckpointError(
            f"`detector` 'insightface' must be loadable from {folder}, "
            f"got {type(error).__name__}: {error}"
        ) from error
    return analysis
