"""Expressions that are put together from single movements."""

import pytest
import torch
from made_up_space import mean_face

from map_pipeline.config import EMOTIONS, EXPRESSIONS
from map_pipeline.expression.action_units import UNITS, displacement_of
from map_pipeline.expression.composed import ADDED, COMPOSED, classifier_emotion, ingredients

LEFT_CORNER, RIGHT_CORNER = 48, 54


def landmarks_moved(expression: str, strength: float = 1.0) -> torch.Tensor:
    _, movements = ingredients(expression, strength, {})
    return sum(displacement_of(name, amount) for name, amount in movements.items())


def test_each_choice_is_an_emotion_or_has_a_recipe() -> None:
    assert set(EXPRESSIONS) == {*EMOTIONS, *COMPOSED}
    assert set(ADDED) <= set(EMOTIONS)
    recipes = [*ADDED.values(), *(one.movements for one in COMPOSED.values())]
    assert {name for one in recipes for name in one} <= set(UNITS)


def test_emotions_are_told_as_they_are_and_others_as_their_nearest() -> None:
    assert [classifier_emotion(name) for name in EMOTIONS] == list(range(len(EMOTIONS)))
    assert EMOTIONS[classifier_emotion("closed_smile")] == "happy"


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_ones_start_from_a_calm_face_and_grow_with_strength(name: str) -> None:
    start, half = ingredients(name, 0.5, {})
    assert EMOTIONS[start] == "neutral"
    _, whole = ingredients(name, 1.0, {})
    assert whole == {unit: 2 * amount for unit, amount in half.items()}
    assert not any(ingredients(name, 0.0, {})[1].values())


def test_own_movements_are_added() -> None:
    _, alone = ingredients("closed_smile", 1.0, {})
    _, more = ingredients("closed_smile", 1.0, {"smile": 0.25, "brows_up": -0.5})
    assert more == {**alone, "smile": alone["smile"] + 0.25, "brows_up": -0.5}
    assert ingredients("happy", 1.0, {"smile": 0.25}) == (
        classifier_emotion("happy"),
        {"smile": 0.25},
    )


@pytest.mark.parametrize("name", [*COMPOSED, *ADDED])
def test_a_copied_expression_takes_their_place(name: str) -> None:
    assert ingredients(name, 1.0, {"smile": 0.5}, copied=True)[1] == {"smile": 0.5}


def test_contempt_lifts_one_corner_and_a_closed_smile_both_with_lips_together() -> None:
    contempt, smile = landmarks_moved("contempt"), landmarks_moved("closed_smile")
    up = lambda moved, point: -float(moved[point, 1])  # noqa: E731
    assert up(contempt, LEFT_CORNER) > 0.02 > abs(up(contempt, RIGHT_CORNER))
    assert min(up(smile, LEFT_CORNER), up(smile, RIGHT_CORNER)) > 0.02
    mean = mean_face()[:68]
    gap = lambda shape: float((shape[66] - shape[62])[1])  # noqa: E731
    assert gap(mean + smile) < gap(mean)
