"""What the score network paints, as light and shade on the face that is there.

Recognisers hardly look at colour and people do: a patch of another hue looks like dirt or make-up.
So a change counts by its brightness alone; its colours are the face's own (`expression.shading`).

And no line or spot is painted on smooth skin, where it looks like a second nostril or brow: what is
fine stays below a contrast that grows with the photo's own (contrast masking, as in Chou and Li
1995, https://doi.org/10.1109/76.475889).
"""

import torch
from torch import Tensor

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import smooth
from map_pipeline.expression.shading import in_own_colour

FINE = 1 / 32  # of the side, 4 px of 128: what a Gaussian of this deviation leaves out is fine
NEAR = 1 / 64  # of the side: deviation of the window that the photo's contrast is measured in
# Most luma of a broad change, of a fine one on smooth skin, and on skin of any contrast; and what a
# standard deviation of the photo's luma adds to it.
MOST_BROAD, MOST_FINE, MOST_HIDDEN, HIDDEN = 0.04, 0.03, 0.08, 0.8
HIDING = 0.03  # standard deviation of the photo's luma that hides half of a line


def as_shading(change: Tensor, source: Tensor) -> Tensor:
    """What may be seen of a change `[B,3,s,s]` in [-1,1], to be added to `source` in [0,1]."""
    return in_own_colour(within_contrast(change, source), source)


def within_contrast(change: Tensor, source: Tensor) -> Tensor:
    """The brightness of a change, limited by what the source hides; `[B,3,s,s]`, grey.

    Args:
        change: `[B,3,s,s]` in [-1,1].
        source: `[B,3,s,s]` in [0,1], what it is to be added to.
    """
    side = source.shape[-1]
    brightness, luma = to_grey(change.float().clamp(-1, 1)), to_grey(source.float())
    broad = smooth(brightness, FINE * side)
    most = (MOST_FINE + HIDDEN * contrast(luma)).clamp(max=MOST_HIDDEN)
    limited = MOST_BROAD * torch.tanh(broad / MOST_BROAD)
    return (limited + most * torch.tanh((brightness - broad) / most)).expand(-1, 3, -1, -1)


def contrast(luma: Tensor) -> Tensor:
    """Standard deviation of luma `[B,1,s,s]` near each place, of the same shape."""
    reach = NEAR * luma.shape[-1]
    mean = smooth(luma, reach)
    return (smooth(luma.square(), reach) - mean.square()).clamp(min=1e-8).sqrt()


def visible(source: Tensor) -> Tensor:
    """How plainly a line is seen on a face `[B,3,s,s]` in [0,1]: `[B,1,s,s]`, 1 on smooth skin."""
    return HIDING / (HIDING + contrast(to_grey(source.detach().float())))
