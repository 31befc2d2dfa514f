"""Reads TensorFlow.js graph models (model JSON + weight shards) and weight manifests alone.

TensorFlow keeps images as [B,H,W,C] and kernels as [h,w,I,O]; both are turned to PyTorch's order.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from map_pipeline.errors import CheckpointError
from map_pipeline.graph.convert.builder import Array, GraphBuilder
from map_pipeline.graph.executor import Node

SIMPLE = {"Relu": "relu", "Sigmoid": "sigmoid", "Softmax": "softmax"}
SUMS = ("Add", "AddV2", "BiasAdd")
CONVOLUTIONS = (
    "Conv2D",
    "_FusedConv2D",
    "DepthwiseConv2dNative",
    "FusedDepthwiseConv2dNative",
)


def read_weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, Array]:
    """All tensors of a weights manifest; 8-bit and half-precision ones are expanded to float32."""
    weights = {}
    for group in manifest:
        data = b"".join((folder / name).read_bytes() for name in group["paths"])
        at = 0
        for entry in group["weights"]:
            coding = entry.get("quantization", {"dtype": entry["dtype"]})
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, coding["dtype"], count, at)
            at += values.nbytes
            if "scale" in coding:
                values = values.astype(np.float32) * coding["scale"] + coding["min"]
            values = values.astype(entry["dtype"]).reshape(entry["shape"])
            weights[entry["name"]] = values
    return weights


def conv_kernel(kernel: Array) -> Array:
    """[h,w,I,O] -> [O,I,h,w]."""
    return kernel.transpose(3, 2, 0, 1)


def depthwise_kernel(kernel: Array) -> Array:
    """[h,w,C,M] -> [C*M,1,h,w]."""
    return kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])


class TfjsReader:
    """Translates a graph model from its output backwards, so that other heads are left out."""

    def __init__(self, path: Path) -> None:
        document = json.loads(path.read_text())
        self.nodes = {node["name"]: node for node in document["modelTopology"]["node"]}
        self.arrays = read_weights(document["weightsManifest"], path.parent)
        self.graph = GraphBuilder()
        self.names: dict[str, str] = {}

    def read(self, output: str) -> tuple[list[Node], dict[str, Tensor]]:
        """Everything that leads to the node `output`."""
        self.emit(output)
        return self.graph.finish()

    def emit(self, name: str) -> str:
        """The name of our node for TensorFlow's node `name`, added first if it's new."""
        if name not in self.names:
            self.names[name] = self.translate(self.nodes[name])
        return self.names[name]

    def translate(self, node: dict[str, Any]) -> str:
        """Add what one node does; returns the name of the node added."""
        operation, inputs = node["op"], node.get("input", [])
        if operation == "Placeholder":
            return "input"
        if operation == "Identity":
            return self.emit(inputs[0])
        if operation in SIMPLE:
            return self.graph.add(SIMPLE[operation], self.emit(inputs[0]))
        if operation in CONVOLUTIONS:
            return self.convolution(node)
        if operation in ("MatMul", "_FusedMatMul"):
            return self.fully_connected(node)
        if operation in (*SUMS, "Sub", "Mul"):
            return self.arithmetic(node)
        if operation in ("Minimum", "Maximum"):
            return self.limit(node)
        if operation in ("MaxPool", "AvgPool"):
            return self.pool(node)
        if operation == "Pad":
            return self.pad(node)
        if operation == "Prelu":
            return self.graph.prelu(self.emit(inputs[0]), self.arrays[inputs[1]])
        if operation == "Mean":
            return self.graph.add("global_mean", self.emit(inputs[0]))
        if operation == "Reshape" and self.arrays[inputs[1]].size == 2:
            return self.graph.add("flatten", self.emit(inputs[0]), channels_last=True)
        raise CheckpointError(f"`source` must use known TensorFlow operations, got {operation}.")

    def convolution(self, node: dict[str, Any]) -> str:
        """Convolution, with the bias and ReLU that may be fused into it."""
        kernel = self.arrays[node["input"][1]]
        depthwise = "Depthwise" in node["op"]
        strides = numbers(node, "strides")
        padding = {"SAME": "same", "VALID": 0}[text(node, "padding")]
        weight = depthwise_kernel(kernel) if depthwise else conv_kernel(kernel)
        if padding == "same" and weight.shape[2:] == (1, 1):
            padding = 0
        x = self.graph.conv(
            self.emit(node["input"][0]),
            weight,
            stride=strides[1:3],
            padding=padding,
            groups=kernel.shape[2] if depthwise else 1,
            dilation=numbers(node, "dilations")[1:3],
        )
        return self.fused(x, node)

    def fully_connected(self, node: dict[str, Any]) -> str:
        """Matrix product, with the bias and ReLU that may be fused into it."""
        x = self.emit(node["input"][0])
        return self.fused(self.graph.linear(x, self.arrays[node["input"][1]].T), node)

    def fused(self, x: str, node: dict[str, Any]) -> str:
        """Append the operations that TensorFlow fused into a convolution or product."""
        steps = node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])
        arguments = iter(node["input"][2:])
        for step in (base64.b64decode(s).decode() for s in steps):
            if step == "BiasAdd":
                bias = self.arrays[next(arguments)]
                x = self.graph.affine(x, np.ones_like(bias), bias)
            elif step == "Prelu":
                x = self.graph.prelu(x, self.arrays[next(arguments)])
            elif step == "Relu":
                x = self.graph.add("relu", x)
            elif step == "Relu6":
                x = self.graph.add("clip", x, min=0.0, max=6.0)
            else:
                raise CheckpointError(f"`source` must fuse only biases and (P)ReLUs, got {step}.")
        return x

    def arithmetic(self, node: dict[str, Any]) -> str:
        """Sum, difference or product of two tensors, or of a tensor and a constant."""
        operation = "Add" if node["op"] in SUMS else node["op"]
        if operation == "Add" and (leaky := self.leaky_relu(node)):
            return leaky
        first, second = node["input"]
        if first in self.arrays and operation != "Sub":
            first, second = second, first
        x, value = self.emit(first), self.arrays.get(second)
        if value is None:
            return self.graph.add(operation.lower(), x, self.emit(second))
        # A scalar acts on the network's input, the only place where these files have one.
        value = np.repeat(value.reshape(-1), 3) if value.size == 1 else value.reshape(-1)
        if operation == "Mul":
            return self.graph.affine(x, value, np.zeros_like(value))
        return self.graph.affine(x, np.ones_like(value), -value if operation == "Sub" else value)

    def leaky_relu(self, node: dict[str, Any]) -> str | None:
        """PReLU spelled out as max(0, x) + slope * min(0, x); None for any other sum."""
        upper, product = (self.nodes[name] for name in node["input"])
        if (upper["op"], product["op"]) != ("Maximum", "Mul"):
            return None
        slope = next((name for name in product["input"] if name in self.arrays), None)
        lower = next((name for name in product["input"] if name not in self.arrays), None)
        if slope is None or lower is None or self.nodes[lower]["op"] != "Minimum":
            return None
        zeros, values = set(), set()
        for name in [*upper["input"], *self.nodes[lower]["input"]]:
            (zeros if name in self.arrays else values).add(name)
        if len(values) != 1 or any(self.arrays[name].any() for name in zeros):
            return None
        return self.graph.prelu(self.emit(values.pop()), self.arrays[slope])

    def limit(self, node: dict[str, Any]) -> str:
        """Minimum or maximum with a constant number."""
        constants = [n for n in node["input"] if n in self.arrays]
        variables = [n for n in node["input"] if n not in self.arrays]
        if len(constants) != 1 or self.arrays[constants[0]].size != 1:
            raise CheckpointError(f"`source` must limit {node['name']!r} by one constant number.")
        bound = float(self.arrays[constants[0]].reshape(()))
        side = "max" if node["op"] == "Minimum" else "min"
        return self.graph.add("clip", self.emit(variables[0]), **{side: bound})

    def pool(self, node: dict[str, Any]) -> str:
        """Largest value or mean of windows."""
        operation = "max_pool" if node["op"] == "MaxPool" else "average_pool"
        extra = {"padding": "same"} if text(node, "padding") == "SAME" else {}
        kernel, stride = numbers(node, "ksize")[1:3], numbers(node, "strides")[1:3]
        return self.graph.add(
            operation, self.emit(node["input"][0]), kernel=kernel, stride=stride, **extra
        )

    def pad(self, node: dict[str, Any]) -> str:
        """Zero padding of rows, columns and channels."""
        rows, columns, channels = self.arrays[node["input"][1]].tolist()[1:]
        amounts = [*columns, *rows, *channels] if any(channels) else [*columns, *rows]
        return self.graph.add("pad", self.emit(node["input"][0]), amounts=amounts)


def numbers(node: dict[str, Any], key: str) -> list[int]:
    """An integer list attribute; JSON has the integers as text."""
    return [int(value) for value in node["attr"][key]["list"]["i"]]


def text(node: dict[str, Any], key: str) -> str:
    """A text attribute; JSON has it in base64."""
    return base64.b64decode(node["attr"][key]["s"]).decode()


def convert(path: Path, output: str) -> tuple[list[Node], dict[str, Tensor]]:
    """Nodes and float32 state dict of the part of a graph model that leads to `output`."""
    return TfjsReader(path).read(output)


def convert_face_api_expression(manifest: Path) -> tuple[list[Node], dict[str, Tensor]]:
    """face-api's expression network, whose files hold weights but no graph.

    Four densely connected blocks of four convolutions (all but the very first depthwise separable);
    each block halves the image and every convolution sees the sum of the earlier outputs.
    """
    weights = read_weights(json.loads(manifest.read_text()), manifest.parent)
    graph = GraphBuilder()

    def separable(x: str, name: str, stride: int) -> str:
        depthwise = depthwise_kernel(weights[f"{name}/depthwise_filter"])
        x = graph.conv(x, depthwise, stride=stride, padding="same", groups=len(depthwise))
        pointwise = conv_kernel(weights[f"{name}/pointwise_filter"])
        return graph.conv(x, pointwise, weights[f"{name}/bias"])

    x = "input"
    for block in range(4):
        name = f"dense{block}/conv0"
        if block == 0:
            kernel = conv_kernel(weights[f"{name}/filters"])
            x = graph.conv(x, kernel, weights[f"{name}/bias"], stride=2, padding="same")
        else:
            x = separable(x, name, 2)
        total = x = graph.add("relu", x)
        for step in (1, 2, 3):
            total = graph.add("add", total, separable(x, f"dense{block}/conv{step}", 1))
            x = graph.add("relu", total)
    x = graph.add("global_mean", x)
    graph.linear(x, weights["fc/weights"].T, weights["fc/bias"])
    return graph.finish()
