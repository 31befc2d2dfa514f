"""Saving a pipeline and loading it: from a folder, from the Hub, and as shipped."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, tiny_recogniser
from pipeline_calls import QUICK

from map_pipeline import MAPPipeline, RecogniserEnsemble
from map_pipeline.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("cheap_changes")


@pytest.mark.slow
def test_saved_pipeline_comes_back(
    editing_pipeline: MAPPipeline, photo: np.ndarray, tmp_path: Path
) -> None:
    editing_pipeline.save_pretrained(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    loaded = MAPPipeline.from_pretrained(tmp_path)
    assert loaded.targets.names == ["first", "second", "third"]
    assert loaded.config.detector == "bundled"
    assert list(loaded.recognisers) == ["dlib_resnet", "mobilefacenet", "faceres"]
    loaded.set_progress_bar_config(disable=True)
    results = [
        np.array(pipe(photo, generator=torch.Generator().manual_seed(0), **QUICK).images[0])
        for pipe in (editing_pipeline, loaded)
    ]
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


def test_settings_can_be_changed_on_loading(tiny_checkpoint: Path) -> None:
    kept = RecogniserEnsemble({"faceres": tiny_recogniser("mobilefacenet")})
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, surrogates=["faceres"], recognisers=kept)
    assert list(pipe.recognisers) == ["faceres"]
    assert pipe.config.surrogates == ["faceres"]


def test_components_are_frozen(tiny_checkpoint: Path) -> None:
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            assert not component.training
            assert not any(p.requires_grad for p in component.parameters())


def test_from_the_hub(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub itself is out of reach of a test; what is asked of it isn't."""
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(tiny_checkpoint)

    monkeypatch.setattr("map_pipeline.hub.snapshot_download", snapshot_download)
    pipe = MAPPipeline.from_pretrained("user/repo", revision="v1", token="secret")
    assert asked["name"] == "user/repo"
    assert asked["revision"] == "v1"
    assert asked["token"] == "secret"
    patterns = asked["allow_patterns"]
    wanted = ["model_index.json", "unet/config.json", "targets/diffusion_pytorch_model.safetensors"]
    unwanted = ["pipeline.py", "unet/model.py", "unet/diffusion_pytorch_model.bin", "unet/a.pt"]
    for file in (*wanted, *unwanted, "unet/a.pickle", "model.ckpt", "a.h5", "unet/model.onnx"):
        matched = any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
        assert matched == (file in wanted), file
    assert pipe.targets.names == ["first", "second", "third"]


def test_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        MAPPipeline.from_pretrained(tmp_path)


def test_folder_that_does_not_exist() -> None:
    with pytest.raises(CheckpointError, match="got no/such/folder"):
        MAPPipeline.from_pretrained("no/such/folder")


def test_missing_weights_are_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for path in tiny_checkpoint.rglob("*"):
        if path.is_file() and path.parent.name != "unet":
            copy = tmp_path / path.relative_to(tiny_checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with pytest.raises((OSError, ValueError)):
        MAPPipeline.from_pretrained(tmp_path)


def test_bundled_checkpoint(bundled_pipeline: MAPPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = {"mode": "fast", "refine_steps": 2, "target": "auto"}
    output = bundled_pipeline(ASTRONAUT, generator=generator, **settings)
    [result], [[report]] = output.images, output.reports
    assert bundled_pipeline.dtype == torch.float32
    for component in bundled_pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            floating = {t.dtype for t in component.state_dict().values() if t.is_floating_point()}
            assert floating == {torch.float32}
    parts = ("conditioner", "face_mesh", "expression_space", "mouth_painter")
    assert all(getattr(bundled_pipeline, name) is not None for name in parts)
    assert result.size == (512, 512)
    assert report.target in bundled_pipeline.targets.names
    assert {r.name for r in report.recognisers} == set(bundled_pipeline.recognisers)
    used = {r.name for r in report.recognisers if r.used_in_optimisation}
    assert used == set(bundled_pipeline.surrogates)
    assert all(r.thresholds for r in report.recognisers)
    assert {e.name for e in report.expressions} == set(bundled_pipeline.expression_classifiers)
    assert 0.5 < report.ssim < 1
    # Two steps already move every recogniser that is tuned on, away from her and to the target.
    for one in report.recognisers:
        assert one.source_after < 1
        if one.used_in_optimisation:
            assert one.target_after > one.target_before
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_table()
