"""How a face lies in a turned photo, and which landmarks are of one head."""

import numpy as np
import pytest

from map_pipeline.faces.face import Face, distinct_faces, same_head, turn_face

# Eyes 40 px apart.
LANDMARKS = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)


def face(shift: float = 0.0, scale: float = 1.0, uncertainty: float = 0.01) -> Face:
    landmarks = LANDMARKS * np.float32(scale) + np.float32(shift)
    box = (10 * scale + shift, 10 * scale + shift, 90 * scale + shift, 110 * scale + shift)
    return Face(box, landmarks, 0.99, landmarks68=None, uncertainty=uncertainty)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_face_lies_on_the_turned_pixels(turns: int) -> None:
    photo = np.zeros((150, 200, 3), np.uint8)
    points = LANDMARKS.astype(int)
    photo[points[:, 1], points[:, 0]] = np.arange(1, 6)[:, None]
    photo[10:110, 10:90, 2] += 100  # its box
    moved = turn_face(face(), turns, photo)
    turned = np.rot90(photo, turns)
    x, y = np.rint(moved.landmarks).astype(int).T
    assert turned[y, x, 0].tolist() == [1, 2, 3, 4, 5]
    x0, y0, x1, y1 = (round(corner) for corner in moved.box)
    assert (turned[y0:y1, x0:x1, 2] >= 100).all()
    assert (turned[..., 2] >= 100).sum() == (x1 - x0) * (y1 - y0)
    assert moved.turns == (4 - turns) % 4
    back = turn_face(moved, -turns, turned)
    np.testing.assert_array_equal(back.landmarks, LANDMARKS)
    assert back.box == face().box


def test_landmarks_of_one_head() -> None:
    upside_down = np.array([100, 120]) - LANDMARKS
    assert same_head(LANDMARKS, upside_down)
    assert same_head(LANDMARKS, LANDMARKS + 5)
    assert not same_head(LANDMARKS, LANDMARKS + np.array([45, 0]))
    assert not same_head(LANDMARKS, LANDMARKS * 0.4 + 30)  # a child before the nose


def test_surest_face_of_a_head_is_kept_and_the_biggest_comes_first() -> None:
    sure, unsure, small = face(), face(3, uncertainty=0.06), face(200, 0.5)
    assert distinct_faces([small, unsure, sure]) == [sure, small]
