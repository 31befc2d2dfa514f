"""Reads ONNX files made of convolutional layers.

Needs the `onnx` package, which insightface brings along.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from torch import Tensor

from map_pipeline.errors import CheckpointError
from map_pipeline.graph.convert.builder import Array, GraphBuilder
from map_pipeline.graph.executor import Node, Padding

SIMPLE = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "GlobalAveragePool": "global_mean",
    "Flatten": "flatten",
}
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul"}
WINDOWS = {"MaxPool": "max_pool", "AveragePool": "average_pool"}


class OnnxReader:
    """Translates one ONNX graph; `names` maps ONNX values to nodes, `arrays` holds constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = GraphBuilder()
        self.arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        inputs = [i.name for i in model.graph.input if i.name not in self.arrays]
        self.names = {inputs[0]: "input"}

    def read(self, skip_softmax: bool = False) -> tuple[list[Node], dict[str, Tensor]]:
        """All nodes in order; `skip_softmax` leaves the logits as output."""
        for node in self.model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.arrays[node.output[0]] = numpy_helper.to_array(attributes["value"])
            elif node.op_type in ("Identity", "Dropout") or (
                node.op_type == "Softmax" and skip_softmax
            ):
                self.names[node.output[0]] = self.names[node.input[0]]
            else:
                self.names[node.output[0]] = self.translate(node, attributes)
        return self.graph.finish()

    def array(self, node: onnx.NodeProto, index: int) -> Array | None:
        """The constant behind an input, or None where the input is absent."""
        if index >= len(node.input) or not node.input[index]:
            return None
        return self.arrays[node.input[index]]

    def translate(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Add what one ONNX node does; returns the name of the node added."""
        constants = [i for i, name in enumerate(node.input) if name in self.arrays]
        x = next((self.names[name] for name in node.input if name in self.names), "")
        operation = node.op_type
        if operation in SIMPLE:
            return self.graph.add(SIMPLE[operation], x)
        if operation in BINARY and not constants:
            return self.graph.add(BINARY[operation], *(self.names[i] for i in node.input))
        if operation in BINARY and (constants == [1] or operation != "Sub"):
            return self.constant_binary(operation, x, self.arrays[node.input[constants[0]]])
        if operation in WINDOWS:
            return self.window(WINDOWS[operation], x, attributes)
        method = getattr(self, f"on_{operation.lower()}", None)
        if method is None:
            raise CheckpointError(f"`source` must use known ONNX operations, got {operation}.")
        return method(x, node, attributes)

    def constant_binary(self, operation: str, x: str, value: Array) -> str:
        """Addition, subtraction or product with a constant, which becomes an affine."""
        value = value.reshape(-1)
        if operation == "Mul":
            return self.graph.affine(x, value, np.zeros_like(value))
        return self.graph.affine(x, np.ones_like(value), -value if operation == "Sub" else value)

    def window(self, operation: str, x: str, attributes: dict[str, Any]) -> str:
        """A pooling layer."""
        padding = image_padding(attributes.get("pads"))
        if attributes.get("ceil_mode") or (attributes.get("count_include_pad") and padding):
            raise CheckpointError("`source` must pool without ceil_mode and counted padding.")
        extra = {"padding": padding} if padding else {}
        kernel = list(attributes["kernel_shape"])
        stride = list(attributes.get("strides", [1, 1]))
        return self.graph.add(operation, x, kernel=kernel, stride=stride, **extra)

    def on_conv(self, x: str, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Convolution, also grouped."""
        return self.graph.conv(
            x,
            self.array(node, 1),
            self.array(node, 2),
            attributes.get("strides", [1, 1]),
            image_padding(attributes.get("pads")),
            attributes.get("group", 1),
            attributes.get("dilations", [1, 1]),
        )

    def on_gemm(self, x: str, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Fully connected layer."""
        weight = self.array(node, 1) * attributes.get("alpha", 1.0)
        return self.graph.linear(
            x, weight if attributes.get("transB") else weight.T, self.array(node, 2)
        )

    def on_matmul(self, x: str, node: onnx.NodeProto, _attributes: dict[str, Any]) -> str:
        """Fully connected layer without bias."""
        return self.graph.linear(x, self.array(node, 1).T)

    def on_prelu(self, x: str, node: onnx.NodeProto, _attributes: dict[str, Any]) -> str:
        """Leaky ReLU with learned slopes."""
        return self.graph.prelu(x, self.array(node, 1))

    def on_batchnormalization(
        self, x: str, node: onnx.NodeProto, attributes: dict[str, Any]
    ) -> str:
        """Batch norm in inference: an affine."""
        gain, bias, mean, variance = (self.array(node, i) for i in range(1, 5))
        scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        return self.graph.affine(x, scale, bias - mean * scale)

    def on_clip(self, x: str, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Limits, which are attributes in old files and inputs in newer ones."""
        limits = {}
        for index, name in enumerate(("min", "max"), 1):
            limit = self.array(node, index)
            limit = attributes.get(name) if limit is None else limit
            if limit is not None:
                limits[name] = float(limit)
        return self.graph.add("clip", x, **limits)

    def on_concat(self, _x: str, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Concatenation of channels."""
        if attributes["axis"] != 1:
            raise CheckpointError(
                f"`source` must concatenate along axis 1, got {attributes['axis']}."
            )
        return self.graph.add("concat", *(self.names[i] for i in node.input))

    def on_reshape(self, x: str, node: onnx.NodeProto, _attributes: dict[str, Any]) -> str:
        """Only a reshape to [B,D] is known, which is `flatten`."""
        shape = self.array(node, 1)
        if len(shape) != 2:
            raise CheckpointError(f"`source` must reshape to two axes, got {shape.tolist()}.")
        return self.graph.add("flatten", x)

    def on_pad(self, x: str, node: onnx.NodeProto, attributes: dict[str, Any]) -> str:
        """Zero padding of rows and columns."""
        pads = attributes.get("pads")
        pads = list(self.array(node, 1) if pads is None else pads)
        top, left, bottom, right = (int(pads[i]) for i in (2, 3, 6, 7))
        if not any(pads):
            return x
        return self.graph.add("pad", x, amounts=[left, right, top, bottom])


def image_padding(pads: list[int] | None) -> Padding:
    """ONNX order (top, left, bottom, right) -> (left, right, top, bottom), or one number."""
    if not pads or not any(pads):
        return 0
    top, left, bottom, right = pads
    return [left, right, top, bottom]


def convert(path: Path, skip_softmax: bool = False) -> tuple[list[Node], dict[str, Tensor]]:
    """Nodes and float32 state dict of an ONNX file."""
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"`path` must be an ONNX file, got {path} ({error}).") from error
    return OnnxReader(model).read(skip_softmax)
