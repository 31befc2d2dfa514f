"""What `EXPRESSIONS` holds besides `EMOTIONS`, put together from single movements.

The seven emotions were learned from photos of people who show them. There are no such photos of
these, so each is what the Facial Action Coding System (Ekman, Friesen and Hager 2002) says of it,
from a calm face on. No classifier here knows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from map_pipeline.config import EMOTIONS


@dataclass(frozen=True)
class Composed:
    """One such expression.

    Attributes:
        emotion: of `EMOTIONS`, what networks that know no others get instead.
        movements: of `action_units.UNITS`, name -> amount at strength 1; more than 1 is possible.
    """

    emotion: str
    movements: Mapping[str, float]


COMPOSED: Mapping[str, Composed] = {
    # AU 12 and 14 on one side.
    "contempt": Composed("neutral", {"smirk": 1.8, "squint": 0.35, "lips_pressed": 0.4}),
    # AU 6 and 12 without 25.
    "closed_smile": Composed("happy", {"smile": 1.7, "squint": 0.45, "lips_pressed": 0.6}),
}
# What is added to an emotion at strength 1, where the mean of what people do hardly shows: some
# pull their brows together, some drop the corners of the mouth, and most do little.
ADDED: Mapping[str, Mapping[str, float]] = {"sad": {"inner_brows": 0.5, "lip_corners_down": 0.6}}


def classifier_emotion(expression: str) -> int:
    """Index in `EMOTIONS` of what networks that know no others get."""
    composed = COMPOSED.get(expression)
    return EMOTIONS.index(expression if composed is None else composed.emotion)


def ingredients(
    expression: str, strength: float, action_units: Mapping[str, float], copied: bool = False
) -> tuple[int, dict[str, float]]:
    """Index in `EMOTIONS` of the emotion, and the single movements, that make an expression.

    Args:
        expression: one of `config.EXPRESSIONS`.
        strength: how far it's gone to; action_units: what is added to it.
        copied: another photo's expression takes its place.
    """
    if copied:
        return classifier_emotion(expression), dict(action_units)
    composed = COMPOSED.get(expression)
    start = EMOTIONS.index("neutral") if composed else EMOTIONS.index(expression)
    own = composed.movements if composed else ADDED.get(expression, {})
    movements = {name: strength * amount for name, amount in own.items()}
    for name, amount in action_units.items():
        movements[name] = movements.get(name, 0.0) + amount
    return start, movements
