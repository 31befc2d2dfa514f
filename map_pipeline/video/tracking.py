"""Following faces through a clip: where the 68 landmarks of each are, frame after frame.

A detector looks at every few frames; in between, landmarks are found anew from where they were. A
face that appears is followed backwards to the frame in which it came. At a cut everything starts
anew, and who is who is asked afterwards, see `people`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from map_pipeline.faces.detect import FaceDetector
from map_pipeline.faces.face import same_head
from map_pipeline.faces.landmarks import LandmarkFinder, five_points

DETECT_EVERY = 5  # frames
MOST_MISSING = 10  # frames that a face may be lost for and is still followed
LOOK_EVERY = 0.5  # seconds between two looks at who it is
# A cut changes most grey values, and where they are: shares of 1. A still that moves by a tenth of
# its width reaches 0.03 of the first, a flash all of it, but then nothing is lost by starting anew.
CUT_HISTOGRAM, CUT_PIXELS = 0.25, 0.08
THUMBNAIL = 48  # px, about its longer side
# Standard deviation of the smoothing, seconds: less than a syllable takes.
SMOOTH_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Look:
    """A closer look at a followed face.

    Attributes:
        frame: index of the frame.
        embedding: `[D]`, L2-normalised, of one recogniser.
        quality: how well it shows, >= 0; sharp and frontal is more.
    """

    frame: int
    embedding: Tensor
    quality: float


Describe = Callable[[np.ndarray, np.ndarray], tuple[Tensor, float]]
"""Embedding and quality of a face, from a frame `uint8 [H,W,3]` and landmarks `[68,2]` px."""


@dataclass(eq=False)
class Track:
    """One face from where it appears to where it's lost.

    Attributes:
        start: index of its first frame.
        landmarks: `[68,2]` frame px for each frame; None where the face was lost for a moment.
        looks: closer looks, about every `LOOK_EVERY`.
    """

    start: int
    landmarks: list[np.ndarray | None]
    looks: list[Look] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Index of the frame after the last."""
        return self.start + len(self.landmarks)

    @property
    def missing(self) -> int:
        """For how many frames it has been lost."""
        known = (i for i, one in enumerate(reversed(self.landmarks)) if one is not None)
        return next(known)

    @property
    def last(self) -> np.ndarray:
        """The newest landmarks `[68,2]`."""
        return next(one for one in reversed(self.landmarks) if one is not None)

    def expected(self) -> np.ndarray:
        """Where the five points should be in the next frame if the motion goes on, `[5,2]`."""
        points = five_points(self.last)
        if len(self.landmarks) < 2 or self.landmarks[-1] is None or self.landmarks[-2] is None:
            return points
        before = five_points(self.landmarks[-2])
        return points + (points.mean(0) - before.mean(0))

    def similarity(self, embedding: Tensor) -> float:
        """To the latest looks; 1 if there's none."""
        if not self.looks:
            return 1.0
        return max(float(look.embedding @ embedding) for look in self.looks[-3:])


