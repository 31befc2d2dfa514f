"""Reads dlib's face recognition network (`dlib_face_recognition_resnet_model_v1.dat`).

The file is dlib's own serialisation. Layers stand in the order in which they run, each introduced
by its type name; weights are raw little-endian float32 behind a small header, so it's enough to
walk from one name to the next, jumping over the weights. dlib itself isn't needed.
"""

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from map_pipeline.errors import CheckpointError
from map_pipeline.graph.convert.builder import Array, GraphBuilder
from map_pipeline.graph.executor import Node

# A one-byte integer "length of the name" (0x01, length) and the name.
LAYER_NAME = re.compile(rb"\x01\x05con_4|\x01\x07affine_|\x01\x04fc_2")
# (output channels, first stride) of the residual blocks, in order. Stride 2 marks a "down" block.
BLOCKS = [(32, 1)] * 3 + [(64, 2)] + [(64, 1)] * 3 + [(128, 2)] + [(128, 1)] * 2
BLOCKS += [(256, 2)] + [(256, 1)] * 2 + [(256, 2)]


def read_integer(data: bytes, at: int) -> tuple[int, int]:
    """dlib's packed integer at `at` (a size byte, then that many bytes) and the position after."""
    size = data[at] & 0x0F
    value = int.from_bytes(data[at + 1 : at + 1 + size], "little")
    return (-value if data[at] & 0x80 else value), at + 1 + size


def read_tensor(data: bytes, at: int) -> tuple[Array, int]:
    """The flat float32 tensor at `at` (version, four sizes, values) and the position after it."""
    version, at = read_integer(data, at)
    if version != 2:
        raise CheckpointError(f"`source` must hold dlib tensors of version 2, got {version}.")
    count = 1
    for _ in range(4):
        size, at = read_integer(data, at)
        count *= size
    return np.frombuffer(data, "<f4", count, at), at + 4 * count


def read_layers(data: bytes) -> list[Array]:
    """The weights of every convolution, affine and fully connected layer, in order of execution."""
    layers, at = [], 0
    while match := LAYER_NAME.search(data, at):
        at = match.end()
        # The fully connected layer has its numbers of outputs and inputs before the tensor.
        for _ in range(2 if match[0].endswith(b"fc_2") else 0):
            _, at = read_integer(data, at)
        values, at = read_tensor(data, at)
        layers.append(values)
    return layers


class ResNetWriter:
    """Lays the 29-layer network out as nodes, taking the weights in turn."""

    def __init__(self, layers: list[Array]) -> None:
        self.layers = iter(layers)
        self.graph = GraphBuilder()

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int) -> str:
        """Convolution and its affine; strided ones have no padding."""
        values, affine = next(self.layers), next(self.layers)
        weight = values[:-outputs].reshape(outputs, inputs, kernel, kernel)
        padding = 0 if stride == 2 else kernel // 2
        x = self.graph.conv(x, weight, values[-outputs:], stride, padding)
        return self.graph.affine(x, affine[:outputs], affine[outputs:])

    def block(self, x: str, inputs: int, outputs: int, stride: int, size: int) -> str:
        """A residual block on maps of `size` pixels."""
        body = self.graph.add("relu", self.conv(x, inputs, outputs, 3, stride))
        body = self.conv(body, outputs, outputs, 3, 1)
        if stride == 2:
            x = self.graph.add("average_pool", x, kernel=2, stride=2)
            # dlib adds maps of unequal size by filling the smaller one up with zeros.
            missing = size // 2 - ((size - 3) // 2 + 1)
            if missing:
                body = self.graph.add("pad", body, amounts=[0, missing, 0, missing])
            if outputs != inputs:
                x = self.graph.add("pad", x, amounts=[0, 0, 0, 0, 0, outputs - inputs])
        return self.graph.add("relu", self.graph.add("add", body, x))

    def write(self) -> tuple[list[Node], dict[str, Tensor]]:
        """The whole network on a 150-pixel chip."""
        x = self.graph.add("relu", self.conv("input", 3, 32, 7, 2))
        x = self.graph.add("max_pool", x, kernel=3, stride=2)
        channels, size = 32, 35
        for outputs, stride in BLOCKS:
            x = self.block(x, channels, outputs, stride, size)
            channels, size = outputs, size // stride
        x = self.graph.add("global_mean", x)
        self.graph.linear(x, next(self.layers).reshape(256, 128).T)
        return self.graph.finish()


def convert(path: Path) -> tuple[list[Node], dict[str, Tensor]]:
    """Nodes and float32 state dict of dlib's recogniser."""
    layers = read_layers(path.read_bytes())
    if len(layers) != 59:
        raise CheckpointError(
            f"`source` must be dlib's ResNet with 59 weighted layers, got {len(layers)} in {path}."
        )
    return ResNetWriter(layers).write()
