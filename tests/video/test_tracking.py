from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clips import paste, placed, portrait, still, swaying

from map_pipeline.faces.align import ARCFACE_TEMPLATE_112, aligned_crop
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.landmarks import LandmarkFinder, five_points
from map_pipeline.images import to_tensor
from map_pipeline.video.people import find_people
from map_pipeline.video.tracking import Track, Tracker, is_cut, smoothed, thumbnail

SAME = 0.7
# Two faces that differ by their colours alone.
FIRST, SECOND = "astronaut", "woman-young-tan"


def describe(photo: np.ndarray, landmarks: np.ndarray) -> tuple[torch.Tensor, float]:
    """A recogniser that is fast: the colours of an aligned face, coarsely."""
    points = torch.from_numpy(five_points(landmarks))[None]
    crop = aligned_crop(to_tensor(photo), points, ARCFACE_TEMPLATE_112.tolist(), 112)
    coarse = F.adaptive_avg_pool2d(crop[..., 20:100, 20:92], 5)
    return F.normalize((coarse - coarse.mean()).flatten(), dim=0), 1.0


@pytest.fixture(scope="module")
def parts() -> tuple[BundledDetector, LandmarkFinder]:
    return BundledDetector(), LandmarkFinder()


def follow(
    parts: tuple[BundledDetector, LandmarkFinder], frames: Iterable[np.ndarray]
) -> list[Track]:
    tracker = Tracker(*parts, describe, SAME)
    for index, frame in enumerate(frames):
        tracker.add(index, index / 25, frame)
    return tracker.finish()


def face(name: str, side: int) -> np.ndarray:
    """An example face, `uint8 [side,side,3]`."""
    picture = portrait() if name == "astronaut" else still(name)
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    small = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().byte().numpy()


def test_a_moving_face_is_one_track_and_found_where_it_is(
    parts: tuple[BundledDetector, LandmarkFinder],
) -> None:
    frames = swaying(portrait(), 30)
    [track] = follow(parts, frames)
    assert (track.start, track.end) == (0, 30)
    detector = parts[0]
    for index in (3, 12, 22):
        [known] = detector.detect(frames[index])
        error = np.linalg.norm(five_points(track.landmarks[index]) - known.landmarks, axis=1)
        assert error.mean() < 0.06 * known.eye_distance


def test_a_change_of_size_is_a_cut() -> None:
    frame = face(FIRST, 200)
    assert is_cut(thumbnail(frame), thumbnail(frame[:-40]))


def test_a_face_that_comes_in_is_followed_back_to_its_first_frame(
    parts: tuple[BundledDetector, LandmarkFinder],
) -> None:
    empty = np.full((256, 320, 3), 96, np.uint8)
    shown = placed(face(FIRST, 128), (320, 256), 90, 60)
    # Much of the picture is grey, so that this isn't taken for a cut.
    assert not is_cut(thumbnail(empty), thumbnail(shown))
    [track] = follow(parts, [empty] * 7 + [shown] * 9)
    assert (track.start, track.end) == (7, 16)


def test_who_leaves_and_returns_is_the_same_person(
    parts: tuple[BundledDetector, LandmarkFinder],
) -> None:
    size, one, other = (320, 256), face(FIRST, 128), face(SECOND, 128)
    frames = [placed(one, size, 20, 40)] * 6 + [placed(one[:1, :1], size, 0, 0)] * 14
    frames += [placed(other, size, 20, 60)] * 6 + [placed(one[:1, :1], size, 0, 0)] * 14
    frames += [placed(one, size, 170, 80)] * 8
    tracks = follow(parts, frames)
    assert len(tracks) == 3
    people = find_people(tracks, SAME)
    assert sorted(len(person.tracks) for person in people) == [1, 2]


def test_a_cut_to_another_person_ends_the_track(
    parts: tuple[BundledDetector, LandmarkFinder],
) -> None:
    frames = [face(FIRST, 200)] * 8 + [face(SECOND, 200)] * 8
    tracks = follow(parts, frames)
    assert [(track.start, track.end) for track in tracks] == [(0, 8), (8, 16)]
    assert len(find_people(tracks, SAME)) == 2


def test_two_who_cross_keep_their_names(parts: tuple[BundledDetector, LandmarkFinder]) -> None:
    count, one, other = 44, face(FIRST, 128), face(SECOND, 128)
    frames = []
    for index in range(count):
        frame = placed(other, (480, 200), 340 - 8 * index, 40)
        paste(frame, one, 10 + 8 * index, 30)  # in front
        frames.append(frame)
    people = find_people(follow(parts, frames), SAME)
    assert len(people) == 2
    behind, front = sorted(people, key=lambda person: person.frame_count)
    assert front.frame_count == count
    places = front.places(np.arange(count) / 25)
    middle = {index: five_points(points).mean(0) for index, points in places.items()}
    assert middle[count - 1][0] - middle[0][0] == pytest.approx(8 * (count - 1), abs=6)
    shown = {index for track in behind.tracks for index in range(track.start, track.end)}
    assert {0, 1, 2, 3, count - 1} <= shown


def test_motion_alone_is_no_cut() -> None:
    frames = swaying(still(), 40)
    small = [thumbnail(frame) for frame in frames]
    assert not any(is_cut(one, other) for one, other in pairwise(small))
    assert is_cut(thumbnail(face(FIRST, 200)), thumbnail(face(SECOND, 200)))


def test_smoothing_calms_without_lagging() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(60) / 30
    true = np.zeros((60, 68, 2))
    true[..., 0] = (40 * seconds + 30 * np.sin(2 * np.pi * seconds))[:, None]
    noisy = true + rng.normal(0, 1, true.shape)
    result = smoothed(list(noisy), seconds)
    left = result - true
    assert left.std() < 0.6 * (noisy - true).std()
    assert np.abs(left[5:-5].mean(1)).max() < 0.4  # as much at the fastest places as elsewhere


def test_a_moment_without_the_face_is_filled() -> None:
    seconds = np.array([0.0, 0.04, 0.08, 0.16, 0.2, 0.24])
    points = [np.full((68, 2), 100 * one) for one in seconds]
    result = smoothed([*points[:2], None, None, *points[4:]], seconds)
    np.testing.assert_allclose(result[:, 0, 0], 100 * seconds, atol=1e-3)


def test_a_short_track_stays_where_it_is() -> None:
    points = np.random.default_rng(0).normal(size=(68, 2))
    np.testing.assert_allclose(smoothed([points], np.zeros(1))[0], points, atol=1e-6)
