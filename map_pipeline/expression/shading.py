"""Light and shade in a face's own colours.

A shadow that takes the same share of red, green and blue looks grey on skin, like dirt: light that
enters skin comes back red, so real shadows are redder. In sRGB that is simple: how far a colour is
from grey grows with brightness up to about half of full brightness, and stays the same from there
on. That was seen on people whose skin gets lighter and darker with their expressions: those of
`expressions_pairs.zip` that were set aside for tuning.
"""

from torch import Tensor

from map_pipeline.expression.classifiers import to_grey

DARKEST = 0.08  # luma; below, colour is noise
BEND, SHARPNESS = 0.5, 8  # luma above which colour no longer grows, and how sharply it stops


def in_own_colour(change: Tensor, source: Tensor) -> Tensor:
    """The brightness of a change in the colours that light and shade have on the source.

    Args:
        change: `[B,3,h,w]` in [-1,1].
        source: `[B,3,h,w]` in [0,1], the face it is to be added to; a grey one gets a grey change.

    Returns:
        `[B,3,h,w]` float32 with the luma of `change`.
    """
    source = source.float()
    before, more = to_grey(source), to_grey(change.float())
    return more + (source - before) * (_colourful(before + more) / _colourful(before) - 1)


def _colourful(luma: Tensor) -> Tensor:
    """How far a colour of this luma is from grey, in any unit."""
    luma = luma.clamp(DARKEST, 1)
    return luma * (luma**SHARPNESS + BEND**SHARPNESS) ** (-1 / SHARPNESS)
