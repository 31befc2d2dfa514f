"""Light and shade in a face's own colours.

A shadow that takes the same share of red, green and blue looks grey on skin, like dirt: light that
enters skin comes back red, so real shadows are redder. In sRGB that is simple: what a colour
differs from grey grows with brightness up to about half of full brightness, and stays the same from
there on. That is how the skin of 90 people of `expressions_pairs` gets lighter and darker with
their expressions, where they show the same place in other light.
"""

import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.classifiers import to_grey

WINDOW = 9  # px; colour is averaged over it, so that no noise is multiplied
DARKEST = 0.08  # luma; below, colour is noise
BEND = 0.5  # luma above which colour no longer grows, and how sharply it stops
SHARPNESS = 8


def in_own_colour(change: Tensor, source: Tensor) -> Tensor:
    """The brightness of a change in the colours that light and shade have on the source.

    Args:
        change: `[B,3,s,s]` in [-1,1].
        source: `[B,3,s,s]` in [0,1], the face it is to be added to; a grey one gets a grey change.

    Returns:
        `[B,3,s,s]` with the luma of `change`.
    """
    half = WINDOW // 2
    colour = F.avg_pool2d(F.pad(source.float(), [half] * 4, mode="reflect"), WINDOW, stride=1)
    before, more = to_grey(colour), to_grey(change)
    return more + (colour - before) * (_colourful(before + more) / _colourful(before) - 1)


def _colourful(luma: Tensor) -> Tensor:
    """How far a colour of this luma is from grey, in any unit."""
    luma = luma.clamp(DARKEST, 1)
    return luma * (luma**SHARPNESS + BEND**SHARPNESS) ** (-1 / SHARPNESS)
