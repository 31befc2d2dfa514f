import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline, default_objectives
from map_pipeline.config import DEFAULT_MODE, MODES, MAPConfig
from map_pipeline.evaluation.methods import ABLATIONS, Task, create
from map_pipeline.images import load_image, to_array
from map_pipeline.stages import FaceStages

# Start from the prior, and are compared with what differs in nothing else.
FEWER_RECOGNISERS = {"map-one-recogniser": 1, "map-two-recognisers": 2}
PHOTO = np.zeros((4, 4, 3), np.uint8)
# Switches that belong to one part of the method.
PART_OF = {
    "expression_strength": "expression",
    "impersonation": "identity",
    "dodging": "identity",
}
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


@pytest.mark.parametrize("name", [n for n in ABLATIONS if n not in FEWER_RECOGNISERS])
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


def switches(name: str) -> set[str]:
    """What an ablation has other than strong mode, by name."""
    method, shipped = create(name), MODES[DEFAULT_MODE]
    config = method.config or shipped
    fields = [one.name for one in dataclasses.fields(MAPConfig)]
    weights = {one.name: one.weight for one in default_objectives()}
    return {
        *(one for one in fields if getattr(config, one) != getattr(shipped, one)),
        *(one for one, weight in method.weights.items() if weight != weights[one]),
        *(one for one, value in method.settings.items() if value != getattr(shipped, one)),
        *method.without,
        *([f"the first {method.surrogates}"] if method.surrogates else []),
    }


def test_every_ablation_differs_from_strong_mode_in_one_part() -> None:
    whole, *ablations = ABLATIONS
    assert DEFAULT_MODE == "strong"
    assert switches(whole) == set()
    found = [switches(name) for name in ablations]
    for name, changed in zip(ablations, found, strict=True):
        if name in FEWER_RECOGNISERS:
            assert switches("map-no-network") < changed
            changed = changed - switches("map-no-network")
        assert len({PART_OF.get(one, one) for one in changed}) == 1, name
        assert create(name).mode is None
    assert len(set(map(frozenset, found))) == len(ablations)  # and each in another one


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("map-no-projection", {"projection": False}),
        ("map-one-gradient", {"objectives": "summed"}),
        ("map-no-ema", {"ema_decay": 0}),
        ("map-no-motion", {"motion_rate": 0}),
        ("map-no-network", {"use_map_network": False}),
    ],
)
def test_one_setting_is_off(name: str, changed: dict) -> None:
    settings = called_with(name)
    assert settings["config"] == dataclasses.replace(MODES[DEFAULT_MODE], **changed)
    assert settings["config"] != MODES[DEFAULT_MODE]
    assert "objectives" not in settings


@pytest.mark.parametrize(("name", "count"), FEWER_RECOGNISERS.items())
def test_fewer_recognisers_are_looked_at(name: str, count: int) -> None:
    task = dataclasses.replace(TASK, surrogates=("dlib_resnet", "faceres", "mobilefacenet"))
    settings = called_with(name, task)
    assert settings["surrogates"] == list(task.surrogates[:count])
    assert settings["config"] == called_with("map-no-network")["config"]


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
    changed = {name for name, result in results.items() if (result != photo).any()}
    assert changed == {*ABLATIONS} - {"map-no-residual"}  # which here leaves nothing
    differing = {name for name, result in results.items() if (result != results["map"]).any()}
    # The tiny pipeline has no expression shapes, so there is no edit or motion to leave out, and no
    # trained network.
    missing = {"map-no-edit", "map-no-motion", "map-no-network", "map-two-recognisers"}
    assert differing == set(ABLATIONS[1:]) - missing


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_changes")
def test_without_residual_features_move_and_nothing_is_painted(
    editing_pipeline: MAPPipeline,
) -> None:
    photo = to_array(load_image(ASTRONAUT))[:256, 96:352]
    task = Task(photo, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)
    settings = {"refine_steps": 3, "num_inversion_steps": 2, "expression_strength": 0.0}
    seen = []
    find_change = FaceStages.find_change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FaceStages,
            "find_change",
            lambda *args: seen.append(find_change(*args)) or seen[-1],
        )
        for name in ("map", "map-no-residual", "free-form"):
            create(name, settings=settings).protect(editing_pipeline, task)
    whole, without, free = seen
    beyond = whole.mask < 0.01
    assert free.mask[beyond].max() > 0.5, "beyond the outline of the face"
    assert whole.mask.max() > 0.99
    assert without.mask.max() == 0
    assert without.flow.abs().max() > 0
