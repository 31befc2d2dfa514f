"""A change of brightness in the photo's own colours.

Recognisers hardly look at colour and people do: a patch of another hue looks like dirt or make-up.
So what the score network paints counts by its brightness alone.
"""

import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.classifiers import to_grey

WINDOW = 9  # px; colour is averaged over it, so that no noise is multiplied
DARKEST = 0.08  # luma; below, colour is noise


def in_own_colour(change: Tensor, source: Tensor) -> Tensor:
    """The brightness of a change with hue and saturation of the source.

    Args:
        change: `[B,3,s,s]` in [-1,1].
        source: `[B,3,s,s]` in [0,1], what it is to be added to; a grey one gets a grey change.

    Returns:
        `[B,3,s,s]`.
    """
    half = WINDOW // 2
    colour = F.avg_pool2d(F.pad(source.float(), [half] * 4, mode="reflect"), WINDOW, stride=1)
    return to_grey(change) * colour / to_grey(colour).clamp(min=DARKEST)
