"""Where emotions move the 68 landmarks of a face, adapted to what the face shows already."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.faces.align import apply_affine, invert_affine, similarity_transform

# Bridge of the nose, nostrils and eyes: what an expression moves least.
STABLE = (*range(27, 36), *range(36, 48))
# Points of the upper and of the lower lip; facing pairs of the inner lips.
UPPER_LIP = (49, 50, 51, 52, 53, 61, 62, 63)
LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)
INNER_UPPER, INNER_LOWER = (61, 62, 63), (67, 66, 65)
JAW_MOBILITY = 0.7  # all of it would drag neck and collar along and make nothing clearer
# How much of its measured displacement an emotion shows at full strength, by a classifier's answers
# and by eye. A smile is clear early; a surprised mouth must open wide to differ from a scared one.
INTENSITY = {
    "angry": 0.85,
    "disgust": 0.65,
    "fear": 0.8,
    "happy": 0.75,
    "neutral": 1.0,
    "sad": 0.9,
    "surprise": 1.3,
}
# What the landmark network sees between closed lips, as a share of the side.
CLOSED_GAP = 0.006


class ExpressionShapes(ModelMixin, ConfigMixin):
    """Where emotions move the landmarks of a face; see `training.expression_shapes`.

    Args:
        motion_count: K, number of free motions.

    Buffers:
        neutral: `[68,2]` mean neutral shape, in units of the crop's side.
        displacements: `[7,68,2]` from neutral to each emotion, in units of the side.
        estimator: `[136,136]` maps a straightened shape's deviation from `neutral` to the part of
            it that is the present expression.
        motions: `[K,68,2]` principal components of real people's expressions, one standard
            deviation each, in units of the side; see `expression.motion`.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    config_name = "config.json"

    @register_to_config
    def __init__(self, motion_count: int = 0) -> None:
        super().__init__()
        self.register_buffer("neutral", torch.zeros(POINTS, 2))
        self.register_buffer("displacements", torch.zeros(len(EMOTIONS), POINTS, 2))
        self.register_buffer("estimator", torch.zeros(2 * POINTS, 2 * POINTS))
        self.register_buffer("motions", torch.zeros(motion_count, POINTS, 2))

    def present(self, shape: Tensor) -> Tensor:
        """Estimated displacement `[68,2]` of a face's own present expression, units of the side.

        Args:
            shape: `[68,2]` straightened, see `straighten`.
        """
        return (self.estimator @ (shape - self.neutral).flatten()).view(POINTS, 2)

    def target(self, landmarks68: Tensor, emotion: int, strength: float) -> Tensor:
        """Landmarks `[68,2]` of the same face with another expression, units of the crop's side.

        Args:
            landmarks68: `[68,2]`, units of the crop's side.
            emotion: index in `EMOTIONS`.
            strength: 0 for the present expression to 1 for the full asked one; more exaggerates.
        """
        shape, to_frame = straighten(landmarks68[None], self.neutral)
        present = self.present(shape[0])
        asked = INTENSITY[EMOTIONS[emotion]] * self.displacements[emotion]
        # Who already laughs more than asked shall not laugh less.
        power = asked.square().sum()
        share = (present * asked).sum() / power if power > 0 else power
        change = (asked * share.clamp(min=1) - present) * mobility()
        kept = share.clamp(0, 1)
        moved = _part_lips(shape[0], shape[0] + strength * change, asked, strength, kept)
        return apply_affine(invert_affine(to_frame[0]), moved)


def straighten(shapes: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes `[N,68,2]` brought to the reference's place by nose and eyes, and the affines."""
    stable = list(STABLE)
    affine = similarity_transform(shapes[:, stable], reference[stable])
    return apply_affine(affine, shapes), affine


def mobility() -> Tensor:
    """`[68,1]` in [0,1]: share of its measured motion that a point makes.

    0 where only the head's pose moves it.
    """
    weights = torch.ones(POINTS, 1)
    weights[[0, 1, 2, 14, 15, 16, 27, 28]] = 0
    weights[[3, 13, 29, 30]] = 0.5
    weights[4:13] = JAW_MOBILITY
    return weights


def lip_gap(shape: Tensor) -> Tensor:
    """Mean distance of the inner lips of `[68,2]`, in its unit; negative where they cross."""
    return (shape[list(INNER_LOWER), 1] - shape[list(INNER_UPPER), 1]).mean()


def _part_lips(
    before: Tensor, after: Tensor, asked: Tensor, strength: float, kept: Tensor
) -> Tensor:
    """Correct the gap between the lips: what estimates leave open would show as a row of teeth.

    Args:
        kept: share of the asked expression that the face shows already, in [0,1]: so far its mouth
            may stay open wider than asked. Who laughs shall not have to smile with narrow lips.
    """
    own = lip_gap(before)
    wanted = own.clamp(max=CLOSED_GAP) + lip_gap(asked).clamp(min=0)
    wanted = wanted + kept * (own - wanted).clamp(min=0)
    excess = lip_gap(after) - ((1 - strength) * own + strength * wanted).clamp(min=0)
    result = after.clone()
    result[list(UPPER_LIP), 1] += excess / 2
    result[list(LOWER_LIP), 1] -= excess / 2
    return result
