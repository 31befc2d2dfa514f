"""The space of expressions: what is read, what is asked for, and what completes a motion."""

import math
from pathlib import Path

import pytest
import torch
from made_up_space import AXES, BROWS, DOWN, HAPPY, NEUTRAL, OPEN, SAD, SMILE
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.space import CHOSEN, ExpressionSpace, straighten
from map_pipeline.faces.align import apply_affine

SOME_AXES = torch.tensor([0.8, -0.4, 1.3, 0.2])


def showing(space: ExpressionSpace, axis: int, amount: float) -> Tensor:
    """The mean face `[536,2]` with an expression."""
    return space.mean + amount * space.moving[axis]


def test_reading_a_motion_gives_back_the_axes_that_made_it(space: ExpressionSpace) -> None:
    torch.testing.assert_close(space.read(space.move(SOME_AXES)), SOME_AXES, atol=1e-4, rtol=0)


def test_present_expression_is_the_part_that_the_estimator_lets_through(
    space: ExpressionSpace,
) -> None:
    space.estimator.copy_(torch.diag(torch.tensor([0.5, 1.0, 0.0, 1.0])))
    present = space.present(space.mean + space.move(SOME_AXES))
    torch.testing.assert_close(present, torch.tensor([0.4, -0.4, 0.0, 0.2]), atol=1e-4, rtol=0)


def test_more_is_let_through_where_more_expression_is_expected(space: ExpressionSpace) -> None:
    # An estimator of V / (V + 1), where V is the variance of expressions over that of people.
    space.estimator.copy_(torch.diag(torch.tensor([0.5, 1.0, 0.0, 0.2])))
    present = space.present(space.mean + space.move(SOME_AXES), expressive=4)
    wanted = SOME_AXES * torch.tensor([0.8, 1.0, 0.0, 0.5])
    torch.testing.assert_close(present, wanted, atol=1e-4, rtol=0)


def test_all_that_differs_in_one_person_is_copied(space: ExpressionSpace) -> None:
    shape = showing(space, DOWN, 0.7)
    axes = space.copied(shape, shape + space.move(SOME_AXES), same_person=True)
    torch.testing.assert_close(axes, SOME_AXES, atol=1e-4, rtol=0)


def test_only_what_is_expression_is_copied_from_others(space: ExpressionSpace) -> None:
    space.estimator.copy_(torch.diag(torch.tensor([0.5, 1.0, 0.0, 1.0])))
    shape, other = showing(space, SMILE, 0.6), space.mean + space.move(SOME_AXES)
    axes = space.copied(shape, other, same_person=False)
    assert axes[SMILE] == pytest.approx(
        CHOSEN / (CHOSEN + 1) * float(SOME_AXES[SMILE]) - 0.3, abs=1e-4
    )
    others = torch.tensor([OPEN, BROWS, DOWN])
    wanted = torch.tensor([-0.4, 0.0, 0.2])
    torch.testing.assert_close(axes[others], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("emotion", range(len(EMOTIONS)))
def test_twice_the_strength_goes_twice_as_far(space: ExpressionSpace, emotion: int) -> None:
    shape = space.mean + space.move(SOME_AXES)
    once, twice = (space.towards(shape, emotion, strength) for strength in (0.4, 0.8))
    assert once.norm() > 0.1
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("emotion", [HAPPY, SAD, NEUTRAL])
def test_full_strength_goes_from_the_present_expression_to_the_asked_one(
    space: ExpressionSpace, emotion: int
) -> None:
    shape = showing(space, DOWN, 0.7)
    there = space.present(shape) + space.towards(shape, emotion, 1.0)
    torch.testing.assert_close(there, space.emotions[emotion], atol=1e-4, rtol=0)


def test_who_shows_more_than_asked_does_not_come_to_show_less(space: ExpressionSpace) -> None:
    asked = float(space.emotions[HAPPY, SMILE])
    change = [
        float(space.towards(showing(space, SMILE, share * asked), HAPPY, 1.0)[SMILE])
        for share in (0.0, 0.5, 1.0, 2.0)
    ]
    assert change == pytest.approx([asked, asked / 2, 0, 0], abs=1e-3)
    # Another emotion ends it all the same.
    laughing = showing(space, SMILE, 2 * asked)
    assert float(space.towards(laughing, SAD, 1.0)[SMILE]) == pytest.approx(-2 * asked, abs=1e-3)


@pytest.mark.parametrize("axis", range(len(AXES)), ids=AXES)
def test_landmarks_of_an_axis_are_completed_to_it(space: ExpressionSpace, axis: int) -> None:
    """A weak one comes out smaller, as the landmarks' own error would explain it."""
    axes = space.complete(space.moving[axis, :POINTS])
    others = torch.arange(len(AXES)) != axis
    assert 0.5 < axes[axis] < 1.1
    assert axes[others].abs().max() < 0.3 * axes[axis]
    moved, wanted = space.move(axes), space.moving[axis]
    assert (moved[POINTS:] * wanted[POINTS:]).sum() > 0.5 * wanted[POINTS:].square().sum()


def test_what_no_axis_does_is_completed_to_nothing(space: ExpressionSpace) -> None:
    moving = space.moving[:, :POINTS].flatten(1)
    other = torch.randn(2 * POINTS)
    other -= torch.linalg.pinv(moving) @ (moving @ other)
    assert space.complete(0.01 * other.view(POINTS, 2)).abs().max() < 1e-4


@pytest.mark.parametrize("degrees", [0, 25, 160])
def test_straight_shapes_do_not_depend_on_size_roll_and_place(
    space: ExpressionSpace, degrees: int
) -> None:
    angle, scale = math.radians(degrees), 130
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turned = apply_affine(torch.tensor([[cos, -sin, 40], [sin, cos, -9]]), space.mean)
    straight, affine = straighten(turned[None], space.mean)
    torch.testing.assert_close(straight[0], space.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(apply_affine(affine[0], turned), straight[0])


def test_space_survives_saving(space: ExpressionSpace, tmp_path: Path) -> None:
    space.save_pretrained(tmp_path)
    loaded = ExpressionSpace.from_pretrained(tmp_path)
    for name, saved in space.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], saved), name
