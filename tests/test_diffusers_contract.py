"""What users of diffusers take for granted of any pipeline."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from map_pipeline import MAPPipeline, UnknownOptionError
from map_pipeline.config import MODES

pytestmark = pytest.mark.usefixtures("cheap_changes")
QUICK = {"num_inversion_steps": 2, "refine_steps": 2, "target": "first"}


@pytest.fixture
def run(tiny_pipeline: MAPPipeline) -> Callable[..., Any]:
    def call(image: Any, seed: int | None = 0, **settings: Any) -> Any:
        if seed is not None:
            settings["generator"] = torch.Generator().manual_seed(seed)
        return tiny_pipeline(image, **{**QUICK, **settings})

    return call


def pixels(output: Any, index: int = 0) -> np.ndarray:
    return np.array(output.images[index])


class Recorder(PipelineCallback):
    tensor_inputs = ("latents", "residual")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def callback_fn(
        self, pipeline: MAPPipeline, step_index: int, timesteps: int, callback_kwargs: dict
    ) -> dict:
        assert isinstance(pipeline, MAPPipeline)
        assert set(callback_kwargs) == {"latents", "residual"}
        assert all(torch.isfinite(value).all() for value in callback_kwargs.values())
        self.calls.append((step_index, timesteps))
        return callback_kwargs


@pytest.mark.slow
def test_a_pipeline_callback_sees_every_step_of_every_photo(
    run: Callable, portrait: np.ndarray
) -> None:
    recorders = [Recorder(), Recorder()]
    run([portrait, portrait], callback_on_step_end=MultiPipelineCallbacks(recorders))
    start = MODES["strong"].start_timestep
    assert recorders[0].calls == recorders[1].calls == [(step, start) for step in range(4)]


@pytest.mark.slow
def test_the_callbacks_latents_are_taken_over(run: Callable, portrait: np.ndarray) -> None:
    def unchanged(_pipe: MAPPipeline, _step: int, _timestep: int, given: dict) -> dict:
        return given

    def zeros(_pipe: MAPPipeline, _step: int, _timestep: int, given: dict) -> dict:
        return {"latents": torch.zeros_like(given["latents"])}

    plain = pixels(run(portrait))
    np.testing.assert_array_equal(pixels(run(portrait, callback_on_step_end=unchanged)), plain)
    assert (pixels(run(portrait, callback_on_step_end=zeros)) != plain).any()


def test_the_callback_is_given_what_it_asks_for(
    run: Callable, tiny_pipeline: MAPPipeline, portrait: np.ndarray
) -> None:
    seen = []

    def look(pipe: MAPPipeline, _step: int, _timestep: int, given: dict) -> dict:
        assert pipe is tiny_pipeline
        assert pipe.num_timesteps == 2
        seen.append(given)
        return {}

    asked = ["residual", "losses", "conflict"]
    run(portrait, callback_on_step_end=look, callback_on_step_end_tensor_inputs=asked)
    assert [set(given) for given in seen] == [set(asked)] * 2
    assert seen[0]["residual"].shape[:2] == (1, 3)
    assert all(math.isfinite(value) for value in seen[0]["losses"].values())
    assert 0 <= seen[0]["conflict"] <= 1
    with pytest.raises(UnknownOptionError, match="got prompt_embeds"):
        run(portrait, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.slow
def test_interrupting_ends_with_the_best_so_far(run: Callable, portrait: np.ndarray) -> None:
    steps = []

    def stop(pipe: MAPPipeline, step: int, _timestep: int, given: dict) -> dict:
        steps.append(step)
        pipe._interrupt = step == 2
        return given

    output = run(portrait, refine_steps=30, callback_on_step_end=stop)
    assert steps == [0, 1, 2]
    assert (pixels(output) != portrait).any()
    assert len(output.reports[0]) == 1


@pytest.mark.slow
def test_an_exception_in_the_callback_cancels(run: Callable, portrait: np.ndarray) -> None:
    class CancelledError(Exception):
        pass

    def cancel(*_: Any) -> dict:
        raise CancelledError

    expected = pixels(run(portrait))
    with pytest.raises(CancelledError):
        run(portrait, refine_steps=50, callback_on_step_end=cancel)
    np.testing.assert_array_equal(pixels(run(portrait)), expected)


@pytest.mark.slow
def test_output_types(run: Callable, portrait: np.ndarray) -> None:
    expected = pixels(run([portrait] * 2))
    arrays = run([portrait] * 2, output_type="np").images
    assert arrays.shape == (2, 256, 256, 3)
    assert arrays.dtype == np.float32
    np.testing.assert_array_equal(np.rint(arrays[0] * 255).astype(np.uint8), expected)
    tensors = run([portrait] * 2, output_type="pt").images
    assert tensors.shape == (2, 3, 256, 256)
    np.testing.assert_array_equal(tensors.permute(0, 2, 3, 1).numpy(), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("output_type", ["np", "pt"])
def test_photos_of_different_sizes_come_back_as_a_list(
    run: Callable, portrait: np.ndarray, output_type: str
) -> None:
    images = run([portrait, portrait[:240]], output_type=output_type).images
    assert isinstance(images, list)
    assert {256, 240} <= {side for image in images for side in image.shape}


@pytest.mark.slow
def test_one_generator_for_each_photo(run: Callable, portrait: np.ndarray) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    output = run([portrait] * 2, seed=None, generator=generators(0, 1))
    np.testing.assert_array_equal(pixels(output), pixels(run(portrait, seed=0)))
    np.testing.assert_array_equal(pixels(output, 1), pixels(run(portrait, seed=1)))
    with pytest.raises(ValueError, match=r"`generator` must be one or 2.*got 3"):
        run([portrait] * 2, seed=None, generator=generators(0, 1, 2))


@pytest.mark.gpu
def test_a_generator_on_cuda(portrait: np.ndarray) -> None:
    pipe = build_tiny_pipeline().to("cuda")
    results = [
        pixels(pipe(portrait, generator=torch.Generator("cuda").manual_seed(0), **QUICK))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_loading_in_half_precision(name: str, tiny_checkpoint: Path, portrait: np.ndarray) -> None:
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, **{name: torch.bfloat16})
    pipe.set_progress_bar_config(disable=True)
    networks = (pipe.unet, *pipe.recognisers.values(), *pipe.expression_classifiers.values())
    assert {p.dtype for net in networks for p in net.parameters()} == {torch.bfloat16}
    output = pipe(portrait, **QUICK)
    json.dumps(output.reports[0][0].to_dict(), allow_nan=False)


def test_a_variant_is_refused_with_what_to_do_instead(tiny_checkpoint: Path) -> None:
    for options in ({"variant": "fp16"}, {"variant": "fp16", "torch_dtype": torch.float16}):
        with pytest.raises(UnknownOptionError, match=r"`variant` .* got 'fp16'.*dtype="):
            MAPPipeline.from_pretrained(tiny_checkpoint, **options)
    assert MAPPipeline.from_pretrained(tiny_checkpoint, variant=None).dtype == torch.float32


@pytest.mark.slow
def test_model_offload_gives_the_same_picture(portrait: np.ndarray) -> None:
    """With the CPU in the part of the accelerator: hooks are set, used and taken off."""
    pipe = build_tiny_pipeline(edits=True)

    def protect() -> np.ndarray:
        return pixels(pipe(portrait, generator=torch.Generator().manual_seed(0), **QUICK))

    expected = protect()
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.unet, "_hf_hook")
    for _ in range(2):
        np.testing.assert_array_equal(protect(), expected)
    pipe.remove_all_hooks()
    np.testing.assert_array_equal(protect(), expected)


@pytest.mark.gpu
def test_model_offload_on_cuda(portrait: np.ndarray) -> None:
    pipe = build_tiny_pipeline(edits=True)
    pipe.enable_model_cpu_offload()
    output = pipe(portrait, **QUICK)
    assert pipe.unet.device.type == "cpu"
    assert (pixels(output) != portrait).any()


@pytest.mark.parametrize(
    ("scheduler", "match"),
    [
        (DDPMScheduler(), "`scheduler` must be a DDIMScheduler, got DDPMScheduler"),
        (DPMSolverMultistepScheduler(), "got DPMSolverMultistepScheduler"),
        (DDIMScheduler(prediction_type="v_prediction"), "got 'v_prediction'"),
    ],
)
def test_other_schedulers_are_refused(scheduler: Any, match: str, portrait: np.ndarray) -> None:
    pipe = build_tiny_pipeline()
    pipe.scheduler = scheduler
    with pytest.raises(UnknownOptionError, match=match):
        pipe(portrait, **QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(MODES))
def test_a_mode_is_nothing_but_its_settings(mode: str, run: Callable, portrait: np.ndarray) -> None:
    by_name = pixels(run(portrait, mode=mode))
    other = next(name for name in MODES if name != mode)
    by_config = pixels(run(portrait, mode=other, config=MODES[mode]))
    np.testing.assert_array_equal(by_name, by_config)


def test_a_saved_index_names_the_library_not_its_files(tiny_checkpoint: Path) -> None:
    """So that modules can move without breaking saved checkpoints."""
    index = json.loads((tiny_checkpoint / "model_index.json").read_text())
    names = ("unet", "scheduler", "targets", "recognisers", "expression_classifiers")
    components = {name: index[name] for name in names}
    assert {library for library, _ in components.values()} == {"map_pipeline", "diffusers"}
