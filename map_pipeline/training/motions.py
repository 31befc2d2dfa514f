"""The free motions of `expression.motion`: principal components of real people's expressions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from map_pipeline.errors import MAPError
from map_pipeline.expression.space import straighten
from map_pipeline.faces.landmarks import MIRRORED

# Points that stay: the outline of the head and the nose. People know a face by them.
FIXED = (*range(17), *range(27, 36))
# Points above and below an opening, lips outside and inside, lids; and which share of their motion
# apart is kept. What parted lips show would have to be painted, and wide eyes look scared.
FACING_LIPS = ((49, 59), (50, 58), (51, 57), (52, 56), (53, 55), (61, 67), (62, 66), (63, 65))
FACING_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
APART = {FACING_LIPS: 0.0, FACING_LIDS: 0.5}

People = Mapping[str, Mapping[str, list[Tensor]]]


def measure_motions(people: People, neutral: Tensor, count: int) -> Tensor:
    """The first motions `[count,68,2]`, one standard deviation each, in units of the crop's side.

    A motion leads from a person's neutral face, or the mean of their expressions where that is
    unknown, to the mean of one of their expressions. Both halves of the face move alike.

    Args:
        people: person -> emotion -> landmarks `[68,2]` px.
        neutral: `[68,2]` mean neutral shape, in units of the crop's side.
        count: number of motions, at most 136.

    Raises:
        MAPError: fewer expressions than motions.
    """
    displacements = []
    for emotions in people.values():
        means = {name: _mean_shape(shapes, neutral) for name, shapes in emotions.items()}
        start = means.get("neutral", torch.stack(list(means.values())).mean(0))
        displacements += [shape - start for k, shape in means.items() if k != "neutral"]
    if len(displacements) < count:
        raise MAPError(
            f"`people` must show at least {count} expressions, got {len(displacements)}."
        )
    moved = torch.stack(displacements).double()
    mirror = moved[:, torch.as_tensor(MIRRORED)] * moved.new_tensor([-1, 1])
    moved = (moved + mirror) / 2
    moved[:, list(FIXED)] = 0
    for pairs, share in APART.items():
        upper, lower = (list(points) for points in zip(*pairs, strict=True))
        middle, half = (
            (moved[:, upper] + moved[:, lower]) / 2,
            (moved[:, upper] - moved[:, lower]) / 2,
        )
        moved[:, upper], moved[:, lower] = middle + share * half, middle - share * half
    _, lengths, directions = torch.linalg.svd(moved.flatten(1), full_matrices=False)
    deviations = lengths / len(moved) ** 0.5
    return (directions * deviations[:, None])[:count].view(count, 68, 2).float()


def _mean_shape(shapes: list[Tensor], neutral: Tensor) -> Tensor:
    """Mean `[68,2]` of straightened shapes."""
    return straighten(torch.stack(shapes).float(), neutral)[0].mean(0)
