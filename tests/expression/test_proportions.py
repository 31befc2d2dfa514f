import pytest
import torch
from torch import Tensor

from map_pipeline.expression.proportions import (
    BRIDGE,
    BROWS,
    LARGER_EYES,
    LEFT_BROW,
    LEFT_EYE,
    NOSE_BASE,
    PROPORTIONS,
    RIGHT_EYE,
    proportions,
)
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.landmarks import MIRRORED
from map_pipeline.hub import bundled_checkpoint

MIDDLE = 0.5
MOUTH = slice(48, 68)


@pytest.fixture(scope="module")
def face() -> Tensor:
    """A mean neutral face `[68,2]`, alike on both sides of x = `MIDDLE`."""
    space = ExpressionSpace.from_pretrained(bundled_checkpoint() / "expression_space")
    shape = space.neutral - torch.tensor([float(space.neutral[BRIDGE, 0]) - MIDDLE, 0.0])
    mirrored = shape[list(MIRRORED)] * torch.tensor([-1.0, 1.0]) + torch.tensor([2 * MIDDLE, 0])
    return (shape + mirrored) / 2


@pytest.fixture(scope="module")
def moves(face: Tensor) -> dict[str, Tensor]:
    return dict(zip(PROPORTIONS, proportions(face[None], MIDDLE)[0], strict=True))


@pytest.mark.parametrize("name", PROPORTIONS)
def test_both_sides_do_the_same_and_none_moves_farther_than_its_unit(
    moves: dict[str, Tensor], name: str
) -> None:
    mirrored = moves[name][list(MIRRORED)] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(moves[name], mirrored, atol=1e-4, rtol=0)
    farthest = {"eyes larger": LARGER_EYES, "brows": BROWS}
    farthest = farthest.get(name, farthest.get(name.split()[0], 1))
    assert float(moves[name].abs().max()) == pytest.approx(farthest, abs=1e-4)


def test_eyes_move_apart_as_wholes(moves: dict[str, Tensor]) -> None:
    left, right = (moves["eyes apart"][list(eye)] for eye in (LEFT_EYE, RIGHT_EYE))
    torch.testing.assert_close(left, torch.tensor([-1.0, 0.0]).expand_as(left))
    torch.testing.assert_close(right, torch.tensor([1.0, 0.0]).expand_as(right))


def test_a_larger_eye_keeps_its_form(face: Tensor, moves: dict[str, Tensor]) -> None:
    eye = list(LEFT_EYE)
    before, after = face[eye], (face + 0.05 * moves["eyes larger"])[eye]
    sizes = [float((shape - shape.mean(0)).norm()) for shape in (before, after)]
    assert sizes[1] > 1.02 * sizes[0]
    torch.testing.assert_close(
        (before - before.mean(0)) / sizes[0], (after - after.mean(0)) / sizes[1], atol=5e-3, rtol=0
    )


def test_a_longer_nose_keeps_its_bridge(moves: dict[str, Tensor]) -> None:
    assert moves["nose longer"][NOSE_BASE, 1] == pytest.approx(1)
    assert moves["nose longer"][BRIDGE].abs().max() == 0


def test_a_proportion_moves_nothing_else(moves: dict[str, Tensor]) -> None:
    assert not moves["brows lower"][:17].any()
    assert (moves["brows lower"][list(LEFT_BROW), 1] == BROWS).all()
    for move in moves.values():
        assert not move[MOUTH].any()
