"""diffusers' `callback_on_step_end` for the refinement steps of `MAPPipeline`.

https://huggingface.co/docs/diffusers/using-diffusers/callback
"""

from collections.abc import Callable, Sequence
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from map_pipeline.errors import UnknownOptionError
from map_pipeline.identity.refine import RefineStep, StepCallback

# (pipe, step, timestep, callback_kwargs) -> what is taken over of callback_kwargs. diffusers'
# `PipelineCallback` and `MultiPipelineCallbacks` are such callables.
Callback = Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]]


def inputs_of(callback: Callback | None, given: Sequence[str]) -> Sequence[str]:
    """What a callback asks for: diffusers' own say it by themselves, for others it's given."""
    return getattr(callback, "tensor_inputs", given)


def check_tensor_inputs(asked: Sequence[str], known: Sequence[str]) -> None:
    """Raise `UnknownOptionError` if a callback asks for what the pipeline doesn't offer."""
    if unknown := [name for name in asked if name not in known]:
        raise UnknownOptionError(
            f"`callback_on_step_end_tensor_inputs` must be among {', '.join(known)}; "
            f"got {', '.join(unknown)}."
        )


def step_callback(
    pipe: DiffusionPipeline,
    progress: tqdm,
    timestep: int,
    callback: Callback | None,
    tensor_inputs: Sequence[str],
) -> StepCallback:
    """What `refine` calls after each step: the progress bar, then the user's callback.

    Args:
        timestep: the noise level that faces are inverted to.
    """
    done = 0

    def on_step(_index: int, step: RefineStep) -> Tensor | None:
        nonlocal done
        progress.update()
        latents = step.latents
        if callback is not None:
            given = {name: getattr(step, name) for name in tensor_inputs}
            latents = (callback(pipe, done, timestep, given) or {}).pop("latents", latents)
        done += 1
        return None if pipe.interrupt else latents

    return on_step
