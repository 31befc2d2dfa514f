import math

import pytest
import torch

from map_pipeline.expression.outline import outlines, within_outline

SIZE = 128


def face() -> torch.Tensor:
    """Landmarks `[68,2]` of a simple round face, of the side."""
    points = torch.zeros(68, 2)
    angle = torch.linspace(0, torch.pi, 17)
    points[:17] = torch.stack([0.5 - 0.3 * angle.cos(), 0.45 + 0.4 * angle.sin()], 1)
    across = torch.linspace(0.3, 0.7, 10)
    points[17:27] = torch.stack([across, torch.full((10,), 0.35)], 1)
    points[27:36] = torch.tensor([0.5, 0.55])
    points[36:48] = torch.tensor([0.5, 0.45])
    points[48:] = torch.tensor([0.5, 0.7])
    return points


def turned(points: torch.Tensor, degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (points - 0.5) @ matrix.T + 0.5


@pytest.mark.parametrize("degrees", [0, 40])
def test_paint_stays_on_the_face(degrees: float) -> None:
    kept = within_outline(turned(face(), degrees) * SIZE, SIZE)
    assert kept.shape == (1, 1, SIZE, SIZE)
    assert 0 <= kept.min() < kept.max() <= 1

    def at(x: float, y: float) -> float:
        column, row = (turned(torch.tensor([[x, y]]), degrees)[0] * SIZE).round().long().tolist()
        return float(kept[0, 0, row, column])

    assert min(at(0.5, 0.5), at(0.35, 0.6), at(0.65, 0.6), at(0.5, 0.25)) > 0.95
    assert max(at(0.5, 0.88), at(0.17, 0.5), at(0.83, 0.5), at(0.5, 0.1)) < 0.05
    assert 0.05 < at(0.79, 0.5) < 0.5, "it fades, and within the outline"


def test_faces_without_landmarks_have_no_outline() -> None:
    points = torch.stack([face() * SIZE] * 2)
    found = outlines(points, torch.tensor([True, False]), SIZE)
    torch.testing.assert_close(found[:1], within_outline(points[0], SIZE))
    assert (found[1] == 1).all()
