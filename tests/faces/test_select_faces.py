import math

import numpy as np
import pytest
import torch

from map_pipeline.errors import (
    FaceTooSmallError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.faces.detect import (
    Face,
    select_faces,
)


def face_at(x0: float, y0: float, width: float, height: float) -> Face:
    return Face((x0, y0, x0 + width, y0 + height), np.zeros((5, 2), np.float32), 0.9)


def test_largest_and_all() -> None:
    small, large, tiny = face_at(0, 0, 60, 70), face_at(200, 0, 90, 100), face_at(400, 0, 20, 30)
    faces = [small, large, tiny]
    assert select_faces(faces) == select_faces(faces, None) == [large]
    assert select_faces(faces, "all") == [large, small]


def test_boxes_choose_faces_in_their_order() -> None:
    one, two = face_at(0, 0, 60, 70), face_at(200, 0, 90, 100)
    chosen = select_faces([two, one], [(5, 5, 65, 75), [195, 0, 290, 105], (0, 0, 60, 70)])
    assert chosen == [one, two]


@pytest.mark.parametrize(
    "boxes",
    [
        np.array([[5, 5, 65, 75], [195, 0, 290, 105]]),
        torch.tensor([[5.0, 5, 65, 75], [195, 0, 290, 105]], requires_grad=True),
        [np.float32([5, 5, 65, 75]), torch.tensor([195, 0, 290, 105])],
        ((5, 5, 65, 75), (195, 0, 290, 105)),
    ],
    ids=["array", "tensor", "list of both", "tuples"],
)
def test_boxes_may_be_any_array(boxes: object) -> None:
    one, two = face_at(0, 0, 60, 70), face_at(200, 0, 90, 100)
    assert select_faces([two, one], boxes) == [one, two]


@pytest.mark.parametrize(
    "which",
    [
        np.zeros((0, 4)),
        np.zeros((2, 3)),
        np.zeros(4),
        np.float64(3),
        torch.tensor(3),
        torch.zeros(1, 4),
        7,
        {"x": 1},
        np.array([["a", "b", "c", "d"]]),
        np.array([[0, 0, np.inf, 5]]),
        "biggest",
        [],
        [(0, 0, 50)],
        [(50, 0, 0, 50)],
        [(0, 0, math.nan, 5)],
        [("a",)],
        [7],
    ],
    ids=str,
)
def test_unknown_choice(which: object) -> None:
    with pytest.raises(UnknownOptionError, match="`faces` must"):
        select_faces([face_at(0, 0, 60, 70)], which)


def test_box_without_a_face_is_named() -> None:
    with pytest.raises(NoFaceError, match=r"detected faces, got \(300, 300, 400, 400\)"):
        select_faces([face_at(0, 0, 60, 70)], [(300, 300, 400, 400)])


@pytest.mark.parametrize("which", ["largest", "all", [(0, 0, 50, 50)]])
def test_nothing_detected(which: str | list) -> None:
    with pytest.raises(NoFaceError, match="`image` must show a face"):
        select_faces([], which)


@pytest.mark.parametrize("which", ["largest", "all", [(0, 0, 31, 29)]])
def test_too_small(which: str | list) -> None:
    message = "at least 40 px wide and high, got one of 31 x 29 px"
    with pytest.raises(FaceTooSmallError, match=message):
        select_faces([face_at(0, 0, 31, 29)], which)
