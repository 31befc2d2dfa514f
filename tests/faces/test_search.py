"""Further looks at a photo, with a stand-in for the detector that sees five coloured squares.

It says exactly where it sees them, so what comes back shows whether the way back is right.
"""

from collections.abc import Callable

import numpy as np
import pytest

from map_pipeline.faces.face import Face
from map_pipeline.faces.search import search

# Middles of the squares, px of a photo of 600 x 400 px; its eyes are 60 px apart.
POINTS = np.array([[120, 160], [180, 160], [150, 200], [130, 230], [170, 230]], np.float32)
BOX = (90.0, 120.0, 211.0, 261.0)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


def picture(factor: int = 1) -> np.ndarray:
    photo = np.full((400 * factor, 600 * factor, 3), 60, np.uint8)
    x0, y0, x1, y1 = (int(corner) * factor for corner in BOX)
    photo[y0:y1, x0:x1] = 200
    for (x, y), colour in zip(POINTS.astype(int) * factor, COLOURS, strict=True):
        photo[y - 6 * factor : y + 7 * factor, x - 6 * factor : x + 7 * factor] = colour
    return photo


def see(photo: np.ndarray) -> Face:
    """The squares in the order of their places, as a detector would name eyes and mouth."""
    middles = []
    for colour in COLOURS:
        distance = np.abs(photo.astype(int) - colour).sum(-1)
        y, x = np.nonzero(distance < 150)
        middles.append((x.mean(), y.mean()))
    points = np.array(middles, np.float32)
    if points[0, 0] > points[1, 0]:  # mirrored
        points = points[[1, 0, 2, 4, 3]]
    y, x = np.nonzero(photo.min(-1) > 180)
    return Face((x.min(), y.min(), x.max() + 1.0, y.max() + 1.0), points, 0.99)


def only(condition: Callable[[np.ndarray], bool]) -> Callable[[np.ndarray], list[Face]]:
    return lambda photo: [see(photo)] if condition(photo) else []


def framed(photo: np.ndarray) -> bool:
    return (photo[0, 0] == 127).all()


def mirrored(photo: np.ndarray) -> bool:
    left, right = (np.nonzero((photo == colour).all(-1))[1].mean() for colour in COLOURS[:2])
    return bool(left > right)


def upright(photo: np.ndarray) -> bool:
    eyes, mouth = (np.nonzero((photo == COLOURS[n]).all(-1)) for n in (0, 3))
    return bool(mouth[0].mean() - eyes[0].mean() > np.abs(mouth[1].mean() - eyes[1].mean()))


def test_first_look_is_the_last_if_it_finds_a_face() -> None:
    looks: list[np.ndarray] = []

    def find(photo: np.ndarray) -> list[Face]:
        looks.append(photo)
        return [see(photo)]

    [face] = search(find, picture())
    np.testing.assert_allclose(face.landmarks, POINTS, atol=0.1)
    assert len(looks) == 1


@pytest.mark.parametrize("factor", [1, 3])
def test_margin_and_reduction_are_taken_back(factor: int) -> None:
    [face] = search(only(framed), picture(factor))
    np.testing.assert_allclose(face.landmarks, POINTS * factor, atol=2 * factor)
    np.testing.assert_allclose(face.box, np.array(BOX) * factor, atol=4 * factor)


def test_mirror_image_is_taken_back() -> None:
    small = picture()[:320, :460]  # it isn't reduced, so that its colours stay as they are
    [face] = search(only(lambda photo: framed(photo) and mirrored(photo)), small)
    np.testing.assert_allclose(face.landmarks, POINTS, atol=0.1)
    np.testing.assert_allclose(face.box, BOX, atol=0.1)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photo_is_turned_back(turns: int) -> None:
    photo = np.ascontiguousarray(np.rot90(picture(), turns))
    [face] = search(only(upright), photo)
    y, x = np.rint(face.landmarks[:, ::-1]).astype(int).T
    assert [tuple(pixel) for pixel in photo[y, x].tolist()] == COLOURS
    x0, y0, x1, y1 = (int(corner) for corner in face.box)
    assert (photo[y0:y1, x0:x1].max(-1) >= 200).all()


def test_rotate_looks_at_all_four_turns() -> None:
    """Two people; the second is upside down."""
    first = picture()
    photo = np.concatenate([first, np.rot90(first, 2)], 1)

    def find(seen: np.ndarray) -> list[Face]:
        if seen.shape != photo.shape:
            return []
        return [see(seen[:, :600])]  # the one on the left is upright at 0 and 180 degrees

    assert len(search(find, photo)) == 1
    faces = search(find, photo, rotate=True)
    assert sorted(face.turns for face in faces) == [0, 2]
    upside_down = next(face for face in faces if face.turns == 2)
    np.testing.assert_allclose(upside_down.landmarks, [1199, 399] - POINTS, atol=0.1)


def test_nothing_is_nothing() -> None:
    assert search(lambda _photo: [], picture()) == []
