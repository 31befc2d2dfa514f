"""The face mesh: points move with the picture, and lie where the face has them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from made_up_space import mean_face, tiny_mesh
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.faces.align import apply_affine, invert_affine, warp_affine
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.mesh import (
    INNER_LIPS,
    LEFT_EYE,
    LIPS_MIDDLE,
    MESH_POINTS,
    MOUTH_CORNERS,
    OVAL,
    RIGHT_EYE,
    FaceMesh,
)
from map_pipeline.images import load_image, to_array, to_tensor

SIDE = 512


def similarity(degrees: float, scale: float, shift: tuple[float, float]) -> Tensor:
    """Affine `[2,3]` that turns and scales about the middle of the picture, then shifts."""
    cos, sin = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    linear = torch.tensor([[cos, -sin], [sin, cos]])
    middle = torch.full((2,), SIDE / 2)
    return torch.cat([linear, (middle - linear @ middle + torch.tensor(shift))[:, None]], 1)


def eye_distance(points: Tensor) -> float:
    left, right = (points[list(eye)].mean(0) for eye in (LEFT_EYE, RIGHT_EYE))
    return float((left - right).norm())


MOVES = [(0.0, 1.0, (31.0, -17.0)), (25.0, 1.0, (0.0, 0.0)), (-90.0, 1.0, (0.0, 0.0))]
MOVES += [(0.0, 0.6, (0.0, 0.0)), (170.0, 0.8, (10.0, 20.0))]


@pytest.mark.parametrize(("degrees", "scale", "shift"), MOVES)
def test_points_lie_where_the_five_landmarks_put_the_crop(
    degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    mean = mean_face() * 200
    affine = similarity(degrees, scale, shift)
    five = apply_affine(affine, torch.from_numpy(five_points(mean[:POINTS].numpy())))
    found = tiny_mesh().find(torch.rand(1, 3, SIDE, SIDE), five[None])
    assert found.shape == (1, MESH_POINTS, 2)
    torch.testing.assert_close(found[0], apply_affine(affine, mean[POINTS:]), atol=0.01, rtol=0)


def test_mesh_survives_saving(tmp_path: Path) -> None:
    mesh = tiny_mesh()
    mesh.save_pretrained(tmp_path)
    picture, five = torch.rand(1, 3, 90, 90), torch.rand(1, 5, 2) * 90
    loaded = FaceMesh.from_pretrained(tmp_path)
    assert torch.equal(loaded.find(picture, five), mesh.find(picture, five))


# --- the shipped network ---


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """`[1,3,H,W]`, the astronaut."""
    return to_tensor(to_array(load_image(ASTRONAUT)))


@pytest.fixture(scope="module")
def landmarks68(bundled_pipeline: MAPPipeline) -> Tensor:
    [face] = bundled_pipeline.face_detector.detect(to_array(load_image(ASTRONAUT)))
    return torch.from_numpy(face.landmarks68).float()


@pytest.fixture(scope="module")
def found(bundled_pipeline: MAPPipeline, picture: Tensor, landmarks68: Tensor) -> Tensor:
    """The points `[468,2]` of the astronaut's mesh."""
    return bundled_pipeline.face_mesh.find(picture, five(landmarks68))[0]


def five(landmarks68: Tensor) -> Tensor:
    return torch.from_numpy(five_points(np.asarray(landmarks68)))[None]


@pytest.mark.parametrize(("degrees", "scale", "shift"), MOVES)
def test_points_move_turn_and_grow_with_the_picture(
    bundled_pipeline: MAPPipeline,
    picture: Tensor,
    landmarks68: Tensor,
    found: Tensor,
    degrees: float,
    scale: float,
    shift: tuple[float, float],
) -> None:
    affine = similarity(degrees, scale, shift)
    moved = warp_affine(picture, invert_affine(affine)[None], (SIDE, SIDE), "reflection")
    points = bundled_pipeline.face_mesh.find(moved, apply_affine(affine, five(landmarks68)))[0]
    off = (apply_affine(invert_affine(affine), points) - found).norm(dim=1)
    assert off.mean() < 0.02 * eye_distance(found)
    assert off.max() < 0.06 * eye_distance(found)


def test_points_lie_on_the_faces_features(found: Tensor, landmarks68: Tensor) -> None:
    unit = eye_distance(found)
    assert 0.2 * SIDE > unit > 0.05 * SIDE
    for loop, points in ((LEFT_EYE, range(36, 42)), (RIGHT_EYE, range(42, 48))):
        centre = found[list(loop)].mean(0)
        assert (centre - landmarks68[list(points)].mean(0)).norm() < 0.1 * unit
    corners = found[list(MOUTH_CORNERS)]
    assert (corners - landmarks68[[48, 54]]).norm(dim=1).max() < 0.15 * unit
    assert (found[list(LIPS_MIDDLE)] - landmarks68[[62, 66]]).norm(dim=1).max() < 0.15 * unit
    oval = found[list(OVAL)]
    for inner in (*LEFT_EYE, *RIGHT_EYE, *INNER_LIPS):
        assert (oval.amin(0) < found[inner]).all()
        assert (found[inner] < oval.amax(0)).all()
