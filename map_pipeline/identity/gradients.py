"""Layer-wise projection of two conflicting gradients, against an EMA of each other.

PCGrad (Yu et al. 2020, https://arxiv.org/abs/2001.06782, Alg. 1) removes from a gradient the part
that points against another one. MAP does so per layer, and compares with the exponential moving
average of the other objective's gradient rather than with its value of one step, which is noisy.
With two objectives this is one dot product a layer, so a library for the general case
(TorchJD) would add a dependency and its global-RNG shuffle without saving code.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

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
        return torch._foreach_div(self._sum, 1 - self.decay**self._steps)


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
