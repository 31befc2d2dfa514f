"""The loop that `train prior` and `train mouth` share: it leaves averaged weights behind."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from map_pipeline.errors import MAPError
from map_pipeline.training.run_state import (
    Progress,
    Schedule,
    check_single_process,
    replacing,
    resume,
    save_state,
)

Network = TypeVar("Network", bound=nn.Module)
Scores = TypeVar("Scores")


class LoopConfig(Schedule, Protocol):
    """What the loop reads of a run's settings, see `PriorConfig`."""

    learning_rate: float
    ema_decay: float
    report_every: int


@dataclass(frozen=True)
class Assessment(Generic[Scores]):
    """What a report finds of the averaged weights.

    Attributes:
        scores: what the run returns in the end.
        figures: the same for a line of progress, a phrase each.
        picture: what the network makes of a few faces.
    """

    scores: Scores
    figures: list[str]
    picture: Image.Image | None


@dataclass(frozen=True)
class Task(Generic[Network, Scores]):
    """What a run trains its network for.

    Attributes:
        seek: goes to the random draws of an update.
        loss: draws a batch; the loss of the network on it, a scalar.
        assess: looks at the averaged weights.
        save: writes what people use into a folder; the last argument says how far the run is.
        rate: learning rate as a share of the highest.
    """

    seek: Callable[[int], None]
    loss: Callable[[Network], Tensor]
    assess: Callable[[Network], Assessment[Scores]]
    save: Callable[[Path, Network, Assessment[Scores], dict[str, Any]], None]
    rate: Callable[[Progress], float]


class Loop(Generic[Network]):
    """A run that trains a network until the time or the updates are used up.

    Args:
        network: on the accelerator's device, and not compiled yet.
        optimizer: of its parameters.
        config: settings of the run.
        out: its folder, with `state/` to resume from.
        say: takes one line of progress at a time.
        average: further settings of the `EMAModel`.

    Raises:
        UnknownOptionError: `accelerate launch` started several processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: Network,
        optimizer: Optimizer,
        config: LoopConfig,
        out: Path,
        say: Callable[[str], None],
        **average: Any,
    ) -> None:
        check_single_process(accelerator)
        self._accelerator, self._config, self._out, self._say = accelerator, config, out, say
        self._network = network
        self._average = EMAModel(
            network.parameters(), decay=config.ema_decay, foreach=True, **average
        )
        self._averaged = copy.deepcopy(network).eval().requires_grad_(False)
        self._wrapped, self._optimizer = accelerator.prepare(network, optimizer)
        self._clock = Progress(config)
        accelerator.register_for_checkpointing(self._average, self._clock)

    def run(self, task: Task[Network, Scores]) -> Scores:
        """Train, from where a stopped run was; the scores of the last report.

        Raises:
            MAPError: weights that aren't finite any more.
        """
        clock = self._clock
        if resume(self._accelerator, self._out / "state", self._average):
            self._say(f"resumed at update {clock.update}")
        clock.start()
        losses: list[Tensor] = []
        scores = None
        while clock.share < 1:
            losses.append(self._update(task))
            scores = None
            if clock.update % self._config.report_every == 0:
                scores = self._report(task, losses)
                losses.clear()
        return self._report(task, losses) if scores is None else scores

    def _update(self, task: Task[Network, Scores]) -> Tensor:
        """Change the weights once; the loss, that of the last step if several are accumulated."""
        accelerator, optimizer, clock = self._accelerator, self._optimizer, self._clock
        for group in optimizer.param_groups:
            group["lr"] = self._config.learning_rate * task.rate(clock)
        task.seek(clock.update)
        for _ in range(accelerator.gradient_accumulation_steps):
            with accelerator.accumulate(self._wrapped):
                loss = task.loss(self._wrapped)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        self._average.step(self._network.parameters())
        clock.advance()
        return loss.detach()

    def _report(self, task: Task[Network, Scores], losses: list[Tensor]) -> Scores:
        """Assess and save the averaged weights; `losses` are those since the last report."""
        clock = self._clock
        if not all(parameter.isfinite().all() for parameter in self._network.parameters()):
            raise MAPError(
                f"The weights aren't finite any more at update {clock.update}; those of the last "
                "report are kept. Run again with a lower `learning_rate`."
            )
        self._average.copy_to(self._averaged.parameters())
        with self._accelerator.autocast():
            assessment = task.assess(self._averaged)
        save_state(self._accelerator, self._out / "state")
        progress = {
            "date": time.strftime("%Y-%m-%d"),
            "updates": clock.update,
            "minutes": round(clock.minutes, 2),
        }
        with replacing(self._out) as folder:
            task.save(folder, self._averaged, assessment, progress)
        figures = [f"loss {torch.stack(losses).mean().item():.4f}"] if losses else []
        figures += assessment.figures
        self._say(", ".join([f"update {clock.update}", f"{clock.minutes:.1f} min", *figures]))
        return assessment.scores
