"""What the score network paints, as light and shade on the face that is there.

Recognisers hardly look at colour and people do: a patch of another hue looks like dirt or make-up.
So a change counts by its brightness alone; its colours are those which the face has where it is
that bright. Shadows on skin are redder than the skin in the light, and the curve of a camera or
filter bends colours further: a highlight that was only darkened looks grey.

And no line or spot is painted on smooth skin, where it looks like a second nostril or brow: what is
fine stays below a contrast that grows with the photo's own (contrast masking, as in Chou and Li
1995, https://doi.org/10.1109/76.475889).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import smooth
from map_pipeline.faces.paste import feather_mask

WINDOW = 9  # px; colour is averaged over it, so that no noise is multiplied
LEVELS = 17  # of luma, from 0 to 1, at which a face's colours are read
SPREAD = 0.06  # of luma, over which they are averaged
DARKEST = 0.08  # luma; below, colour is noise
BORROWED = 0.005  # weight of the face's mean hue where few pixels are that bright, share of all

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


def in_own_colour(change: Tensor, source: Tensor) -> Tensor:
    """The brightness of a change in the colours that the source has at that brightness.

    Args:
        change: `[B,3,s,s]` in [-1,1].
        source: `[B,3,s,s]` in [0,1], the face it is to be added to; a grey one gets a grey change.

    Returns:
        `[B,3,s,s]` with the luma of `change`.
    """
    half = WINDOW // 2
    colour = F.avg_pool2d(F.pad(source.float(), [half] * 4, mode="reflect"), WINDOW, stride=1)
    chroma = chroma_by_luma(colour)
    before, more = to_grey(colour), to_grey(change)
    return more + _look_up(chroma, before + more) - _look_up(chroma, before)


def chroma_by_luma(face: Tensor) -> Tensor:
    """What colour a face has at each brightness: `[B,3,LEVELS]`, RGB minus luma.

    Args:
        face: `[B,3,s,s]` in [0,1].
    """
    luma = to_grey(face).flatten(2)  # [B,1,N]
    colours = face.flatten(2) - luma  # [B,3,N]
    levels = torch.linspace(0, 1, LEVELS, device=face.device)
    weight = feather_mask(face.shape[-1], border=0.8).flatten(2).to(face)
    weight = weight / weight.sum()
    near = weight * torch.exp(-((luma - levels[:, None]) / SPREAD).square() / 2)  # [B,K,N]
    # Ratios to luma are averaged, so that a toned grey picture keeps exactly its tone.
    hue = (colours * weight).sum(-1) / (luma * weight).sum(-1).clamp(min=DARKEST)  # [B,3]
    own = torch.einsum("bcn,bkn->bck", colours, near)
    own_luma = torch.einsum("bcn,bkn->bck", luma, near)
    borrowed = BORROWED * levels.clamp(min=DARKEST)
    return (own + hue[..., None] * borrowed) / (own_luma + borrowed) * levels


def _look_up(table: Tensor, luma: Tensor) -> Tensor:
    """Values `[B,3,s,s]` of a table `[B,3,K]` over luma `[B,1,s,s]`, linear between its levels."""
    place = luma.clamp(0, 1) * (LEVELS - 1)
    low = place.detach().floor().clamp(max=LEVELS - 2)
    index = low.long().flatten(1)[:, None].expand(-1, 3, -1)  # [B,3,N]
    first, second = table.gather(2, index), table.gather(2, index + 1)
    return torch.lerp(first, second, (place - low).flatten(2)).view_as(luma.expand(-1, 3, -1, -1))
