"""Collects the nodes and weights of a converted network and simplifies them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from map_pipeline.graph.executor import Node, Padding, Pair

Array = np.ndarray


def compact(value: Padding | Pair) -> Padding | Pair:
    """One number instead of a list of equal numbers: shorter in config.json."""
    if isinstance(value, int | str):
        return value
    numbers = [int(v) for v in value]
    return numbers[0] if len(set(numbers)) == 1 else numbers


class GraphBuilder:
    """Grows a graph node by node; every method returns the name of the node it added.

    Weights come in PyTorch's layout: conv [O,I/groups,h,w], linear [O,I].
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, dict[str, Array]] = {}
        self.counts: dict[str, int] = {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node without weights."""
        self.counts[op] = self.counts.get(op, 0) + 1
        name = f"{op}_{self.counts[op]}"
        self.nodes.append({"name": name, "op": op, "inputs": list(inputs), **attributes})
        return name

    def conv(
        self,
        x: str,
        weight: Array,
        bias: Array | None = None,
        stride: Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        dilation: Pair = 1,
    ) -> str:
        """Append a convolution."""
        optional = {
            "stride": compact(stride),
            "padding": compact(padding),
            "groups": groups,
            "dilation": compact(dilation),
        }
        defaults = {"stride": 1, "padding": 0, "groups": 1, "dilation": 1}
        name = self.add(
            "conv",
            x,
            channels_in=weight.shape[1] * groups,
            channels_out=weight.shape[0],
            kernel=compact(weight.shape[2:]),
            **{key: value for key, value in optional.items() if value != defaults[key]},
        )
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        self.weights[name] = {"weight": weight, "bias": bias}
        return name

    def linear(self, x: str, weight: Array, bias: Array | None = None) -> str:
        """Append a fully connected layer."""
        name = self.add("linear", x, in_features=weight.shape[1], out_features=weight.shape[0])
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        self.weights[name] = {"weight": weight, "bias": bias}
        return name

    def affine(self, x: str, scale: Array, shift: Array) -> str:
        """Append a scale and shift of each channel; both [C]."""
        name = self.add("affine", x, channels=len(scale))
        self.weights[name] = {"scale": scale, "shift": shift}
        return name

    def prelu(self, x: str, slope: Array) -> str:
        """Append a leaky ReLU with one slope for each channel."""
        name = self.add("prelu", x, num_parameters=slope.size)
        self.weights[name] = {"weight": slope.reshape(-1)}
        return name

    def finish(self) -> tuple[list[Node], dict[str, Tensor]]:
        """The simplified nodes and a float32 state dict for `GraphNetwork`."""
        for node in list(self.nodes):
            previous = self._only_input(node)
            if previous:
                self._merge(previous, node)
        state = {
            f"layers.{name}.{key}": torch.from_numpy(np.array(value, np.float32))
            for name, arrays in self.weights.items()
            for key, value in arrays.items()
        }
        return self.nodes, state

    def _only_input(self, node: Node) -> Node | None:
        """The node that feeds `node`, if it feeds nothing else."""
        if len(node["inputs"]) != 1:
            return None
        users = [other for other in self.nodes if node["inputs"][0] in other["inputs"]]
        found = [other for other in self.nodes if other["name"] == node["inputs"][0]]
        return found[0] if found and len(users) == 1 else None

    def _merge(self, previous: Node, node: Node) -> None:
        """Make one node of two where that changes nothing but rounding."""
        pair = (previous["op"], node["op"])
        if pair == ("pad", "conv") and len(previous["amounts"]) == 4 and "padding" not in node:
            node["padding"], node["inputs"] = compact(previous["amounts"]), previous["inputs"]
            self.nodes.remove(previous)
        elif pair in (("conv", "affine"), ("linear", "affine"), ("affine", "affine")):
            self._fold_affine(previous, self.weights.pop(node["name"]))
            self._remove(node)
        elif pair in (("relu", "clip"), ("clip", "clip")):
            self._fold_clip(previous, node)
            self._remove(node)

    def _remove(self, node: Node) -> None:
        """Drop a node with one input and let its users read that input."""
        self.nodes.remove(node)
        for other in self.nodes:
            other["inputs"] = [
                node["inputs"][0] if name == node["name"] else name for name in other["inputs"]
            ]

    def _fold_affine(self, previous: Node, affine: dict[str, Array]) -> None:
        first, second = ("scale", "shift") if previous["op"] == "affine" else ("weight", "bias")
        target = self.weights[previous["name"]]
        column = (-1,) + (1,) * (target[first].ndim - 1)
        target[first] = target[first] * affine["scale"].reshape(column)
        target[second] = target[second] * affine["scale"] + affine["shift"]

    def _fold_clip(self, previous: Node, clip: Node) -> None:
        """Two limits in a row become one (TensorFlow writes ReLU6 as three)."""
        floor = 0.0 if previous["op"] == "relu" else previous.get("min", -np.inf)
        limits = {
            "min": max(floor, clip.get("min", -np.inf)),
            "max": min(previous.get("max", np.inf), clip.get("max", np.inf)),
        }
        previous.update({"op": "clip"} | {k: v for k, v in limits.items() if np.isfinite(v)})