class Tracker:
    """Follows all faces of a clip; give it the frames one after the other.

    Args:
        same_person: similarity of embeddings below which a followed face is somebody else's.
    """

    def __init__(
        self,
        detector: FaceDetector,
        finder: LandmarkFinder,
        describe: Describe,
        same_person: float,
    ) -> None:
        self._detector, self._finder, self._describe = detector, finder, describe
        self._same_person = same_person
        self._finished: list[Track] = []
        self._active: list[Track] = []
        self._recent: deque[np.ndarray] = deque(maxlen=DETECT_EVERY)  # of this shot
        self._thumbnail: np.ndarray | None = None
        self._since_detection = 0
        self._last_look: dict[Track, float] = {}

    def add(self, index: int, seconds: float, photo: np.ndarray) -> None:
        """Follow all faces into the next frame, `uint8 [H,W,3]`."""
        small = thumbnail(photo)
        first = self._thumbnail is None or is_cut(self._thumbnail, small)
        self._thumbnail = small
        if first:
            self._close(self._active)
            self._recent.clear()
        lost = self._follow(photo)
        self._part_same_heads(photo)
        self._since_detection += 1
        if first or lost or self._since_detection >= DETECT_EVERY:
            self._detect(index, photo, thorough=first)
        self._close([one for one in self._active if one.missing > MOST_MISSING])
        self._look(index, seconds, photo)
        self._recent.append(photo)

    def finish(self) -> list[Track]:
        """All tracks, after the last frame, in the order they began."""
        self._close(self._active)
        return sorted(self._finished, key=lambda track: track.start)

    def _follow(self, photo: np.ndarray) -> bool:
        """Find the landmarks of all active tracks; whether one got lost here."""
        lost = False
        for track in self._active:
            found = None
            if not track.missing:
                found = self._finder.find_aligned(photo, track.expected())
                lost |= found is None
            track.landmarks.append(found)
        return lost

    def _part_same_heads(self, photo: np.ndarray) -> None:
        """Where two tracks ended on one head, leave it to the one whose face it is."""
        visible = [one for one in self._active if not one.missing]
        for i, one in enumerate(visible):
            for other in visible[:i]:
                if one.missing or other.missing:
                    continue
                if same_head(five_points(one.last), five_points(other.last)):
                    embedding, _ = self._describe(photo, one.last)
                    wrong = min(one, other, key=lambda track: track.similarity(embedding))
                    wrong.landmarks[-1] = None

    def _detect(self, index: int, photo: np.ndarray, thorough: bool) -> None:
        self._since_detection = 0
        detector = self._detector
        faces = detector.detect(photo) if thorough else detector.detect_upright(photo)
        for face in faces:
            near = [one for one in self._active if same_head(five_points(one.last), face.landmarks)]
            if any(not one.missing for one in near):
                continue
            landmarks = self._finder.find_aligned(photo, face.landmarks)
            if landmarks is None:
                continue
            if near:
                near[0].landmarks[-1] = landmarks
            else:
                self._active.append(self._begin(index, landmarks))

    def _begin(self, index: int, landmarks: np.ndarray) -> Track:
        """A new track, followed backwards through the frames before."""
        track, first = Track(index, [landmarks]), landmarks
        for photo in reversed(self._recent):
            found = self._finder.find_aligned(photo, five_points(first))
            others = [*self._active, *self._finished]
            if found is None or any(_holds(one, track.start - 1, found) for one in others):
                break
            first = found
            track.landmarks.insert(0, found)
            track.start -= 1
        return track

    def _look(self, index: int, seconds: float, photo: np.ndarray) -> None:
        """Ask who the faces are that weren't looked at for a while."""
        for track in list(self._active):
            since = seconds - self._last_look.get(track, -np.inf)
            if track.missing or since < LOOK_EVERY:
                continue
            embedding, quality = self._describe(photo, track.last)
            if track.similarity(embedding) < self._same_person:
                landmarks = track.landmarks.pop()
                self._close([track])
                track = Track(index, [landmarks])
                self._active.append(track)
            track.looks.append(Look(index, embedding, quality))
            self._last_look[track] = seconds

    def _close(self, tracks: Sequence[Track]) -> None:
        for track in list(tracks):
            self._active.remove(track)
            self._last_look.pop(track, None)
            while track.landmarks and track.landmarks[-1] is None:
                track.landmarks.pop()
            if track.landmarks and track.looks:
                self._finished.append(track)


def _holds(track: Track, index: int, landmarks: np.ndarray) -> bool:
    """Whether a track follows this head in a frame."""
    if not track.start <= index < track.end:
        return False
    known = track.landmarks[index - track.start]
    return known is not None and same_head(five_points(known), five_points(landmarks))


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """A small grey picture in [0,1] of a frame `uint8 [H,W,3]`: means of blocks."""
    step = max(max(photo.shape[:2]) // THUMBNAIL, 1)
    height, width = (side // step * step for side in photo.shape[:2])
    grey = photo[:height, :width, 1].reshape(height // step, step, width // step, step)
    return grey.mean((1, 3)).astype(np.float32) / 255


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new shot begins between two thumbnails, as it does where the size changes."""
    if before.shape != after.shape:
        return True
    histograms = [np.histogram(one, 16, (0, 1))[0] / one.size for one in (before, after)]
    changed = np.abs(histograms[0] - histograms[1]).sum() / 2
    return bool(changed > CUT_HISTOGRAM and np.abs(after - before).mean() > CUT_PIXELS)


def smoothed(landmarks: Sequence[np.ndarray | None], seconds: np.ndarray) -> np.ndarray:
    """Landmarks without their jitter, float32 `[F,68,2]`, and none behind the face.

    At each frame a parabola in time is laid through the frames before and after, so what moves
    evenly or turns back isn't held up. Frames in which the face was lost are filled likewise.

    Args:
        landmarks: `[68,2]` for each of F frames, or None; the first and last are known.
        seconds: `[F]`.
    """
    known = np.array([one is not None for one in landmarks])
    points = np.stack([one for one in landmarks if one is not None]).reshape(known.sum(), -1)
    filled = np.stack([np.interp(seconds, seconds[known], column) for column in points.T], 1)
    reach = 3 * SMOOTH_SECONDS
    result = np.empty_like(filled)
    for index, now in enumerate(seconds):
        first, last = np.searchsorted(seconds, (now - reach, now + reach))
        first, last = max(min(first, index - 1), 0), min(max(last, index + 2), len(seconds))
        apart = (seconds[first:last] - now) / SMOOTH_SECONDS
        weights = np.exp(-np.square(apart) / 4)  # of the root of the squares
        degree = min(2, last - first - 1)
        powers = np.stack([apart**power for power in range(degree + 1)], 1)
        fit = np.linalg.lstsq(powers * weights[:, None], filled[first:last] * weights[:, None])[0]
        result[index] = fit[0]
    return result.reshape(-1, 68, 2).astype(np.float32)
