"""Weights of 8 bits a number, for networks that aren't trained any more: half the size of fp16."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 127  # of an int8 whose range is the same on both sides of 0
FEWEST = 8192  # numbers of a weight that are worth it; most smaller ones are depthwise


class Int8Weight(nn.Module):
    """A weight as `values / 127 * largest`, where `largest` is the largest number of each output.

    Symmetric quantisation by channel: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342.

    Args:
        shape: of the weight, outputs first.
    """

    values: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(*shape, dtype=torch.int8))
        self.largest = nn.Parameter(torch.zeros(shape[0]))

    def forward(self) -> Tensor:
        """The weight, in the dtype of `largest`."""
        scale = self.largest / LARGEST
        return self.values * scale.view(-1, *[1] * (self.values.dim() - 1))


def value_of(weight: Tensor | nn.Module) -> Tensor:
    """What a layer computes with."""
    return weight if isinstance(weight, Tensor) else weight()


def quantise(
    nodes: Sequence[dict[str, Any]], state: Mapping[str, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The nodes and state dict of a `GraphNetwork` with the weights of all large layers in int8."""
    found, changed = [], dict(state)
    for node in nodes:
        key = f"layers.{node['name']}.weight"
        weight = state.get(key)
        if node["op"] in ("conv", "linear") and weight is not None and weight.numel() >= FEWEST:
            largest = weight.flatten(1).abs().amax(1)
            scale = largest.view(-1, *[1] * (weight.dim() - 1)).clamp(min=1e-12) / LARGEST
            del changed[key]
            changed[f"{key}.values"] = (weight / scale).round().to(torch.int8)
            changed[f"{key}.largest"] = largest
            node = {**node, "int8": True}
        found.append(node)
    return found, changed
