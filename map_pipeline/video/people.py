"""Who is who in a clip: tracks of one person belong together, however often they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.errors import FaceTooSmallError, InvalidVideoError, NoFaceError
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.quality import MIN_EYE_DISTANCE
from map_pipeline.video.report import Unprotected
from map_pipeline.video.tracking import Look, Track, smoothed

# Faces that are seen for less are no face, mostly, and nobody could tell whose they are.
MIN_FRAMES = 4


@dataclass(eq=False)
class Person:
    """One person of a clip.

    Attributes:
        tracks: where their face is, in the order of time, never two at once.
    """

    tracks: list[Track] = field(default_factory=list)

    @property
    def looks(self) -> list[Look]:
        """All closer looks, in the order of time."""
        return [look for track in self.tracks for look in track.looks]

    @property
    def embedding(self) -> Tensor:
        """`[D]`, the mean of all looks, L2-normalised."""
        return F.normalize(torch.stack([look.embedding for look in self.looks]).sum(0), dim=0)

    @property
    def frame_count(self) -> int:
        """In how many frames they're seen."""
        return sum(len(track.landmarks) for track in self.tracks)

    @property
    def eye_distance(self) -> float:
        """Mean distance between the eyes, px."""
        points = [
            five_points(one) for track in self.tracks for one in track.landmarks if one is not None
        ]
        return float(np.mean([np.linalg.norm(one[1] - one[0]) for one in points]))

    def places(self, seconds: np.ndarray) -> dict[int, np.ndarray]:
        """Frame index -> smoothed landmarks `[68,2]`; `seconds` `[F]` of all frames."""
        found: dict[int, np.ndarray] = {}
        for track in self.tracks:
            smooth = smoothed(track.landmarks, seconds[track.start : track.end])
            found.update(enumerate(smooth, track.start))
        return found


def find_people(tracks: Sequence[Track], same_person: float) -> list[Person]:
    """Put the tracks of each person together; who is seen most and nearest comes first.

    Args:
        tracks: in the order they began.
        same_person: similarity of embeddings from which two tracks are of one person.
    """
    people: list[Person] = []
    for track in tracks:
        mean = Person([track]).embedding
        absent = [
            one
            for one in people
            if all(track.start >= other.end or other.start >= track.end for other in one.tracks)
        ]
        best = max(absent, key=lambda one: float(one.embedding @ mean), default=None)
        if best is not None and float(best.embedding @ mean) >= same_person:
            best.tracks.append(track)
        else:
            people.append(Person([track]))
    return sorted(people, key=lambda one: one.frame_count * one.eye_distance**2, reverse=True)


def choose(
    people: Sequence[Person], everyone: bool, seconds: np.ndarray
) -> tuple[list[Person], list[Unprotected]]:
    """Whom to protect, and when and why other faces are left as they are.

    Raises:
        InvalidVideoError: the clip is too short for anybody to be seen long enough.
        NoFaceError: nobody is in the clip, or only for a moment.
        FaceTooSmallError: nobody is large enough.
    """
    if len(seconds) < MIN_FRAMES:
        raise InvalidVideoError(
            f"`clip` must have {MIN_FRAMES} frames at least, got {len(seconds)}; protect shorter "
            "ones as photos."
        )
    seen = [one for one in people if one.frame_count >= MIN_FRAMES]
    if not seen:
        raise NoFaceError(
            f"`clip` must show a face in {MIN_FRAMES} frames at least, but none was found."
        )
    large = [one for one in seen if one.eye_distance >= MIN_EYE_DISTANCE]
    if not large:
        raise FaceTooSmallError(
            f"`clip` must show a face with {MIN_EYE_DISTANCE:.0f} px between the eyes, got "
            f"{max(one.eye_distance for one in seen):.0f} px."
        )
    chosen = large if everyone else large[:1]
    left = []
    for one in people:
        if one in chosen:
            continue
        reason = "not chosen"
        if one not in seen:
            reason = "seen too briefly"
        elif one not in large:
            reason = f"too small: {one.eye_distance:.0f} px between the eyes"
        for track in one.tracks:
            left.append(
                Unprotected(float(seconds[track.start]), float(seconds[track.end - 1]), reason)
            )
    return chosen, sorted(left, key=lambda one: one.start)
