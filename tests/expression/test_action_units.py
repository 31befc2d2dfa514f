"""Single movements of a face."""

import math

import pytest
import torch
from made_up_space import mean_face

from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.action_units import (
    ACTION_UNITS,
    FAR,
    ONE_SIDED,
    UNITS,
    WINKS,
    check_action_units,
    displacement_of,
    mirrored,
    shown_by,
    side_of,
)
from map_pipeline.faces.landmarks import MIRRORED

MEAN = mean_face()
FLIP = torch.tensor([-1.0, 1.0])


def test_all_amounts_in_range_are_taken() -> None:
    check_action_units({})
    check_action_units(dict.fromkeys(UNITS, -1.0))
    check_action_units(dict.fromkeys(ACTION_UNITS, 1.0))


@pytest.mark.parametrize(
    ("units", "match"),
    [
        ({"smile": 0.5, "frown": 0.1}, r"`action_units` must be among smile, .*; got 'frown'"),
        ({"smile": 1.01}, r"`action_units\['smile'\]` must be in \[-1, 1\], got 1.01"),
        ({"smile": -1.01}, r"must be in \[-1, 1\], got -1.01"),
        ({"smile": math.nan}, "got nan"),
        ({"smile": "0.5"}, r"must be in \[-1, 1\], got '0.5'"),
        (["smile"], r"`action_units` must be names with numbers, got \['smile'\]"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_named(units: dict, match: str) -> None:
    with pytest.raises(UnknownOptionError, match=match):
        check_action_units(units)


@pytest.mark.parametrize("name", sorted(set(UNITS) - ONE_SIDED - set(WINKS)))
def test_both_halves_do_the_same(name: str) -> None:
    moved = displacement_of(name, 0.7)
    assert moved.abs().max() > 0.001
    torch.testing.assert_close(moved[torch.as_tensor(MIRRORED)] * FLIP, moved)


@pytest.mark.parametrize("name", sorted(ONE_SIDED))
def test_one_half_does_it_alone_and_below_zero_the_other(name: str) -> None:
    moved, other = displacement_of(name, 0.7), displacement_of(name, -0.7)
    left = MEAN[:68, 0] < 0.5
    assert moved[left].abs().max() > 0.001
    assert not moved[~left].any()
    torch.testing.assert_close(other, mirrored(moved))
    torch.testing.assert_close(displacement_of(name, 0.35), moved / 2)


@pytest.mark.parametrize("amount", [-0.7, 0.7])
def test_a_wink_is_of_one_half_alone_whatever_its_sign(amount: float) -> None:
    left, right = (displacement_of(name, amount) for name in ("wink_left", "wink_right"))
    half = MEAN[:68, 0] < 0.5
    assert left[half].abs().max() > 0.001
    assert not left[~half].any()
    torch.testing.assert_close(right, mirrored(left))
    x = torch.linspace(0, 1, 101)
    assert (side_of("wink_left", amount, x)[[20, 80]] == torch.tensor([1, 0])).all()
    assert (side_of("wink_right", amount, x)[[20, 80]] == torch.tensor([0, 1])).all()


def test_skin_of_the_other_half_stays() -> None:
    x = torch.linspace(0, 1, 101)
    left, right = side_of("smirk", 0.3, x), side_of("smirk", -0.3, x)
    assert (left[:40] == 1).all()
    assert (left[60:] == 0).all()
    assert (left.diff() <= 0).all()
    torch.testing.assert_close(left + right, torch.ones(101))
    assert (side_of("smile", 0.3, x) == 1).all()


@pytest.mark.parametrize("name", sorted(set(UNITS) - ONE_SIDED))
def test_motion_is_in_proportion_to_its_amount(name: str) -> None:
    torch.testing.assert_close(displacement_of(name, -0.5), -0.5 * displacement_of(name, 1.0))


def test_units_do_what_their_names_say() -> None:
    moved = {name: displacement_of(name, 1.0) for name in UNITS}
    up = lambda name, point: -float(moved[name][point, 1])  # noqa: E731
    out = lambda name, point: -float(moved[name][point, 0])  # noqa: E731 (of the left half)
    assert up("smile", 48) > 0
    assert out("smile", 48) > 0
    assert up("lip_corners_down", 48) < 0
    assert out("pucker", 48) < 0
    assert up("mouth_open", 66) < 0 < up("mouth_open", 62)
    assert up("mouth_open", 8) < 0
    assert up("brows_up", 19) > 0
    assert up("smirk", 48) > 0 == up("smirk", 54)
    assert up("lips_pressed", 66) > 0 > up("lips_pressed", 62)
    assert up("squint", 41) > 0 > up("squint", 37)
    assert up("nose_wrinkle", 50) > 0 > up("nose_wrinkle", 21)


@pytest.mark.parametrize("name", ACTION_UNITS)
def test_skin_goes_along_only_near_the_landmarks_of_a_motion(name: str) -> None:
    shown = shown_by(name, MEAN)
    assert shown.shape == (len(MEAN), 1)
    centres = list(UNITS[name][1])
    distance = torch.cdist(MEAN, MEAN[centres]).amin(1)
    assert (shown[centres] > 0.999).all()
    assert (shown[distance >= FAR] == 0).all()
    assert (shown[distance < 0.9 * FAR] > 0).all()
    nearest_first = shown[distance.argsort(), 0]
    assert (nearest_first.diff() < 1e-3).all()


def test_brows_leave_the_skin_of_the_chin_alone() -> None:
    """And a smile that of the forehead."""
    brows, smile = shown_by("brows_up", MEAN), shown_by("smile", MEAN)
    chin, forehead = MEAN[:, 1] > MEAN[57, 1], MEAN[:, 1] < MEAN[17:27, 1].min() - 0.02
    assert chin.any()
    assert forehead.any()
    assert not brows[chin].any()
    assert not smile[forehead].any()
