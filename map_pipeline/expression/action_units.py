"""Single movements of a face, as the sliders of expression editors have them.

Each is put together from action units of the Facial Action Coding System (Ekman, Friesen and Hager
2002). A table says how far the landmarks of the image's left half go; the right half does the same.
Movements of `ONE_SIDED` move one half: the left one above 0, the right one below. `WINKS` close an
eye above 0 and open it wide below. Skin and shading follow as they do in people
(`ExpressionSpace.complete`).
"""

from collections.abc import Collection, Mapping
from numbers import Real

import torch
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.errors import UnknownOptionError
from map_pipeline.faces.landmarks import MIRRORED

PIXEL = 1 / 128  # of the crop's side, the unit of the tables
# Landmark of the image's left half -> (outwards, up) in `PIXEL` at full amount; and the landmarks
# around which skin goes along.
Motion = Mapping[int, tuple[float, float]]
BROWS, EYES, NOSE, MOUTH = range(17, 27), range(36, 48), range(27, 36), range(48, 68)
WINK: Motion = {
    37: (0, -1.0),
    38: (0, -1.0),
    40: (0, 0.6),
    41: (0, 0.6),
    **dict.fromkeys(range(17, 22), (0.0, -0.5)),
    48: (0.4, 0.7),
    60: (0.3, 0.6),
}
UNITS: Mapping[str, tuple[Motion, range]] = {
    "smile": (
        {
            48: (2.6, 3.2),
            60: (2.3, 2.9),
            49: (1.4, 1.2),
            59: (1.6, 1.7),
            61: (0.8, 0.7),
            67: (0.8, 0.5),
            58: (0.9, 0.4),
            40: (0, 0.5),
            41: (0, 0.6),
        },
        MOUTH,
    ),
    "mouth_open": (
        {
            50: (0, 0.6),
            51: (0, 0.7),
            61: (0.3, 0.6),
            62: (0, 0.8),
            48: (-0.8, -1.5),
            60: (-0.7, -1.5),
            59: (0, -4.5),
            58: (0, -6.0),
            57: (0, -6.4),
            67: (0, -5.4),
            66: (0, -6.0),
            5: (0, -3.5),
            6: (0, -5.0),
            7: (0, -6.0),
            8: (0, -6.2),
        },
        MOUTH,
    ),
    "brows_up": (
        {
            17: (0, 2.2),
            18: (0, 3.4),
            19: (0, 3.9),
            20: (0, 3.8),
            21: (0, 3.2),
            37: (0, 0.5),
            38: (0, 0.5),
        },
        BROWS,
    ),
    "inner_brows": ({21: (0, 4.0), 20: (0, 3.0), 19: (0, 1.5), 18: (0, 0.4)}, BROWS),
    "eyes_wide": ({37: (0, 1.4), 38: (0, 1.4), 40: (0, -0.4), 41: (0, -0.4)}, EYES),
    "squint": ({37: (0, -0.6), 38: (0, -0.6), 40: (0, 0.8), 41: (0, 0.9)}, EYES),
    "nose_wrinkle": (
        {
            21: (-0.8, -2.0),
            20: (-0.5, -1.6),
            31: (0.6, 1.2),
            32: (0.3, 1.0),
            33: (0, 0.6),
            49: (0, 1.3),
            50: (0, 1.7),
            51: (0, 1.4),
            61: (0, 1.3),
            62: (0, 1.1),
        },
        NOSE,
    ),
    "lip_corners_down": (
        {48: (0.6, -3.2), 60: (0.4, -2.8), 49: (0.2, -1.1), 59: (0.4, -1.8)},
        MOUTH,
    ),
    "pucker": (
        {
            48: (-4.0, 0),
            60: (-3.4, 0),
            49: (-2.2, 0.2),
            59: (-2.2, -0.2),
            50: (-0.8, 0.5),
            58: (-0.9, -0.5),
            61: (-1.2, 0.2),
            67: (-1.2, -0.2),
        },
        MOUTH,
    ),
    "lips_pressed": (
        {
            50: (0, -0.5),
            51: (0, -0.6),
            61: (0, -1.4),
            62: (0, -1.6),
            67: (0, 1.4),
            66: (0, 1.6),
            58: (0, 0.8),
            57: (0, 0.9),
        },
        MOUTH,
    ),
    "smirk": (
        {
            48: (2.2, 2.6),
            60: (1.9, 2.3),
            49: (1.0, 0.9),
            59: (1.1, 1.4),
            61: (0.5, 0.4),
            67: (0.5, 0.4),
            50: (0.2, 0.3),
            58: (0.4, 0.5),
        },
        MOUTH,
    ),
    # What goes along when an eye closes; the lids themselves are those of `expression.eyelids`.
    "wink_left": (WINK, EYES),
    "wink_right": (WINK, EYES),
}
ACTION_UNITS = tuple(UNITS)
# Moved is one half: by the sign of the amount, or always the one at the left of the image (True).
ONE_SIDED = frozenset({"smirk"})
WINKS = {"wink_left": True, "wink_right": False}
LEAST, MOST = -1.0, 1.0
FAR = 0.12  # how far from its landmarks the skin goes along, of the side
MIDDLE, FADE = 0.5, 0.08  # where the halves of an upright face meet, and how wide the seam is


