import math

import numpy as np
import pytest
import torch

from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.faces.face import Face, turn_face
from map_pipeline.measure import (
    FacesAgain,
    image_quality,
    redetect_landmarks,
)

PHOTO = np.zeros((200, 200, 3), np.uint8)


class Detector:
    """Finds faces at given places."""

    name = "fixed"

    def __init__(self, *shifts: float) -> None:
        self._shifts = shifts

    def detect(self, _photo: np.ndarray) -> list[Face]:
        return [face(shift) for shift in self._shifts]


def face(shift: float = 0.0) -> Face:
    """A face so many px right of and below a first one, whose eyes are 35 px apart."""
    landmarks = ARCFACE_TEMPLATE_112.numpy() + np.float32(shift)
    return Face(box=(shift, shift, 112 + shift, 112 + shift), landmarks=landmarks, score=1.0)


def test_nearest_face_is_the_same_one() -> None:
    found = redetect_landmarks(Detector(60.0, 2.0, -40.0), PHOTO, face())
    np.testing.assert_array_equal(found, face(2.0).landmarks)


@pytest.mark.parametrize("shifts", [(), (60.0,)])
def test_a_face_that_is_not_found_again_keeps_its_landmarks(shifts: tuple[float, ...]) -> None:
    found = redetect_landmarks(Detector(*shifts), PHOTO, face())
    np.testing.assert_array_equal(found, face().landmarks)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_face_is_looked_for_upright(turns: int) -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    seen = turn_face(face(), turns, photo)  # the detector finds it 2 px off in the upright photo
    turned = np.rot90(photo, turns)
    found = redetect_landmarks(Detector(2.0), turned, seen)
    np.testing.assert_allclose(found, turn_face(face(2.0), turns, photo).landmarks)


def test_a_photo_is_looked_at_once_for_each_way_up() -> None:
    class Counting(Detector):
        looks = 0

        def detect(self, photo: np.ndarray) -> list[Face]:
            self.looks += 1
            return super().detect(photo)

    detector = Counting(2.0)
    again = FacesAgain(detector, PHOTO)
    for _ in range(3):
        np.testing.assert_array_equal(again.landmarks(face()), face(2.0).landmarks)
    again.landmarks(turn_face(face(), 1, PHOTO))
    assert detector.looks == 2


def test_quality_of_an_unchanged_and_a_changed_picture() -> None:
    picture = torch.rand(1, 3, 48, 48)
    similarity, noise_ratio = image_quality(picture, picture)
    assert similarity == pytest.approx(1, abs=1e-5)
    assert noise_ratio == math.inf
    similarity, noise_ratio = image_quality(picture, picture + 0.1)
    assert similarity < 1
    assert noise_ratio == pytest.approx(20, abs=1e-3)
