"""How well a clip is protected: frame by frame, by its mean, and how calm the change is.

What is compared are the files, after compression. Faces are found by the detector on every frame of
the original, so a face that the protection overlooked counts as unprotected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.config import FAR
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.errors import InvalidVideoError, NoFaceError
from map_pipeline.evaluation.face_quality import dense_flow
from map_pipeline.expression.warp import deform_crop
from map_pipeline.faces.align import Alignment
from map_pipeline.faces.detect import select_faces
from map_pipeline.faces.landmarks import five_points
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.video.reading import open_clip

FLICKER_EVERY = 5  # frames; the optical flow takes half a second


@dataclass(frozen=True)
class ClipScore:
    """What one recogniser says of a protected clip.

    Attributes:
        judge: name of the recogniser.
        threshold: similarity from which two faces match, at FAR 1 %.
        frames: in how many frames a face was found.
        dodged: share of them in [0,1] that don't match the reference; dodged_before: the same of
            the original clip.
        mean_similarity: of the protected clip's mean to the reference, in [-1,1].
        longest_match: most frames in a row that still match.
    """

    judge: str
    threshold: float
    frames: int
    dodged: float
    dodged_before: float
    mean_similarity: float
    longest_match: int

    @property
    def mean_dodged(self) -> bool:
        """Whether the clip's mean no longer matches."""
        return self.mean_similarity < self.threshold


@dataclass(frozen=True)
class Calm:
    """How restless a clip is: mean change of the face in [0,1] from a frame to the next.

    The motion of the original is undone before. 0.01 is 2.5 of 255 grey values.

    Attributes:
        original: of the original clip, from noise, compression and what flow doesn't follow.
        protected: of the protected clip; residual: of the difference between the two.
    """

    original: float
    protected: float
    residual: float

    @property
    def flicker(self) -> float:
        """Of the protected clip, relative to the original; 1 is as calm as that was."""
        return self.protected / max(self.original, 1e-6)

    @property
    def residual_flicker(self) -> float:
        """Of what was changed, relative to the original."""
        return self.residual / max(self.original, 1e-6)


@dataclass
class _Seen:
    """Embeddings `[1,D]` of every frame with a face, before and after; None where there's none."""

    before: list[dict[str, Tensor] | None] = field(default_factory=list)
    after: list[dict[str, Tensor] | None] = field(default_factory=list)


@torch.no_grad()
def compare_clips(
    pipe: MAPPipeline,
    original: Path,
    protected: Path,
    judges: Sequence[str],
    reference: ImageInput | None = None,
) -> tuple[list[ClipScore], Calm]:
    """What recognisers say of the largest face, and how calm it is.

    Args:
        judges: names of recognisers.
        reference: another photo of the person, to be recognised by; without one it's the mean of
            the original clip, which is harder to escape.

    Raises:
        InvalidVideoError: a clip can't be read, or the two aren't of one length.
        NoFaceError: the original shows no face.
    """
    seen, changes = _Seen(), []
    earlier: tuple[Tensor, Tensor] | None = None
    for index, (before, after) in enumerate(_pairs(original, protected)):
        landmarks = _largest_face(pipe, before)
        if landmarks is None:
            seen.before.append(None)
            seen.after.append(None)
            earlier = None
            continue
        seen.before.append(pipe.embed(pipe.view(before, landmarks)))
        again = pipe.stages.landmark_finder.find_aligned(after, landmarks)
        points = landmarks if again is None else five_points(again)
        seen.after.append(pipe.embed(pipe.view(after, points)))
        if index % FLICKER_EVERY == 0:
            earlier = _crops(pipe, landmarks, before, after)
        elif earlier is not None:
            changes.append(_change(earlier, _crops(pipe, landmarks, before, after)))
            earlier = None
    if not any(seen.before):
        raise NoFaceError(f"`clip` must show a face, got none in {original.name!r}.")
    known = None if reference is None else _of_photo(pipe, reference)
    scores = [_score(pipe, name, seen, known) for name in judges]
    mean = np.mean(changes, axis=0) if changes else np.zeros(3)
    return scores, Calm(*(float(value) for value in mean))


def longest_run(matches: Sequence[bool]) -> int:
    """Most true values in a row."""
    longest = run = 0
    for match in matches:
        run = run + 1 if match else 0
        longest = max(longest, run)
    return longest


def _pairs(original: Path, protected: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames `uint8 [H,W,3]` of both clips; the protected one may have a row or column more."""
    first, second = open_clip(original).frames(), open_clip(protected).frames()
    try:
        for before, after in zip(first, second, strict=True):
            pixels = before.pixels()
            yield pixels, after.pixels()[: pixels.shape[0], : pixels.shape[1]]
    except ValueError as error:
        if isinstance(error, InvalidVideoError):
            raise
        raise InvalidVideoError(
            f"`clip` must have as many frames as {original.name!r}, got {protected.name!r}."
        ) from None


def _largest_face(pipe: MAPPipeline, frame: np.ndarray) -> np.ndarray | None:
    """Five points `[5,2]` of the largest upright face; None if there's none."""
    faces = pipe.face_detector.detect_upright(frame)
    if not faces:
        return None
    found = pipe.stages.landmark_finder.find_aligned(frame, faces[0].landmarks)
    return faces[0].landmarks if found is None else five_points(found)


def _of_photo(pipe: MAPPipeline, photo: ImageInput) -> dict[str, Tensor]:
    """Embeddings `[1,D]` of the largest face of a photo."""
    pixels = to_array(load_image(photo))
    [face] = select_faces(pipe.find_faces(pixels), "largest")
    return pipe.embed(pipe.view(pixels, face.landmarks))


def _score(
    pipe: MAPPipeline, name: str, seen: _Seen, known: Mapping[str, Tensor] | None
) -> ClipScore:
    before = torch.cat([one[name] for one in seen.before if one])
    after = torch.cat([one[name] for one in seen.after if one])
    source = F.normalize(before.mean(0), dim=0) if known is None else known[name][0]
    unprotected = before @ source
    limit = pipe.recognisers[name].threshold(FAR)
    similar = after @ source
    matches = iter((similar >= limit).tolist())
    in_order = [one is not None and next(matches) for one in seen.after]
    return ClipScore(
        judge=name,
        threshold=limit,
        frames=len(after),
        dodged=float((similar < limit).float().mean()),
        dodged_before=float((unprotected < limit).float().mean()),
        mean_similarity=float(F.normalize(after.mean(0), dim=0) @ source),
        longest_match=longest_run(in_order),
    )


def _crops(
    pipe: MAPPipeline, landmarks: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Both frames at the original's face, `[1,3,s,s]` in [0,1]."""
    stages = pipe.stages
    size = crop_size(pipe.unet)
    alignment = Alignment.from_landmarks(torch.from_numpy(landmarks), stages.template, size)
    return stages.aligned_crop(before, alignment)[0], stages.aligned_crop(after, alignment)[0]


def _change(
    earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]
) -> tuple[float, float, float]:
    """Mean changes of original, protected and residual from one frame to the next."""
    flow = dense_flow(earlier[0], later[0])
    back = [deform_crop(one, flow) for one in later]
    original, protected = (two - one for one, two in zip(earlier, back, strict=True))
    residual = protected - original
    return tuple(float(one.abs().mean()) for one in (original, protected, residual))