def check_action_units(units: Mapping[str, float], possible: Collection[str] | None = None) -> None:
    """Raise `UnknownOptionError` for an unknown name or an amount out of its range.

    Args:
        possible: names to choose from; all if None.
    """
    possible = ACTION_UNITS if possible is None else possible
    if not isinstance(units, Mapping):
        raise UnknownOptionError(f"`action_units` must be names with numbers, got {units!r}.")
    for name, amount in units.items():
        if name not in possible:
            known = ", ".join(possible)
            raise UnknownOptionError(f"`action_units` must be among {known}; got {name!r}.")
        if not (isinstance(amount, Real) and LEAST <= amount <= MOST):
            raise UnknownOptionError(
                f"`action_units[{name!r}]` must be in [{LEAST:g}, {MOST:g}], got {amount!r}."
            )


def displacement_of(name: str, amount: float) -> Tensor:
    """Where the landmarks `[68,2]` of an upright face go, in its unit, the crop's side.

    Args:
        name: one of `ACTION_UNITS`; amount: in [-1,1].
    """
    moved = torch.zeros(POINTS, 2)
    for point, (outwards, up) in UNITS[name][0].items():
        moved[point] = torch.tensor([-outwards, -up]) * PIXEL
    if name in WINKS:
        return amount * (moved if WINKS[name] else mirrored(moved))
    if name in ONE_SIDED:
        return abs(amount) * (moved if amount > 0 else mirrored(moved))
    # A point on the middle line is its own counterpart and must not count twice.
    middle = torch.as_tensor(MIRRORED) == torch.arange(POINTS)
    return amount * torch.where(middle[:, None], moved, moved + mirrored(moved))


def moves_one_half(name: str) -> bool:
    """Whether a movement is one of the left or the right half alone."""
    return name in ONE_SIDED or name in WINKS


def mirrored(moved: Tensor) -> Tensor:
    """The displacement `[68,2]` of the mirrored face."""
    return moved[torch.as_tensor(MIRRORED)] * torch.tensor([-1.0, 1.0])


def shown_by(name: str, mean: Tensor) -> Tensor:
    """How much of a motion the skin around its landmarks makes, `[536,1]` in [0,1].

    Args:
        mean: `[536,2]` mean shape, of the side.
    """
    centres = list(UNITS[name][1])
    distance = torch.cdist(mean, mean[centres]).amin(1, keepdim=True)
    return _smooth(1 - distance / FAR)


def side_of(name: str, amount: float, x: Tensor) -> Tensor:
    """How much of a motion is seen at places of an upright face, in [0,1]: one half of one-sided.

    Args:
        x: of the side, 0 at the left of the image.
    """
    if not moves_one_half(name):
        return torch.ones_like(x)
    inwards = MIDDLE - x if WINKS.get(name, amount > 0) else x - MIDDLE
    return _smooth(0.5 + inwards / FADE)


def _smooth(ramp: Tensor) -> Tensor:
    ramp = ramp.clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)
