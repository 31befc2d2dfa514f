"""Eyes that close: what is covered, what is stretched, and what stays."""

import math

import pytest
import torch
from made_up_space import mean_face
from torch import Tensor

from map_pipeline.expression.eyelids import EDGE, SOFT, cover, find_eye, lid_flow

SIZE = 128
FACE = mean_face()[:68] * SIZE
SAME = torch.eye(2, 3)
SIDES = pytest.mark.parametrize("left", [True, False])


def grid() -> Tensor:
    """Places `[256,256,2]` of a flow."""
    axis = torch.arange(2.0 * SIZE) - SIZE / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


@SIDES
def test_lids_go_through_their_landmarks(left: bool) -> None:
    eye = find_eye(FACE, left, 1.0)
    for points, lid in (((37, 38), 0), ((41, 40), 1)):
        u, v = eye.within(FACE[[point + (0 if left else 6) for point in points]])
        torch.testing.assert_close(eye.lids(u)[lid], v, atol=1e-3, rtol=0)
    torch.testing.assert_close(eye.place(*eye.within(FACE)), FACE, atol=1e-3, rtol=0)


@SIDES
def test_nothing_of_a_closed_eye_is_seen(left: bool) -> None:
    eye = find_eye(FACE, left, 1.0)
    flow = lid_flow([eye], SIZE)[0].permute(1, 2, 0)
    u, v = eye.within(grid())
    there, came_from = eye.within(grid() + flow)
    torch.testing.assert_close(there, u, atol=1e-4, rtol=0)  # up and down only
    upper, lower = eye.lids(u)
    line = eye.closed_lids(u)[0]
    beside = ((v - line).abs() > SOFT) & (u > 0.1) & (u < 0.9)
    inside = (came_from > upper) & (came_from < lower)
    assert not (inside & beside).any()
    assert (v[beside] - came_from[beside]).abs().max() > 3, "lids have come down"


@SIDES
def test_a_half_closed_eye_stays_where_it_is(left: bool) -> None:
    eye = find_eye(FACE, left, 0.5)
    flow = lid_flow([eye], SIZE)[0].permute(1, 2, 0)
    u, v = eye.within(grid())
    upper, lower = eye.closed_lids(u)
    seen = (v > upper + SOFT) & (v < lower)
    assert seen.any()
    assert not flow[seen].any()


@SIDES
@pytest.mark.parametrize("closed", [0.3, 1.0])
def test_skin_is_stretched_and_never_turned_over(left: bool, closed: float) -> None:
    """And brow, cheek and the other eye don't move."""
    eye = find_eye(FACE, left, closed)
    v = torch.linspace(-40, 40, 801)
    for u in (0.1, 0.35, 0.5, 0.8):
        source = v + eye.source(torch.full_like(v, u), v)
        assert (source.diff() >= -1e-4).all()
    flow = lid_flow([eye], SIZE)[0].permute(1, 2, 0)
    other = FACE[42:48] if left else FACE[36:42]
    for point in torch.cat([FACE[17:27], other, FACE[27:36], FACE[48:]]):
        x, y = (point.round().int() + SIZE // 2).tolist()
        assert flow[y, x].abs().max() < 0.2


def test_it_turns_with_the_head() -> None:
    angle = math.radians(20)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    straight, tilted = (find_eye(face, True, 0.8) for face in (FACE, FACE @ turn.T))
    points = FACE[[36, 37, 41]] + torch.tensor([3.0, 1.0])
    there = straight.source(*straight.within(points))
    torch.testing.assert_close(tilted.source(*tilted.within(points @ turn.T)), there)


@SIDES
def test_what_is_covered_gets_the_colour_of_the_lids_edge(left: bool) -> None:
    eye = find_eye(FACE, left, 1.0)
    axis = torch.arange(float(SIZE))
    u, v = eye.within(torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1))
    upper, lower = eye.lids(u)
    picture = torch.full((1, 3, SIZE, SIZE), 0.4)
    opening = (v > upper - EDGE * eye.width + 0.5) & (v < lower) & (u > 0.2) & (u < 0.8)
    picture[..., opening] = 1.0
    added = cover(picture, [eye], SAME)
    assert (picture + added)[..., opening].max() < 0.75
    away = (u < -0.05) | (u > 1.05) | (v < -20) | (v > 20)
    assert not added[..., away].any()
