import copy
import threading
import time

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline, tiny_classifier
from torch.nn.modules import module as torch_module

from map_pipeline import MAPPipeline
from map_pipeline.evaluation.cost import measure, resident_bytes
from map_pipeline.evaluation.methods import Task, create
from map_pipeline.images import load_image, to_array

RESULT = np.zeros((2, 2, 3), np.uint8)


def hooks_and_threads() -> tuple[int, int]:
    return len(torch_module._global_forward_hooks), threading.active_count()


@torch.no_grad()
def run_networks(pipe: MAPPipeline, unets: int, recognisers: int) -> np.ndarray:
    config = pipe.unet.config
    latents = torch.zeros(3, config.in_channels, config.sample_size, config.sample_size)
    copied = copy.deepcopy(pipe.unet)
    for index in range(unets):
        (copied if index % 2 else pipe.unet)(latents, 1)
    images, landmarks = torch.rand(2, 3, 40, 40), torch.rand(2, 5, 2) * 40
    for index in range(recognisers):
        list(pipe.recognisers.values())[index % 3](images, landmarks)
    tiny_classifier()(images, landmarks)  # neither of the two
    return RESULT


@pytest.mark.parametrize(("unets", "recognisers"), [(0, 0), (5, 2), (1, 7)])
def test_calls(tiny_pipeline: MAPPipeline, unets: int, recognisers: int) -> None:
    """Each forward pass counts once, also of a copy; batches don't matter."""
    before = hooks_and_threads()
    start = time.perf_counter()
    result, spent = measure(tiny_pipeline, lambda: run_networks(tiny_pipeline, unets, recognisers))
    assert 0 < spent.seconds <= time.perf_counter() - start
    assert result is RESULT
    assert (spent.unet_calls, spent.recogniser_calls) == (unets, recognisers)
    assert hooks_and_threads() == before


def test_peak_memory(tiny_pipeline: MAPPipeline) -> None:
    """Memory that is free again at the end counts; memory of before the call is still there."""
    before = resident_bytes() / 2**20
    size = 200  # MiB

    def big() -> np.ndarray:
        block = np.ones(size * 2**20, np.uint8)
        time.sleep(0.1)  # several looks at the memory
        return block[:3].reshape(1, 1, 3)

    _, spent = measure(tiny_pipeline, lambda: big().copy())
    assert before + 0.9 * size < spent.peak_memory_mb < before + 2 * size
    assert resident_bytes() / 2**20 < before + 0.5 * size


def test_errors_pass_and_leave_nothing_behind(tiny_pipeline: MAPPipeline) -> None:
    before = hooks_and_threads()
    with pytest.raises(ZeroDivisionError):
        measure(tiny_pipeline, lambda: 1 // 0)
    assert hooks_and_threads() == before


def task() -> Task:
    photo = to_array(load_image(ASTRONAUT))[:256, 96:352]
    return Task(photo, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)


def test_cost_of_noise(tiny_pipeline: MAPPipeline) -> None:
    """One look of each surrogate at the photo and one in each step; the score network rests."""
    method = create("mifgsm", steps=5)
    _, spent = measure(tiny_pipeline, lambda: method.protect(tiny_pipeline, task()))
    assert spent.unet_calls == 0
    # Besides: 2 of the source, 1 of the composites for the recogniser that they weren't made with.
    assert spent.recogniser_calls == 2 * 5 + 2 + 1


def test_cost_of_map(tiny_pipeline: MAPPipeline) -> None:
    """Calls of the copy that MAP trains count."""
    settings = {"num_inversion_steps": 4, "num_generation_steps": 2, "refine_steps": 3}
    method = create("map", settings=settings)
    result, spent = measure(tiny_pipeline, lambda: method.protect(tiny_pipeline, task()))
    assert result.shape == task().photo.shape
    assert spent.unet_calls >= 4 + 2 * 3
    assert spent.recogniser_calls >= 2 * 3
    assert spent.seconds > 0


@pytest.mark.gpu
def test_gpu_memory() -> None:
    """The GPU's memory takes the place of the process's."""
    pipe = build_tiny_pipeline().to("cuda")

    def big() -> np.ndarray:
        torch.ones(100 * 2**20, dtype=torch.uint8, device="cuda")
        return RESULT

    _, spent = measure(pipe, big)
    assert 100 <= spent.peak_memory_mb < 200
