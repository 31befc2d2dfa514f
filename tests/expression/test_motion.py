import math

import pytest
import torch
from torch import Tensor

from map_pipeline.expression.motion import face_motions, limit
from map_pipeline.expression.shapes import ExpressionShapes
from map_pipeline.expression.warp import _sample, deform_crop, least_area

SIZE = 64
MOUTH = 48


@pytest.fixture
def shapes() -> ExpressionShapes:
    """One motion, which raises all points by a fiftieth of the side."""
    made = ExpressionShapes(motion_count=1)
    columns, rows = torch.meshgrid(
        torch.linspace(0.3, 0.7, 17), torch.linspace(0.3, 0.7, 4), indexing="ij"
    )
    made.neutral.copy_(torch.stack([columns.flatten(), rows.flatten()], 1))
    made.motions[0, :, 1] = -0.02
    return made


def landmarks(shapes: ExpressionShapes, degrees: float = 0.0) -> Tensor:
    """The neutral face, px, turned about its middle."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return ((shapes.neutral - 0.5) @ turn.T + 0.5) * SIZE


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_a_motion_moves_its_point_in_the_faces_own_frame(
    shapes: ExpressionShapes, degrees: float
) -> None:
    points = landmarks(shapes, degrees)
    flow = face_motions(shapes, points, SIZE).flow(torch.tensor([[1.0]]))
    assert flow.shape == (1, 2, 2 * SIZE, 2 * SIZE)
    # What appears above the point came from it: the flow leads back down along the face.
    came_from = _sample(flow, points[MOUTH : MOUTH + 1])[0, :, 0]
    angle = math.radians(degrees)
    down = torch.tensor([-math.sin(angle), math.cos(angle)])
    assert came_from @ down == pytest.approx(0.02 * SIZE, rel=0.2)
    assert came_from.norm() == pytest.approx(float(came_from @ down), rel=0.05)


def test_motions_add_up_and_none_is_none(shapes: ExpressionShapes) -> None:
    motions = face_motions(shapes, landmarks(shapes), SIZE)
    assert not motions.flow(torch.zeros(1, 1)).any()
    one, two = (motions.flow(torch.tensor([[amount]])) for amount in (1.0, 2.0))
    torch.testing.assert_close(2 * one, two)
    assert least_area(two) > 0.5  # far from folding over


def test_gradients_reach_a_motion_that_is_still_zero(shapes: ExpressionShapes) -> None:
    motions = face_motions(shapes, landmarks(shapes), SIZE)
    amount = torch.zeros(1, 1, requires_grad=True)
    crop = torch.linspace(0, 1, SIZE)[:, None].expand(1, 3, SIZE, SIZE).contiguous()
    deform_crop(crop, motions.flow(amount)).sum().backward()
    assert amount.grad.abs().max() > 0


def test_limit_keeps_the_direction_and_short_motions() -> None:
    long, short = torch.tensor([[300.0, 400.0]]), torch.tensor([[0.03, 0.04]])
    torch.testing.assert_close(limit(long, 2.5), torch.tensor([[1.5, 2.0]]), rtol=1e-3, atol=0)
    torch.testing.assert_close(limit(short, 2.5), short, rtol=1e-3, atol=0)
    assert limit(torch.zeros(1, 2), 2.5).tolist() == [[0, 0]]
