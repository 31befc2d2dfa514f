from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from map_pipeline.errors import CheckpointError
from map_pipeline.graph.executor import GraphNetwork, average_pool, max_pool, same_padding


def node(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": list(inputs), **attributes}


RESIDUAL = [
    node("stem", "conv", "input", channels_in=3, channels_out=4, kernel=3, padding=1),
    node("scaled", "affine", "stem", channels=4),
    node("active", "prelu", "scaled", num_parameters=4),
    node("deep", "conv", "active", channels_in=4, channels_out=4, kernel=3, padding=1, groups=4),
    node("sum", "add", "deep", "active"),
    node("both", "concat", "sum", "active"),
    node("mean", "global_mean", "both"),
    node("head", "linear", "mean", in_features=8, out_features=2),
]


def test_graph_equals_the_same_layers_called_by_hand() -> None:
    graph = GraphNetwork(RESIDUAL)
    x = torch.randn(2, 3, 6, 5)
    layers = graph.layers
    stem = F.conv2d(x, layers["stem"].weight, layers["stem"].bias, padding=1)
    active = F.prelu(stem, layers["active"].weight)  # the affine starts as the identity
    deep = F.conv2d(active, layers["deep"].weight, layers["deep"].bias, padding=1, groups=4)
    expected = layers["head"](torch.cat([deep + active, active], 1).mean((2, 3)))
    torch.testing.assert_close(graph(x), expected)


def test_affine_scales_and_shifts_channels() -> None:
    graph = GraphNetwork([node("a", "affine", "input", channels=2)])
    graph.layers["a"].scale.data = torch.tensor([2.0, 3.0])
    graph.layers["a"].shift.data = torch.tensor([1.0, -1.0])
    assert graph(torch.ones(1, 2)).tolist() == [[3.0, 2.0]]
    assert graph(torch.ones(1, 2, 1, 1)).flatten().tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(4, 3, 2, (0, 1)), (5, 3, 2, (1, 1)), (4, 3, 1, (1, 1)), (4, 2, 2, (0, 0)), (6, 1, 4, (0, 0))],
)
def test_same_padding_follows_tensorflow(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_convolution_keeps_every_started_window(size: int, stride: int) -> None:
    conv = node("c", "conv", "input", channels_in=1, channels_out=1, kernel=3, padding="same")
    output = GraphNetwork([conv | {"stride": stride}])(torch.randn(1, 1, size, size))
    assert output.shape == (1, 1, -(-size // stride), -(-size // stride))


@pytest.mark.parametrize("padding", ["same", 1, [0, 1, 1, 0]])
@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_padding_neither_wins_nor_counts_in_pools(
    pool: Callable[..., torch.Tensor], padding: str | int | list[int]
) -> None:
    output = pool(torch.full((1, 2, 6, 6), -1.0), 3, 2, padding)
    torch.testing.assert_close(output, torch.full((1, 2, 3, 3), -1.0))


def test_flatten_can_keep_tensorflows_order() -> None:
    x = torch.arange(12.0).view(1, 3, 2, 2)
    first = GraphNetwork([node("f", "flatten", "input", channels_last=True)])(x)
    assert first[0, :3].tolist() == [0.0, 4.0, 8.0]
    assert GraphNetwork([node("f", "flatten", "input")])(x)[0, :3].tolist() == [0.0, 1.0, 2.0]


def test_elementwise_operations_and_padding_of_channels() -> None:
    nodes = [
        node("low", "clip", "input", min=0.0, max=6.0),
        node("gate", "sigmoid", "input"),
        node("product", "mul", "low", "gate"),
        node("difference", "sub", "product", "low"),
        node("wide", "pad", "difference", amounts=[0, 1, 0, 0, 0, 2]),
    ]
    x = torch.tensor([-1.0, 2.0, 9.0]).view(1, 1, 1, 3)
    output = GraphNetwork(nodes)(x)
    clipped = x.clamp(0, 6)
    assert output.shape == (1, 3, 1, 4)
    torch.testing.assert_close(output[:, :1, :, :3], clipped * x.sigmoid() - clipped)
    assert output[:, 1:].abs().sum() == 0
    assert output[..., 3].abs().sum() == 0


def test_runs_in_bfloat16() -> None:
    graph = GraphNetwork(RESIDUAL)
    x = torch.randn(2, 3, 8, 8)
    expected = graph(x)
    output = graph.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.1, rtol=0.1)


def test_gradient_reaches_the_input() -> None:
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(GraphNetwork(RESIDUAL)(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "at least one node"),
        ([node("a", "fft", "input")], "`op` must be one of .* got 'fft'"),
        ([node("a", "relu", "b")], "must name earlier nodes, got 'b'"),
        ([node("a", "relu", "input"), node("a", "relu", "a")], "must be unique"),
        ([node("input", "relu", "input")], "must be unique"),
    ],
)
def test_broken_graphs_are_refused(nodes: list, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        GraphNetwork(nodes)
