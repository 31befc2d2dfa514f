"""What faces do when they show an expression: few axes of motion and shading, learned from people.

A face's shape is its 68 landmarks and the 468 points of its mesh. How the shapes of one person
differ from photo to photo spans a space of few dimensions; a point of it, K numbers, is an
expression. Each axis says where every point goes and where skin gets lighter or darker (folds,
cheeks), so that an emotion, a single action unit, or the expression of another photo are the same
kind of thing. See `training.expression_space`.
"""

import copy

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.faces.align import apply_affine, similarity_transform
from map_pipeline.faces.mesh import MESH_POINTS

# Bridge of the nose, nostrils and eyes: what an expression moves least.
STABLE = (*range(27, 36), *range(36, 48))
SHAPE_POINTS = POINTS + MESH_POINTS
# How much of a motion that landmarks ask for must be likely: variance of their error over that of
# one axis, see `complete`.
RIDGE = 0.05
# A photo whose expression is copied was chosen for it; see `ExpressionSpace.present`.
CHOSEN = 5.0


class ExpressionSpace(ModelMixin, ConfigMixin):
    """Axes of expression, and where emotions lie among them.

    Coordinates are those of the upright frame, in units of the crop's side; one unit of an axis is
    a standard deviation of what people do.

    Args:
        axis_count: K.
        motion_count: number of free motions of `expression.motion`.
        shading_side: side of the shading maps, px.
        control_count: M, number of points that move the skin.

    Buffers:
        mean: `[536,2]` mean neutral shape, landmarks first.
        reading: `[K,1072]` from a difference of two shapes of one person to axes.
        moving: `[K,536,2]` what one unit moves.
        shading: `[K,S,S]` change of the logarithm of the linear brightness, for the mean shape; the
            map covers the unit square.
        estimator: `[K,K]` from the axes of a shape's difference to the mean shape, to the part of
            them that is expression and not the person.
        emotions: `[7,K]` in the order of `EMOTIONS`.
        controls: `[M]` which points of the shape move the skin; all landmarks come first.
        motions: `[N,68,2]` principal components of expressions for `expression.motion`.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        axis_count: int = 1,
        motion_count: int = 0,
        shading_side: int = 8,
        control_count: int = POINTS,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(SHAPE_POINTS, 2))
        self.register_buffer("reading", torch.zeros(axis_count, 2 * SHAPE_POINTS))
        self.register_buffer("moving", torch.zeros(axis_count, SHAPE_POINTS, 2))
        self.register_buffer("shading", torch.zeros(axis_count, shading_side, shading_side))
        self.register_buffer("estimator", torch.zeros(axis_count, axis_count))
        self.register_buffer("emotions", torch.zeros(len(EMOTIONS), axis_count))
        self.register_buffer("controls", torch.arange(control_count))
        self.register_buffer("motions", torch.zeros(motion_count, POINTS, 2))

    @property
    def neutral(self) -> Tensor:
        """`[68,2]` landmarks of the mean neutral face."""
        return self.mean[:POINTS]

    def read(self, difference: Tensor) -> Tensor:
        """Axes `[K]` of a difference `[536,2]` of two shapes of one person."""
        return self.reading @ difference.flatten()

    def present(self, shape: Tensor, expressive: float = 1.0) -> Tensor:
        """Axes `[K]` of the expression that a shape `[536,2]` shows, as far as it can be read.

        Args:
            expressive: variance of the expression that is expected, over that in everyday photos.
        """
        seen = self.read(shape - self.mean)
        if expressive == 1:
            return self.estimator @ seen
        # With E (E + I)^-1 as the estimator, this is E (E + I / expressive)^-1.
        rest = (torch.eye(len(seen)).to(seen) - self.estimator) / expressive
        return self.estimator @ torch.linalg.solve(self.estimator + rest, seen)

    def towards(self, shape: Tensor, emotion: int, strength: float) -> Tensor:
        """Axes `[K]` to go from the expression of a shape `[536,2]` to another.

        Args:
            emotion: index in `EMOTIONS`.
            strength: 0 for the present expression, 1 for what people do; more exaggerates.
        """
        present, asked = self.present(shape), self.emotions[emotion]
        # Who already laughs more than asked shall not laugh less.
        power = asked.square().sum()
        share = (present * asked).sum() / power if power > 0 else power
        return strength * (asked * share.clamp(min=1) - present)

    def copied(self, shape: Tensor, other: Tensor, same_person: bool) -> Tensor:
        """Axes `[K]` from a shape `[536,2]` to the expression of another.

        Of one person, all that differs is expression; of two, only what can be read as such.
        """
        if same_person:
            return self.read(other - shape)
        return self.present(other, CHOSEN) - self.present(shape)

    def move(self, axes: Tensor) -> Tensor:
        """Displacement `[536,2]` of axes `[K]`."""
        return torch.einsum("k,kpc->pc", axes, self.moving)

    def shade(self, axes: Tensor) -> Tensor:
        """Shading `[1,1,S,S]` of axes `[K]`."""
        return torch.einsum("k,kyx->yx", axes, self.shading)[None, None]

    def complete(self, displacement: Tensor) -> Tensor:
        """Axes `[K]` whose motion comes nearest to a displacement `[68,2]` of the landmarks."""
        moving = self.moving[:, :POINTS].flatten(1)  # [K,136]
        products = moving @ moving.T
        ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products)).to(products)
        return torch.linalg.solve(products + ridge, moving @ displacement.flatten())


def on_cpu(space: ExpressionSpace | None) -> ExpressionSpace | None:
    """The space in float32 on the CPU, where shapes are; itself if it's there, else a copy."""
    if space is None or (space.mean.device.type, space.mean.dtype) == ("cpu", torch.float32):
        return space
    return copy.deepcopy(space).cpu().float()


def straighten(shapes: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes `[N,P,2]` brought to a reference's place by nose and eyes, and the affines `[N,2,3]`.

    The first 68 points are the landmarks.
    """
    stable = list(STABLE)
    affine = similarity_transform(shapes[:, stable], reference[stable])
    return apply_affine(affine, shapes), affine
