import math

import pytest
import torch
from torch import Tensor

from map_pipeline.config import MAPConfig
from map_pipeline.expression.motion import (
    EXPRESSION_UNIT,
    FREE_UNIT,
    count_motions,
    face_motions,
    limit,
)
from map_pipeline.expression.proportions import PROPORTIONS
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.expression.warp import _sample, deform_crop, enlarge, least_area
from map_pipeline.faces.paste import ON_MOUTH

SIZE = 64
MOST = 0.02  # of the side
MOUTH = 48


@pytest.fixture
def shapes() -> ExpressionSpace:
    """One motion, which raises all points by a fiftieth of the side."""
    made = ExpressionSpace(motion_count=1)
    columns, rows = torch.meshgrid(
        torch.linspace(0.3, 0.7, 17), torch.linspace(0.3, 0.7, 4), indexing="ij"
    )
    made.neutral.copy_(torch.stack([columns.flatten(), rows.flatten()], 1))
    made.motions[0, :, 1] = -0.02
    return made


@pytest.fixture
def face(shapes: ExpressionSpace) -> ExpressionSpace:
    """Landmarks of a face as it is: jaw, brows, nose, eyes and mouth in their places."""
    jaw = [(0.5 + 0.4 * math.sin(a), 0.45 + 0.45 * math.cos(a)) for a in linspace(-1.9, 1.9, 17)]
    brows = [(x, 0.25) for x in (*linspace(0.2, 0.42, 5), *linspace(0.58, 0.8, 5))]
    nose = [(0.5, y) for y in linspace(0.33, 0.52, 4)]
    nose += [(x, 0.58) for x in linspace(0.42, 0.58, 5)]
    eyes = [(x, 0.35) for x in (*linspace(0.25, 0.38, 6), *linspace(0.62, 0.75, 6))]
    mouth = [(x, 0.75) for x in linspace(0.36, 0.64, 20)]
    shapes.neutral.copy_(torch.tensor([*jaw, *brows, *nose, *eyes, *mouth]))
    return shapes


def linspace(start: float, end: float, count: int) -> list[float]:
    return torch.linspace(start, end, count).tolist()


def landmarks(shapes: ExpressionSpace, degrees: float = 0.0) -> Tensor:
    """The neutral face, px, turned about its middle."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return ((shapes.neutral - 0.5) @ turn.T + 0.5) * SIZE


def only(shapes: ExpressionSpace, motion: int, amount: float = 1.0) -> Tensor:
    """Coefficients `[1,K]` of one motion."""
    return amount * torch.eye(count_motions(shapes))[motion : motion + 1]


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_a_motion_moves_its_point_in_the_faces_own_frame(
    face: ExpressionSpace, degrees: float
) -> None:
    points = landmarks(face, degrees)
    flow = face_motions(face, points[None], SIZE, MOST).flow(only(face, 0, 0.1))
    assert flow.shape == (1, 2, 2 * SIZE, 2 * SIZE)
    # What appears above the point came from it: the flow leads back down along the face.
    came_from = _sample(flow, points[MOUTH : MOUTH + 1])[0, :, 0]
    angle = math.radians(degrees)
    down = torch.tensor([-math.sin(angle), math.cos(angle)])
    asked = 0.1 * EXPRESSION_UNIT * 0.02 * SIZE
    assert came_from @ down == pytest.approx(ON_MOUTH * asked, rel=0.4)
    assert came_from.norm() == pytest.approx(float(came_from @ down), rel=0.05)


def test_motions_add_up_and_none_is_none(shapes: ExpressionSpace) -> None:
    motions = face_motions(shapes, landmarks(shapes)[None], SIZE, MOST)
    assert not motions.flow(only(shapes, 0, 0.0)).any()
    one, two = (motions.flow(only(shapes, 0, amount)) for amount in (0.01, 0.02))
    torch.testing.assert_close(2 * one, two, rtol=1e-3, atol=1e-6)


def test_nothing_moves_far_or_folds(face: ExpressionSpace) -> None:
    motions = face_motions(face, landmarks(face)[None], SIZE, MOST)
    for seed in range(5):
        mixed = torch.randn(1, count_motions(face), generator=torch.manual_seed(seed))
        mixed = limit(mixed, MAPConfig.max_motion)
        flow = motions.flow(mixed)
        assert 0.5 * MOST * SIZE < flow.norm(dim=1).max() <= MOST * SIZE
        assert least_area(flow) > 0.05


def test_free_shifts_are_small_and_alike_on_both_sides(face: ExpressionSpace) -> None:
    motions = face_motions(face, landmarks(face)[None], SIZE, MOST)
    places = torch.tensor([[0.17, 0.58], [0.83, 0.58]]) * SIZE  # both cheeks
    moved = 0
    for motion in range(1, count_motions(face) - len(PROPORTIONS)):
        left, right = _sample(motions.flow(only(face, motion, 0.1)), places)[0].T
        torch.testing.assert_close(left * torch.tensor([-1, 1]), right, atol=0.005, rtol=0)
        assert left.norm() < 0.11 * FREE_UNIT * SIZE
        moved += left.norm() > 0.05 * FREE_UNIT * SIZE
    assert moved >= 2  # one along the face and one across it


def test_free_shifts_spare_features_and_surroundings(face: ExpressionSpace) -> None:
    motions = face_motions(face, landmarks(face)[None], SIZE, MOST)
    shifts = motions.flows[0, 1 : -len(PROPORTIONS)]
    free = shifts.norm(dim=1).amax(0)[None, None]  # the greatest shift anywhere

    def greatest(*places: tuple[float, float]) -> float:
        return float(_sample(enlarge(free, SIZE), torch.tensor(places) * SIZE).max())

    cheek = greatest((0.2, 0.6))
    assert greatest((0.5, 0.4), (0.5, 0.58)) < 0.25 * cheek
    corners = landmarks(face)[[MOUTH, MOUTH + 6]] / SIZE
    assert greatest(*corners.tolist()) < 0.25 * cheek
    assert greatest((0.3, 0.25), (0.31, 0.35)) < 0.35 * cheek
    assert greatest((-0.02, 0.5), (0.5, 1.2), (-0.3, 0.5)) < 0.05 * cheek


def test_gradients_reach_a_motion_that_is_still_zero(shapes: ExpressionSpace) -> None:
    motions = face_motions(shapes, landmarks(shapes)[None], SIZE, MOST)
    amount = torch.zeros(1, count_motions(shapes), requires_grad=True)
    crop = torch.linspace(0, 1, SIZE)[:, None].expand(1, 3, SIZE, SIZE).contiguous()
    deform_crop(crop, motions.flow(amount)).sum().backward()
    assert amount.grad[0, 0] != 0
    assert (amount.grad[0, 1:] != 0).any()


def test_limit_bounds_each_motion_and_keeps_small_ones() -> None:
    torch.testing.assert_close(
        limit(torch.tensor([[300.0, -0.03, 0.0]]), 2.5),
        torch.tensor([[2.5, -0.03, 0.0]]),
        rtol=1e-3,
        atol=0,
    )
