"""Where each emotion moves the landmarks of a face: measured on labelled faces, and from FACS.

The mean of labelled faces shows what a smile or a surprised mouth is. It does not for emotions with
few or mixed examples (angry people shout or press their lips together; their mean does neither):
those are put together from action units of the Facial Action Coding System (Ekman and Friesen 1978;
Ekman, Friesen and Hager 2002) as its emotion table EMFACS does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.errors import MAPError
from map_pipeline.expression.shapes import ExpressionShapes, straighten
from map_pipeline.faces.landmarks import MIRRORED
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.motions import People, measure_motions

UNIT = 1 / 128  # side; the action units below are in px of a crop of 128 px
# Expressions are taken to vary this many times more than they do among the labelled faces, so that
# the estimate shrinks a broad smile only a little.
CERTAINTY = 4.0
# How far each action unit at full intensity moves the points of the image's left half: (outwards,
# up) in px. Sizes are those seen in posed expressions, where the eyes are 40 px apart.
ACTION_UNITS: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "inner brow raiser (1)": {21: (0, 4.0), 20: (0, 3.0), 19: (0, 1.5), 18: (0, 0.4), 27: (0, 0.5)},
    "outer brow raiser (2)": {17: (0, 2.5), 18: (0, 3.8), 19: (0, 3.2), 20: (0, 1.5)},
    "brow lowerer (4)": {
        21: (-2.2, -3.6),
        20: (-1.8, -3.4),
        19: (-1.0, -2.6),
        18: (-0.4, -1.4),
        17: (0, -0.4),
        37: (0, -0.4),
        38: (0, -0.7),
    },
    "outer brow down": {17: (0, -1.8), 18: (0, -1.2), 36: (0, -0.6), 37: (0, -0.8), 38: (0, -0.3)},
    "upper lid raiser (5)": {37: (0, 1.5), 38: (0, 1.5), 40: (0, -0.4), 41: (0, -0.4)},
    "cheek raiser (6)": {40: (0, 0.7), 41: (0, 0.9), 36: (0, -0.3)},
    "lid tightener (7)": {37: (0, -0.7), 38: (0, -0.7), 40: (0, 0.7), 41: (0, 0.7)},
    "nose wrinkler (9)": {
        21: (-0.8, -2.6),
        20: (-0.5, -2.2),
        19: (0, -1.4),
        29: (0, 0.6),
        30: (0, 1.2),
        31: (1.2, 2.2),
        32: (0.6, 1.6),
        33: (0, 1.2),
        49: (0, 1.5),
        50: (0, 2.0),
        51: (0, 1.6),
        61: (0, 1.6),
        62: (0, 1.4),
    },
    "upper lip raiser (10)": {
        31: (0.8, 0.8),
        49: (0.5, 2.2),
        50: (0, 3.2),
        51: (0, 2.6),
        61: (0, 2.6),
        62: (0, 2.3),
    },
    "lip corner depressor (15)": {
        48: (0.8, -4.0),
        60: (0.5, -3.4),
        49: (0.2, -1.4),
        59: (0.5, -2.2),
    },
    "chin raiser (17)": {
        57: (0, 2.0),
        58: (0, 1.4),
        66: (0, 1.4),
        67: (0, 0.9),
        51: (0, 0.8),
        50: (0, 0.8),
        61: (0, 1.0),
        62: (0, 1.2),
        8: (0, 1.0),
        7: (0, 0.7),
    },
    "lip stretcher (20)": {
        48: (4.0, -1.0),
        60: (4.0, -0.8),
        49: (2.2, 0),
        59: (2.2, -1.0),
        61: (1.2, 0),
        67: (1.2, 0),
    },
    "lip pressor (24)": {
        48: (-1.5, -0.4),
        60: (-1.5, -0.3),
        49: (-1.0, -0.8),
        50: (-0.3, -1.3),
        51: (0, -1.3),
        57: (0, 1.4),
        58: (-0.3, 1.3),
        59: (-1.0, 0.6),
    },
    "lips part (25)": {57: (0, -2.0), 58: (0, -1.8), 59: (0, -1.0), 66: (0, -2.6), 67: (0, -2.2)},
    "jaw drop (26)": {
        **{k: (0, -v) for k, v in ((3, 0.8), (4, 1.8), (5, 3.0), (6, 4.2), (7, 4.8), (8, 5.0))},
        **{k: (0, -v) for k, v in ((48, 2.2), (60, 2.2), (59, 4.4), (58, 5.8), (57, 6.2))},
        **{k: (0, -v) for k, v in ((67, 5.8), (66, 6.2))},
    },
}


@dataclass(frozen=True)
class Recipe:
    """What an emotion's displacement is made of.

    Attributes:
        measured: share of the mean of the labelled faces.
        units: action unit -> intensity, 1 is the full unit.
    """

    measured: float = 0.0
    units: Mapping[str, float] = field(default_factory=dict)


RECIPES: Mapping[str, Recipe] = {
    "angry": Recipe(
        0.0,
        {
            "brow lowerer (4)": 1.3,
            "upper lid raiser (5)": 0.4,
            "lid tightener (7)": 0.6,
            "lip pressor (24)": 0.8,
            "lip corner depressor (15)": 0.4,
        },
    ),
    "disgust": Recipe(
        0.0,
        {
            "brow lowerer (4)": 0.6,
            "nose wrinkler (9)": 1.2,
            "lid tightener (7)": 0.9,
            "upper lip raiser (10)": 1.1,
            "lip corner depressor (15)": 0.5,
        },
    ),
    "fear": Recipe(
        0.0,
        {
            "inner brow raiser (1)": 1.1,
            "outer brow raiser (2)": 0.6,
            "brow lowerer (4)": 0.3,
            "upper lid raiser (5)": 1.3,
            "lip stretcher (20)": 1.0,
            "lips part (25)": 0.6,
            "jaw drop (26)": 0.8,
        },
    ),
    "happy": Recipe(1.15, {"cheek raiser (6)": 1.0}),
    "neutral": Recipe(),
    "sad": Recipe(
        0.0,
        {
            "inner brow raiser (1)": 1.1,
            "brow lowerer (4)": 0.4,
            "outer brow down": 1.0,
            "lip corner depressor (15)": 1.2,
            "chin raiser (17)": 0.7,
        },
    ),
    "surprise": Recipe(
        1.0,
        {
            "inner brow raiser (1)": 0.8,
            "outer brow raiser (2)": 0.8,
            "upper lid raiser (5)": 0.7,
        },
    ),
}


def measure_shapes(faces: FaceSet, people: People, motions: int) -> ExpressionShapes:
    """Mean shapes and the estimator of the present expression, from faces with known emotions.

    Args:
        faces: those with landmarks and a certain emotion (probability 1) count; their emotions
            should be given by hand.
        people: the same people in several expressions, for the free motions.
        motions: number of free motions.

    Raises:
        MAPError: no such face shows an emotion that has to be measured.
    """
    known = faces.has_landmarks & (faces.emotions.max(1).values == 1)
    emotions = faces.emotions[known].argmax(1)
    shapes = faces.landmarks68[known].double()
    # Both halves of every face count: displacements are symmetric, and there is twice the data.
    shapes, emotions = torch.cat([shapes, mirrored(shapes)]), emotions.repeat(2)
    neutral_rows = emotions == EMOTIONS.index("neutral")
    measured = [name for name in EMOTIONS if name == "neutral" or RECIPES[name].measured > 0]
    missing = [name for name in measured if not (emotions == EMOTIONS.index(name)).any()]
    if missing:
        raise MAPError(
            f"`faces` must show each of {', '.join(measured)} with certainty, got no "
            f"{', '.join(missing)}."
        )
    reference = shapes[neutral_rows].mean(0)
    shapes = straighten(shapes, reference)[0]
    neutral = shapes[neutral_rows].mean(0)
    displacements = torch.stack([action_units(RECIPES[name].units) for name in EMOTIONS])
    for name in measured:
        index = EMOTIONS.index(name)
        mean = shapes[emotions == index].mean(0) - neutral
        displacements[index] += RECIPES[name].measured * mean
    deviations = (shapes - neutral).flatten(1)
    result = ExpressionShapes(motion_count=motions)
    result.neutral.copy_(neutral)
    result.displacements.copy_(displacements)
    result.estimator.copy_(wiener_filter(deviations, emotions, neutral_rows))
    result.motions.copy_(measure_motions(people, neutral.float(), motions))
    return result


def action_units(units: Mapping[str, float]) -> Tensor:
    """Displacement `[68,2]` of action units, in units of the crop's side."""
    half = torch.zeros(POINTS, 2, dtype=torch.float64)
    for name, intensity in units.items():
        for point, (outwards, up) in ACTION_UNITS[name].items():
            half[point] += torch.tensor([-outwards, -up], dtype=torch.float64) * intensity * UNIT
    other = half[torch.as_tensor(MIRRORED)] * half.new_tensor([-1, 1])
    # A point on the middle line is its own counterpart and must not count twice.
    middle = torch.as_tensor(MIRRORED) == torch.arange(POINTS)
    return torch.where(middle[:, None], half, half + other)


