"""One small executor for every third-party network of the package.

The recognisers and expression networks come from dlib, ONNX and TensorFlow.js files. Each of them
is described by a list of plain dictionaries ("nodes"), which a `config.json` can hold, so that no
architecture has to be written by hand and every network stays an ordinary differentiable module.

A node has a `name`, an `op`, its `inputs` (names of earlier nodes, or "input") and the attributes
of its operation. The last node is the output. Tensors are [B,C,H,W] or, after `flatten` and
`global_mean`, [B,D].
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from map_pipeline.errors import CheckpointError
from map_pipeline.graph.int8 import Int8Weight, value_of

Node = dict[str, Any]
# One number for both axes, or (height, width).
Pair = int | Sequence[int]
# Pixels on every side, (left, right, top, bottom), or "same": TensorFlow's rule, where the output
# has ceil(size / stride) pixels and an odd pixel of padding goes to the right and the bottom.
Padding = int | Sequence[int] | str


def as_pair(value: Pair) -> tuple[int, int]:
    """(height, width) of a value that may be one number."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding (before, after) of one axis with `size` pixels."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_image(
    x: Tensor, padding: Padding, kernel: Pair, stride: Pair, value: float = 0.0
) -> Tensor:
    """Pad [B,C,H,W] as `padding` asks for a window of `kernel` and `stride`."""
    if padding == "same":
        (kernel_h, kernel_w), (stride_h, stride_w) = as_pair(kernel), as_pair(stride)
        top, bottom = same_padding(x.shape[-2], kernel_h, stride_h)
        left, right = same_padding(x.shape[-1], kernel_w, stride_w)
        amounts = [left, right, top, bottom]
    else:
        amounts = [padding] * 4 if isinstance(padding, int) else list(padding)
    return F.pad(x, amounts, value=value) if any(amounts) else x


class Conv(nn.Module):
    """Convolution (also grouped or depthwise) with asymmetric or "same" zero padding."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        int8: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = as_pair(kernel), as_pair(stride), padding
        self.groups, self.dilation = groups, dilation
        shape = (channels_out, channels_in // groups, *self.kernel)
        self.weight = Int8Weight(shape) if int8 else nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        if not int8:
            nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B,I,H,W] -> [B,O,h,w]."""
        reach = [(side - 1) * self.dilation + 1 for side in self.kernel]
        x = pad_image(x, self.padding, reach, self.stride)
        weight = value_of(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Linear(nn.Linear):
    """A fully connected layer."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, int8: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias)
        if int8:
            del self.weight
            self.weight = Int8Weight((out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        """[B,I] -> [B,O]."""
        return F.linear(x, value_of(self.weight), self.bias)


class Affine(nn.Module):
    """`x * scale + shift` for each channel: a batch norm in inference."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Any [B,C,...] -> the same shape."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * self.scale.view(shape) + self.shift.view(shape)


def max_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Padding = 0) -> Tensor:
    """Largest value of each window; padding never wins."""
    x = pad_image(x, padding, kernel, stride, value=float("-inf"))
    return F.max_pool2d(x, as_pair(kernel), as_pair(stride))


def average_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Padding = 0) -> Tensor:
    """Mean of the pixels that each window really covers (padding isn't counted)."""
    if padding == 0:
        return F.avg_pool2d(x, as_pair(kernel), as_pair(stride))
    total = F.avg_pool2d(pad_image(x, padding, kernel, stride), as_pair(kernel), as_pair(stride))
    covered = pad_image(torch.ones_like(x[:1, :1]), padding, kernel, stride)
    return total / F.avg_pool2d(covered, as_pair(kernel), as_pair(stride))


def flatten(x: Tensor, channels_last: bool = False) -> Tensor:
    """[B,...] -> [B,D]; `channels_last` keeps TensorFlow's order of the values."""
    return (x.permute(0, 2, 3, 1) if channels_last else x).flatten(1)


def pad(x: Tensor, amounts: Sequence[int]) -> Tensor:
    """Append zeros; `amounts` as in `F.pad`: (left, right, top, bottom[, front, back])."""
    return F.pad(x, list(amounts))


LAYERS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "linear": Linear,
    "affine": Affine,
    "prelu": nn.PReLU,
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "clip": torch.clamp,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "concat": lambda *parts: torch.cat(parts, 1),
    "max_pool": max_pool,
    "average_pool": average_pool,
    "global_mean": lambda x: x.mean((2, 3)),
    "flatten": flatten,
    "pad": pad,
}


def attributes(node: Node) -> dict[str, Any]:
    """The arguments of a node's operation."""
    return {key: value for key, value in node.items() if key not in ("name", "op", "inputs")}


class GraphNetwork(nn.Module):
    """Runs a list of nodes in order.

    Args:
        nodes: the graph, sorted so that every node comes after its inputs. Weights are parameters
            `layers.<node name>.weight` and so on; with `"int8": true` in a convolution or linear
            layer, the weight is an `Int8Weight`.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__()
        check_nodes(nodes)
        self.nodes = [dict(node) for node in nodes]
        self.layers = nn.ModuleDict(
            {n["name"]: LAYERS[n["op"]](**attributes(n)) for n in self.nodes if n["op"] in LAYERS}
        )
        self.last_use = {name: n["name"] for n in self.nodes for name in n["inputs"]}

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W], normalised as the network expects -> the value of the last node."""
        values = {"input": x}
        for node in self.nodes:
            arguments = [values[name] for name in node["inputs"]]
            if node["op"] in LAYERS:
                output = self.layers[node["name"]](*arguments)
            else:
                output = FUNCTIONS[node["op"]](*arguments, **attributes(node))
            for name in set(node["inputs"]):
                if self.last_use[name] == node["name"]:
                    del values[name]
            values[node["name"]] = output
        return output


def check_nodes(nodes: Sequence[Node]) -> None:
    """Raise `CheckpointError` for an empty graph, an unknown operation or an unknown input."""
    if not nodes:
        raise CheckpointError("`nodes` must hold at least one node, got none.")
    known = {"input"}
    for node in nodes:
        if node["op"] not in LAYERS and node["op"] not in FUNCTIONS:
            options = ", ".join(sorted([*LAYERS, *FUNCTIONS]))
            raise CheckpointError(f"`op` must be one of {options}, got {node['op']!r}.")
        for name in node["inputs"]:
            if name not in known:
                raise CheckpointError(
                    f"`inputs` of node {node['name']!r} must name earlier nodes, got {name!r}."
                )
        if node["name"] in known:
            raise CheckpointError(f"`name` must be unique in `nodes`, got {node['name']!r} twice.")
        known.add(node["name"])
