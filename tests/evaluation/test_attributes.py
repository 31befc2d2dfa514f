"""Gender and age for rates by group, from a network whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT, exit_code
from PIL import Image
from tfjs_file import TfjsFile, b64

from map_pipeline.cli.main import main
from map_pipeline.evaluation.dataset import read_attributes

AGES = 100


def write_faceres(folder: Path, male: float, age: int) -> Path:
    """A network with FaceRes' outputs that sees the same in every face.

    Args:
        male: logit of its gender; age: the year it's sure of.
    """
    folder.mkdir()
    file = TfjsFile()
    file.add("image", "Placeholder")
    file.constant("axes", np.array([1, 2], np.int32))
    file.add("pool", "Mean", "image", "axes")
    years = np.where(np.arange(AGES) == age, 50.0, 0.0).astype(np.float32)
    for name, bias in (("gender_pred", np.full(1, male, np.float32)), ("age_pred", years)):
        file.constant(f"{name}/kernel", np.zeros((3, len(bias)), np.float32))
        file.constant(f"{name}/bias", bias)
        fused = {"fused_ops": {"list": {"s": [b64("BiasAdd")["s"]]}}}
        inputs = ("pool", f"{name}/kernel", f"{name}/bias")
        file.add(f"{name}/BiasAdd", "_FusedMatMul", *inputs, **fused)
    file.add("gender_pred/Sigmoid", "Sigmoid", "gender_pred/BiasAdd")
    file.add("age_pred/Softmax", "Softmax", "age_pred/BiasAdd")
    return file.write(folder).rename(folder / "faceres.json")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(ASTRONAUT).save(folder / "someone_a.png")
    Image.new("RGB", (200, 200)).save(folder / "nobody_a.png")
    return folder


@pytest.mark.parametrize(("male", "gender"), [(3, "male"), (-3, "female")])
def test_guesses_become_groups(
    male: float,
    gender: str,
    photos: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_faceres(tmp_path / "package", male, 34)
    out = tmp_path / "people.jsonl"
    call = ["--pairs", str(photos), "--network", str(tmp_path / "package"), "--out", str(out)]
    call += ["--checkpoint", str(tiny_checkpoint)]
    assert main(["evaluate", "attributes", *call]) == 0
    assert read_attributes(out) == {"someone": {"gender": gender, "age": "20-39"}}
    assert "nobody_a.png" in capsys.readouterr().err

    assert exit_code(["evaluate", "attributes", *call]) == 2  # the file may have been corrected
    assert "new file" in capsys.readouterr().err


def test_a_missing_network_is_named_and_nothing_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "people.jsonl"
    call = ["--pairs", str(photos), "--network", str(photos), "--out", str(out)]
    assert main(["evaluate", "attributes", *call]) == 2
    assert "faceres.json" in capsys.readouterr().err
    assert not out.exists()
