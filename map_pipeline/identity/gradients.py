"""The gradients of the objectives, and their layer-wise projection against an EMA of each other.

PCGrad (Yu et al. 2020, https://arxiv.org/abs/2001.06782, Alg. 1) removes from a gradient the part
that points against another one. MAP does so per layer, and compares with the exponential moving
average of the other objective's gradient rather than with its value of one step, which is noisy.
With two objectives this is one dot product a layer, so a library for the general case
(TorchJD) would add a dependency and its global-RNG shuffle without saving code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from map_pipeline.config import MAPConfig
from map_pipeline.errors import NotFiniteError
from map_pipeline.identity.objectives import Objective, Side, active

Gradient = list[Tensor]  # one tensor per trained parameter


@dataclass
class GradientEMA:
    """De-biased exponential moving average of one objective's gradient.

    Attributes:
        decay: share of the old average kept at each step, in [0,1); 0 switches the EMA off.
    """

    decay: float
    _sum: Gradient = field(default_factory=list)
    _steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {self.decay}.")

    def update(self, gradient: Gradient) -> Gradient:
        """Take in one gradient and return the average so far."""
        if not self._sum:
            self._sum = [torch.zeros_like(g) for g in gradient]
        torch._foreach_mul_(self._sum, self.decay)
        torch._foreach_add_(self._sum, gradient, alpha=1 - self.decay)
        self._steps += 1
        return list(torch._foreach_div(self._sum, 1 - self.decay**self._steps))


def dot_per_layer(first: Gradient, second: Gradient, layers: list[int]) -> Tensor:
    """Inner product per layer, `[layers]`; `layers[i]` is the layer of the i-th parameter."""
    products = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)])
    index = torch.tensor(layers, device=products.device)
    return products.new_zeros(max(layers) + 1).index_add_(0, index, products)


def project_out(
    gradient: Gradient, reference: Gradient, layers: list[int]
) -> tuple[Gradient, float]:
    """Remove from `gradient` what opposes `reference`, in each layer where they conflict.

    Returns:
        the projected gradient, whose inner product with `reference` is >= 0 in every layer, and
        the share of layers in conflict, in [0,1].
    """
    inner = dot_per_layer(gradient, reference, layers)
    square = dot_per_layer(reference, reference, layers)
    # Where the reference vanishes there is nothing to oppose.
    factor = torch.where(square > 0, inner.clamp(max=0) / square.clamp(min=1e-30), 0)
    projected = [
        g - factor[layer] * r for g, r, layer in zip(gradient, reference, layers, strict=True)
    ]
    return projected, (inner < 0).float().mean().item()


def norm(gradient: Gradient) -> Tensor:
    """Euclidean length over all parameters, a scalar."""
    return torch.stack(torch._foreach_norm(gradient)).square().sum().sqrt()


def side_gradients(
    objectives: Sequence[Objective], values: dict[str, Tensor], parameters: list[nn.Parameter]
) -> dict[Side, Gradient | None]:
    """Gradient of each side. Without an expression side there is no conflict to solve, and one
    pass gives the sum of all the rest (as "identity").
    """
    sides: tuple[Side, ...] = ("identity", "expression", "prior")
    if active(objectives, "expression"):
        return {s: objective_gradient(active(objectives, s), values, parameters) for s in sides}
    weighted = [o for o in objectives if o.weight > 0]
    gradient = objective_gradient(weighted, values, parameters)
    return {"identity": gradient, "expression": None, "prior": None}


def objective_gradient(
    objectives: Sequence[Objective], values: dict[str, Tensor], parameters: list[nn.Parameter]
) -> Gradient | None:
    """Gradient of the weighted sum of one side's losses; None if the side is switched off."""
    if not objectives:
        return None
    total = torch.stack([o.weight * values[o.name] for o in objectives]).sum()
    gradient = list(
        torch.autograd.grad(
            total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
    if not torch.isfinite(norm(gradient)):
        raise NotFiniteError(
            f"`objectives` must have finite gradients, got others from "
            f"{', '.join(o.name for o in objectives)}; try a lower `learning_rate` or fp32."
        )
    return gradient


class GradientCombiner:
    """Joins the gradients of the two objectives and the prior terms into one update direction.

    The expression gradient is shortened to at most `max_expression_grad_ratio` times the identity
    gradient's length, so that it neither drowns identity at first nor is blown up once its loss is
    solved.
    """

    def __init__(self, config: MAPConfig, layers: list[int]) -> None:
        self._config = config
        self._layers = layers
        self._ema: dict[Side, GradientEMA] = {
            "identity": GradientEMA(config.ema_decay),
            "expression": GradientEMA(config.ema_decay),
        }

    def __call__(self, gradients: dict[Side, Gradient | None]) -> tuple[Gradient, float]:
        """Return the direction and the share of layers in conflict; a missing side is None."""
        identity, expression, prior = (
            gradients[side] for side in ("identity", "expression", "prior")
        )
        conflict = 0.0
        if identity is not None and expression is not None:
            limit = self._config.max_expression_grad_ratio * norm(identity)
            scale = (limit / norm(expression).clamp(min=1e-12)).clamp(max=1)
            expression = list(torch._foreach_mul(expression, scale))
            *projected, conflict = self._project(identity, expression)  # reported in any case
            if self._config.projection:
                identity, expression = projected
        present = [g for g in (identity, expression, prior) if g is not None]
        if not present:
            raise ValueError(
                "`objectives` must hold at least one with a positive weight, got none."
            )
        return [torch.stack(parts).sum(0) for parts in zip(*present, strict=True)], conflict

    def _project(
        self, identity: Gradient, expression: Gradient
    ) -> tuple[Gradient, Gradient, float]:
        mean_identity = self._ema["identity"].update(identity)
        mean_expression = self._ema["expression"].update(expression)
        identity, conflict = project_out(identity, mean_expression, self._layers)
        expression, _ = project_out(expression, mean_identity, self._layers)
        return identity, expression, conflict
