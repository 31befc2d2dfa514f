"""Damaged, missing, replaced and foreign weight files are named when a checkpoint is loaded."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from map_pipeline import MAPPipeline
from map_pipeline.checksums import (
    FILE_NAME,
    bundled_folders,
    check_folder,
    read_checked,
    read_list,
    weight_files,
    write_list,
)
from map_pipeline.cli.main import main
from map_pipeline.errors import CheckpointError

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"
# What can run code when it's loaded, and what weights come in that aren't plain numbers.
UNSAFE_SUFFIXES = {".bin", ".ckpt", ".h5", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint with a list of its weights."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    write_list(folder)
    return folder


@pytest.mark.parametrize("folder", bundled_folders(), ids=lambda folder: folder.name)
def test_every_bundled_weight_is_what_its_list_says(folder: Path) -> None:
    assert list(read_list(folder)) == weight_files(folder)
    check_folder(folder)


def test_sha256sum_reads_the_list(checkpoint: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    subprocess.run(["sha256sum", "--check", "--quiet", FILE_NAME], cwd=checkpoint, check=True)


def test_untouched_checkpoint_loads(checkpoint: Path) -> None:
    assert MAPPipeline.from_pretrained(checkpoint).unet is not None


def test_one_changed_byte_is_found(checkpoint: Path) -> None:
    expected = read_list(checkpoint)[UNET]
    content = bytearray((checkpoint / UNET).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / UNET).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        MAPPipeline.from_pretrained(checkpoint)
    for part in (UNET, expected, hashlib.sha256(content).hexdigest()):
        assert part in str(caught.value)


def test_missing_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / UNET).unlink()
    with pytest.raises(CheckpointError, match=f"{UNET}.*No such file"):
        MAPPipeline.from_pretrained(checkpoint)


def test_unlisted_weights_are_not_loaded(checkpoint: Path) -> None:
    save_file({"a": torch.zeros(1)}, checkpoint / "unet" / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"more\.safetensors` must be listed"):
        MAPPipeline.from_pretrained(checkpoint)


@pytest.mark.parametrize("line", ["", "0" * 64, "0" * 64 + "  ../a", "0" * 64 + "  /etc/a", "\xff"])
def test_damaged_list_is_an_error(checkpoint: Path, line: str) -> None:
    path = checkpoint / FILE_NAME
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CheckpointError, match=f"{FILE_NAME}` must hold lines"):
        MAPPipeline.from_pretrained(checkpoint)


def test_new_weights_load_once_the_list_is_written_again(checkpoint: Path) -> None:
    save = MAPPipeline.from_pretrained(checkpoint)
    for parameter in save.unet.parameters():
        parameter.add_(1)
    save.save_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"python -m map_pipeline\.checksums"):
        MAPPipeline.from_pretrained(checkpoint)
    write_list(checkpoint)
    MAPPipeline.from_pretrained(checkpoint)


def test_replaced_detector_is_not_run(tmp_path: Path) -> None:
    weights = bundled_folders()[-1]
    shutil.copytree(weights, tmp_path / "weights")
    (tmp_path / "weights" / "rfb320.onnx").write_bytes(b"another network")
    with pytest.raises(CheckpointError, match=r"rfb320\.onnx` must have the SHA-256 6c0256cc"):
        read_checked(tmp_path / "weights", "rfb320.onnx")
    assert read_checked(tmp_path / "weights", "landmarks68.onnx")


def test_checkpoint_from_the_hub_is_checked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / UNET).write_bytes(b"another network")
    monkeypatch.setattr("map_pipeline.hub.snapshot_download", lambda *_, **__: str(checkpoint))
    with pytest.raises(CheckpointError, match=f"{UNET}` must have the SHA-256"):
        MAPPipeline.from_pretrained("user/repo")


@pytest.mark.parametrize(
    ("file", "keep"),
    [
        (UNET, 0),
        (UNET, 5),
        (UNET, 2000),
        ("unet/config.json", 10),
        ("model_index.json", 30),
        ("recognisers/dlib_resnet/diffusion_pytorch_model.safetensors", 100),
        ("scheduler/scheduler_config.json", 5),
    ],
)
def test_cut_files_of_an_unlisted_checkpoint(
    checkpoint: Path,
    capsys: pytest.CaptureFixture,
    file: str,
    keep: int,
) -> None:
    """A checkpoint without a list: the command line says what's wrong in one line."""
    (checkpoint / FILE_NAME).unlink()
    (checkpoint / file).write_bytes((checkpoint / file).read_bytes()[:keep])
    assert main(["targets", "--checkpoint", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert "`checkpoint` must be whole" in error
    assert "Traceback" not in error


def test_nothing_shipped_can_run_code_when_loaded() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    suffixes = {Path(name).suffix for name in tracked.stdout.splitlines()}
    assert ".safetensors" in suffixes
    assert not suffixes & UNSAFE_SUFFIXES


def test_bundled_weights_without_a_list_are_not_taken_on_trust(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / FILE_NAME).unlink()
    check_folder(checkpoint)  # somebody's own checkpoint needs none
    monkeypatch.setattr("map_pipeline.checksums.bundled_folders", lambda: [checkpoint])
    with pytest.raises(CheckpointError, match=rf"{FILE_NAME}` must be a readable file"):
        check_folder(checkpoint)
