import copy
import pickle

import pytest
import torch
from torch import Tensor

from map_pipeline.graph.executor import GraphNetwork
from map_pipeline.graph.int8 import Int8Weight, quantise

NODES = [
    {"name": "wide", "op": "conv", "inputs": ["input"], "channels_in": 32, "channels_out": 64}
    | {"kernel": 3, "padding": 1},
    {"name": "small", "op": "conv", "inputs": ["wide"], "channels_in": 64, "channels_out": 8}
    | {"kernel": 1},
    {"name": "flat", "op": "flatten", "inputs": ["small"]},
    {"name": "head", "op": "linear", "inputs": ["flat"], "in_features": 512, "out_features": 16},
]


@pytest.fixture
def network() -> GraphNetwork:
    torch.manual_seed(0)
    network = GraphNetwork(NODES)
    with torch.no_grad():
        network.layers["wide"].weight[3] *= 100  # outputs of different size
        network.layers["head"].weight[5] = 0
    return network


def int8_of(network: GraphNetwork) -> GraphNetwork:
    nodes, state = quantise(network.nodes, network.state_dict())
    found = GraphNetwork(nodes)
    found.load_state_dict(state)
    return found


def test_each_output_keeps_its_weight_to_a_127th_of_its_largest(network: GraphNetwork) -> None:
    found = int8_of(network)
    for name in ("wide", "head"):
        exact = network.layers[name].weight.flatten(1)
        step = exact.abs().amax(1, keepdim=True) / 127
        assert isinstance(found.layers[name].weight, Int8Weight)
        error = (found.layers[name].weight().flatten(1) - exact).abs()
        assert (error <= step * 0.501).all()


def test_small_layers_stay_as_they_are(network: GraphNetwork) -> None:
    found = int8_of(network)
    assert torch.equal(found.layers["small"].weight, network.layers["small"].weight)
    assert network.nodes == NODES  # those given aren't changed


def test_a_network_says_nearly_the_same_in_half_the_room_of_fp16(network: GraphNetwork) -> None:
    x = torch.randn(4, 32, 8, 8)
    with torch.no_grad():
        expected, found = network(x), int8_of(network)
        assert (found(x) - expected).std() < 0.02 * expected.std()
    exact = copy.deepcopy(network).half()
    assert size_of(found.half()) < 0.53 * size_of(exact)


def size_of(network: GraphNetwork) -> int:
    return sum(value.nbytes for value in network.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_int8_stays_int8_in_every_dtype(network: GraphNetwork, dtype: torch.dtype) -> None:
    found = int8_of(network).to(dtype)
    weight = found.layers["wide"].weight
    assert (weight.values.dtype, weight().dtype) == (torch.int8, dtype)
    assert found(torch.randn(1, 32, 8, 8, dtype=dtype)).dtype == dtype


def test_gradients_pass_and_copies_agree(network: GraphNetwork) -> None:
    found = int8_of(network).requires_grad_(False)
    x = torch.randn(1, 32, 8, 8, requires_grad=True)

    def gradient(one: GraphNetwork) -> Tensor:
        return torch.autograd.grad(one(x).square().sum(), x)[0]

    assert (gradient(found) != 0).float().mean() > 0.9
    torch.testing.assert_close(gradient(copy.deepcopy(found)), gradient(found))
    torch.testing.assert_close(gradient(pickle.loads(pickle.dumps(found))), gradient(found))
