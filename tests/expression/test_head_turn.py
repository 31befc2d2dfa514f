"""Heads that are turned otherwise in another photo."""

import math

import pytest
import torch
from made_up_space import mean_face
from torch import Tensor

from map_pipeline.expression.head_turn import (
    FREE,
    about,
    axis_of,
    landmark_depth,
    rotation,
    without_turn,
)

YAW, PITCH, ROLL = torch.eye(3)[[1, 0, 2]]
FACE = mean_face() * 128
# Depth of a bowl: the nose is nearest, the outline farthest away.
DEPTH = (FACE[68:] - FACE[30]).square().sum(1) / 80


def seen(angle: float, axis: Tensor = YAW, smile: float = 0.0) -> tuple[Tensor, Tensor]:
    """Shape `[536,2]` and depth `[468]` of the face with its head turned, px."""
    shape = FACE.clone()
    shape[[48, 54]] += torch.tensor([[-smile, -smile], [smile, -smile]])
    points = torch.cat([shape, torch.cat([landmark_depth(FACE, DEPTH), DEPTH])[:, None]], 1)
    points = (points - points.mean(0)) @ about(axis, angle).T
    return points[:, :2], points[68:, 2]


@pytest.mark.parametrize("axis", [YAW, PITCH, ROLL, torch.ones(3) / math.sqrt(3)])
@pytest.mark.parametrize("angle", [0.0, 0.05, 0.9, 3.0])
def test_a_rotation_is_found_with_its_axis_and_angle(axis: Tensor, angle: float) -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = rotation(points, 3 * points @ about(axis, angle).T + 5)
    torch.testing.assert_close(found, about(axis, angle), atol=1e-5, rtol=0)
    around, by = axis_of(found)
    assert by == pytest.approx(angle, abs=1e-3)
    torch.testing.assert_close(about(around, by), found, atol=2e-3, rtol=0)


@pytest.mark.parametrize("axis", [YAW, PITCH])
def test_a_turn_is_undone_but_for_a_little(axis: Tensor) -> None:
    """What's left is as far as a head turns when it does not count."""
    there, like = seen(0.5, axis), seen(0.0)
    torch.testing.assert_close(without_turn(*there, *like), seen(FREE, axis)[0], atol=2, rtol=0)
    before, after = (one - like[0] for one in (there[0], without_turn(*there, *like)))
    assert after.norm() < 0.45 * before.norm()


def test_a_small_turn_is_left_alone() -> None:
    there = seen(0.9 * FREE)
    torch.testing.assert_close(without_turn(*there, *seen(0.0)), there[0])


def test_the_expression_stays() -> None:
    like = seen(0.0)
    calm, smile = (without_turn(*seen(0.4, smile=one), *like) for one in (0.0, 5.0))
    moved = smile - calm
    assert moved[[48, 54], 1].max() < -4
    assert moved[48, 0] < -3 < 3 < moved[54, 0]
    others = [point for point in range(len(moved)) if point not in (48, 54)]
    assert moved[others].abs().max() < 0.1
