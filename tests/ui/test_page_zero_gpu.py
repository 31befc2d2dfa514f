"""A dry run of what ZeroGPU does to the page, as far as a machine without its platform can.

Loading the page in the ZeroGPU mode of `spaces` is what test_space_check.py does. Calls need the
platform's scheduler, so these tests stand in for its decorator, its fork and its pickling.
"""

import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spaces
import torch
from conftest import ASTRONAUT
from PIL import Image

import app
from map_pipeline import MAPPipeline
from map_pipeline.config import MODES
from map_pipeline.ui.clip import ClipJob
from map_pipeline.ui.models import Models, prepare_models
from map_pipeline.ui.service import Job, ProtectionService
from map_pipeline.ui.settings import MAX_STEPS, Choices, PageSettings

ROOT = Path(__file__).parents[2]
ANONYMOUS_QUOTA = 120  # s a day
SCHEDULED = 1.5  # ZeroGPU books so many seconds for each one asked for


@pytest.fixture(scope="module")
def models(tiny_pipeline: MAPPipeline) -> Models:
    return prepare_models(tiny_pipeline, "cpu")


@pytest.fixture(scope="module")
def service(models: Models) -> ProtectionService:
    return ProtectionService(lambda: models, background=False)


@pytest.fixture(scope="module")
def editing_service(editing_pipeline: MAPPipeline) -> ProtectionService:
    models = prepare_models(editing_pipeline, "cpu")
    return ProtectionService(lambda: models, background=False)


@pytest.fixture
def decorated(
    models: Models, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Callable, Callable]]:
    """(function, duration) of everything on the page that asks for a GPU."""
    found = []

    def gpu(duration: Callable) -> Callable:
        def decorate(task: Callable) -> Callable:
            found.append((task, duration))
            return task

        return decorate

    monkeypatch.setattr(spaces, "GPU", gpu)
    app.build_demo(PageSettings(checkpoint=tiny_checkpoint), lambda: models)
    return found


def job(service: ProtectionService, **choices: Any) -> Job:
    return service.prepare(Image.open(ASTRONAUT).convert("RGB"), None, Choices(**choices))


@pytest.mark.slow
def test_importing_the_page_touches_neither_torch_nor_cuda() -> None:
    code = "import sys, app; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_spaces_is_imported_before_everything_else() -> None:
    lines = (ROOT / "app.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[0].startswith("import spaces")


def test_generators_ask_for_the_gpu(decorated: list[tuple[Callable, Callable]]) -> None:
    """One for photos and one for clips; a plain function couldn't be stopped."""
    assert [inspect.isgeneratorfunction(task) for task, _ in decorated] == [True, True]


@pytest.mark.parametrize("mode", list(MODES))
def test_duration_of_a_clip_fits_the_quota(
    decorated: list[tuple[Callable, Callable]], mode: str
) -> None:
    _, (task, duration) = decorated
    assert list(inspect.signature(task).parameters) == list(inspect.signature(duration).parameters)
    job = ClipJob("in", "out", "auto", "all", Choices(mode=mode), 250, 10.0, people=1)
    assert job.gpu_seconds_wanted < duration(job) + 1  # the usual clip needs no less than it gets
    assert duration(replace(job, frames=2000, people=8)) * SCHEDULED <= ANONYMOUS_QUOTA


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("steps", [0, 1, MAX_STEPS])
@pytest.mark.parametrize("faces", [1, 4, 50])
def test_duration_fits_the_quota_in_every_mode(
    decorated: list[tuple[Callable, Callable]], mode: str, steps: int, faces: int
) -> None:
    (task, duration), _ = decorated
    assert list(inspect.signature(task).parameters) == list(inspect.signature(duration).parameters)
    picture = Image.new("RGB", (64, 64))
    choices = Choices(mode=mode, steps=steps)
    job = Job(picture, "auto", ((0, 0, 9, 9),) * faces, ("happy",) * faces, choices)
    asked = duration([job])
    assert asked >= 1
    assert asked * SCHEDULED <= ANONYMOUS_QUOTA
    for photos in (2, 10):
        several = duration([job] * photos)
        assert asked <= several
        assert several * SCHEDULED <= ANONYMOUS_QUOTA


@pytest.mark.slow
def test_only_the_gpu_function_runs_gradients(
    service: ProtectionService,
    editing_service: ProtectionService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backward pass in the main process would break CUDA in the GPU process forked from it."""
    protected = list(service.run([job(service, steps=1)]))[-1]

    def forbidden(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a backward pass outside of the GPU function")

    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    monkeypatch.setattr(torch.Tensor, "backward", forbidden)
    prepare_models(service.models.protecting["auto"], "cpu")
    service.check_robustness(job(service), protected)
    service.compare(protected.photo, protected.photo)
    editing_service.preview(str(ASTRONAUT), Choices())
    with pytest.raises(AssertionError, match="outside of the GPU function"):
        list(service.run([job(service, steps=1)]))


def test_models_load_in_the_calling_thread_before_the_page_is_launched(models: Models) -> None:
    loaded_in = []

    def load() -> Models:
        loaded_in.append(threading.current_thread())
        return models

    assert ProtectionService(load, background=False).loading is False
    assert loaded_in == [threading.current_thread()]