def mirrored(shapes: Tensor) -> Tensor:
    """Mirror images of shapes `[N,68,2]` in units of the side, about its middle."""
    return shapes[:, torch.as_tensor(MIRRORED)] * shapes.new_tensor([-1, 1]) + shapes.new_tensor(
        [1, 0]
    )


def wiener_filter(deviations: Tensor, emotions: Tensor, neutral: Tensor) -> Tensor:
    """Matrix `[136,136]` that finds the part of a deviation which is expression.

    A shape deviates from the neutral mean by identity and pose (covariance I, seen in neutral
    faces) plus expression (covariance E, what other faces have beyond that); with both Gaussian,
    the expected expression is E (E + I)^-1 times the deviation.

    Args:
        deviations: `[N,136]` of straightened shapes from the neutral mean.
        emotions: `[N]`; every emotion counts the same.
        neutral: bool `[N]`.
    """
    second_moment = lambda rows: rows.T @ rows / len(rows)  # noqa: E731
    identity = second_moment(deviations[neutral])
    others = [deviations[emotions == e] for e in emotions[~neutral].unique()]
    every = torch.stack([second_moment(rows) for rows in others if len(rows)]).mean(0)
    values, vectors = torch.linalg.eigh(every - identity)
    expression = (vectors * values.clamp(min=0)) @ vectors.T * CERTAINTY
    noise = torch.eye(len(identity), dtype=identity.dtype) * identity.diagonal().mean() * 1e-3
    return torch.linalg.solve(expression + identity + noise, expression).T
