import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline, default_objectives
from map_pipeline.config import DEFAULT_MODE, MODES
from map_pipeline.evaluation.methods import ABLATIONS, Task, create
from map_pipeline.images import load_image, to_array

PHOTO = np.zeros((4, 4, 3), np.uint8)
TASK = Task(PHOTO, "sad", "first", ("dlib_resnet", "faceres"), 7)


class Recorder:
    """Stands for the pipeline and keeps what it was called with."""

    def __call__(self, photo: np.ndarray, **settings: Any) -> SimpleNamespace:
        self.photo, self.settings = photo, settings
        return SimpleNamespace(images=[Image.fromarray(photo + 1)])


def called_with(name: str, task: Task = TASK, **options: Any) -> dict[str, Any]:
    pipe = Recorder()
    result = create(name, **options).protect(pipe, task)
    np.testing.assert_array_equal(result, task.photo + 1)
    assert pipe.photo is task.photo
    return pipe.settings


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("target", ["first", np.ones((4, 4, 3), np.uint8)])
def test_the_task_reaches_the_pipeline(name: str, target: str | np.ndarray) -> None:
    settings = called_with(name, dataclasses.replace(TASK, target=target))
    assert settings["emotion"] == "sad"
    assert settings["target"] is target
    assert settings["surrogates"] == ["dlib_resnet", "faceres"]
    drawn = torch.rand(3, generator=settings["generator"])
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_map_is_as_shipped() -> None:
    """Nothing is set that a user would not set: the pipeline's own defaults decide."""
    settings = called_with("map")
    assert settings.pop("config") is None
    assert set(settings) == {"emotion", "target", "surrogates", "generator"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("map-no-projection", {"projection": False}),
        ("map-no-ema", {"ema_decay": 0}),
        ("map-no-motion", {"motion_rate": 0}),
    ],
)
def test_one_setting_is_off(name: str, changed: dict) -> None:
    settings = called_with(name)
    assert settings["config"] == dataclasses.replace(MODES[DEFAULT_MODE], **changed)
    assert settings["config"] != MODES[DEFAULT_MODE]
    assert "objectives" not in settings


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("map-no-smoothness", {"smoothness"}),
        ("map-no-score-matching", {"score_matching"}),
        ("map-identity-only", {"expression"}),
        ("map-expression-only", {"impersonation", "dodging"}),
    ],
)
def test_one_objective_is_off(name: str, off: set[str]) -> None:
    settings = called_with(name)
    assert settings["config"] is None
    for shipped, used in zip(default_objectives(), settings["objectives"], strict=True):
        assert shipped.weight > 0
        expected = 0 if shipped.name in off else shipped.weight
        assert used == dataclasses.replace(shipped, weight=expected)
    assert {o.name for o in settings["objectives"]} >= off


@pytest.mark.parametrize("mode", ["fast", "strong"])
def test_mode(mode: str) -> None:
    """Only a method named after a mode asks for it."""
    assert called_with(f"map-{mode}")["mode"] == mode
    assert all("mode" not in called_with(name) for name in ABLATIONS)


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_changes")
def test_ablations_differ(tiny_pipeline: MAPPipeline) -> None:
    """For real: every ablation gives a photo of its own, from the same seed."""
    photo = to_array(load_image(ASTRONAUT))[:256, 96:352]
    task = Task(photo, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)
    settings = {"refine_steps": 3, "num_inversion_steps": 2, "num_generation_steps": 2}
    results = {
        name: create(name, settings=settings).protect(tiny_pipeline, task) for name in ABLATIONS
    }
    assert all((result != photo).any() for result in results.values())
    differing = {name for name, result in results.items() if (result != results["map"]).any()}
    # The tiny pipeline has no expression shapes, so there is no edit or motion to leave out.
    assert differing == set(ABLATIONS[1:]) - {"map-no-edit", "map-no-motion"}
