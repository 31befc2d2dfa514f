"""MAP itself behind the interface of all methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from map_pipeline.config import DEFAULT_MODE, MODES, MAPConfig
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods.base import Task
from map_pipeline.evaluation.methods.parts import switched_off
from map_pipeline.identity.objectives import objectives_for, with_weights
from map_pipeline.images import to_array
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class MAP:
    """`MAPPipeline` as a user calls it, on the largest face.

    Attributes:
        name: how the command line calls it; title: what tables call it.
        mode: the pipeline's `mode`; None leaves it to the pipeline.
        config: settings that differ from the shipped ones; None for those.
        weights: objective name -> weight that differs from the shipped one.
        settings: further arguments of the pipeline, such as `refine_steps`.
        without: names of `parts.PARTS` that are switched off.
        surrogates: how many of the task's it looks at, the first ones; None for all.
    """

    name: str = "map"
    title: str = "MAP"
    mode: str | None = None
    config: MAPConfig | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    surrogates: int | None = None

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the protected photo; see `Method.protect`."""
        changed = dict(self.settings)
        if changed.get("refine_steps") == 0:
            self._check_start(pipe, task)
        if self.mode is not None:
            changed["mode"] = self.mode
        if self.weights:
            config = self.config or MODES[self.mode or DEFAULT_MODE]
            changed["objectives"] = with_weights(objectives_for(config), **self.weights)
        with switched_off(self.without):
            output = pipe(
                task.photo,
                emotion=task.emotion,
                target=task.target,
                # The pipeline wants some even where their losses weigh nothing.
                surrogates=list(task.surrogates[: self.surrogates or None]),
                config=self.config,
                generator=torch.Generator().manual_seed(task.seed),
                **changed,
            )
        return to_array(output.images[0])

    def _check_start(self, pipe: MAPPipeline, task: Task) -> None:
        """Without steps, all protection comes from a trained network."""
        if not isinstance(task.target, str):
            raise UnknownOptionError(
                f"`targets` must be auto or built-in ones for {self.name}, got a picture."
            )
        network = pipe.map_network
        if network is None or not set(network.surrogates) <= set(task.surrogates):
            raise UnknownOptionError(
                f"`checkpoint` must hold a network trained on none but "
                f"{', '.join(task.surrogates)} for {self.name}, got none."
            )
