import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from map_pipeline.errors import CheckpointError
from map_pipeline.training.teachers import DESCRIPTIONS, load_teacher

KNOWN = {
    "title": "Teacher",
    "family": "tutor",
    "embedding_dim": 4,
    "mean": 127.5,
    "std": 128,
    "thresholds": {"0.01": 0.3, "0.001": 0.4},
}


def write_network(path: Path, columns: int) -> np.ndarray:
    """A convolution over the whole picture, clipped; returns its kernel."""
    kernel = np.random.default_rng(0).normal(size=(4, 3, 112, columns)).astype(np.float32) * 0.01
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Flatten", ["b"], ["y"]),
    ]
    limits = {"low": -0.5, "high": 2.0}
    constants = [numpy_helper.from_array(kernel, "w")]
    constants += [numpy_helper.from_array(np.float32(v), k) for k, v in limits.items()]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    onnx.save(helper.make_model(graph), str(path))
    return kernel


@pytest.mark.parametrize("trimmed", [0, 8])
def test_a_teacher_sees_what_its_description_says(tmp_path: Path, trimmed: int) -> None:
    kernel = write_network(tmp_path / "one.onnx", 112 - 2 * trimmed)
    (tmp_path / "one.json").write_text(json.dumps({**KNOWN, "trimmed_columns": trimmed}))
    teacher = load_teacher(tmp_path / "one.onnx")
    crops = torch.rand(2, 3, 112, 112)
    seen = (crops * 255 - 127.5) / 128
    seen = seen[..., trimmed : 112 - trimmed]
    raw = torch.einsum("bcyx,dcyx->bd", seen, torch.from_numpy(kernel)).clamp(-0.5, 2.0)
    expected = torch.nn.functional.normalize(raw)
    torch.testing.assert_close(teacher.embed(crops), expected, atol=1e-4, rtol=1e-4)
    assert teacher.threshold(0.001) == 0.4
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_without_or_with_half_a_description(tmp_path: Path) -> None:
    write_network(tmp_path / "one.onnx", 112)
    with pytest.raises(CheckpointError, match=r"`teacher` must have a one\.json beside it"):
        load_teacher(tmp_path / "one.onnx")
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(CheckpointError, match="`teacher` must be described by JSON"):
        load_teacher(tmp_path / "one.onnx")
    (tmp_path / "one.json").write_text(json.dumps({k: KNOWN[k] for k in KNOWN if k != "std"}))
    with pytest.raises(CheckpointError, match="`teacher` must be described with std"):
        load_teacher(tmp_path / "one.onnx")


@pytest.mark.parametrize("path", sorted(DESCRIPTIONS.glob("*.json")), ids=lambda path: path.stem)
def test_bundled_descriptions_are_complete(path: Path) -> None:
    assert set(KNOWN) <= set(json.loads(path.read_text()))
