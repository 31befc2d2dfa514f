"""How far a training run is, and its files: whenever the process is killed, each is whole.

What people use (weights, settings, pictures) is written aside and renamed into place. The state to
resume from is a folder; the last one is kept until the next is complete.
"""

import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from map_pipeline.errors import UnknownOptionError


class Schedule(Protocol):
    """The length of a run by its settings, see `PriorConfig`."""

    minutes: float
    updates: int
    warmup: int
    cooldown: float


class Progress:
    """How far a run is: updates done and minutes used, also before it was stopped."""

    def __init__(self, config: Schedule) -> None:
        self._config = config
        self.update = 0
        self._before = 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def advance(self) -> None:
        """Count one update."""
        self.update += 1

    @property
    def minutes(self) -> float:
        """Minutes of training so far."""
        return self._before + (time.monotonic() - self._started) / 60

    @property
    def share(self) -> float:
        """Share of the run that is done, at least 0; 1 or more is the end."""
        return max(self.update / self._config.updates, self.minutes / self._config.minutes)

    @property
    def rate(self) -> float:
        """Learning rate as a share of the highest: linear warm-up, then level, then down to 0."""
        return max(min(self._rise, self._fall), 1e-3)

    @property
    def cosine_rate(self) -> float:
        """The same with a fall like half a period of a cosine."""
        return max(self._rise * (1 - math.cos(math.pi * self._fall)) / 2, 1e-3)

    @property
    def _rise(self) -> float:
        return min((self.update + 1) / max(self._config.warmup, 1), 1.0)

    @property
    def _fall(self) -> float:
        return min((1 - self.share) / max(self._config.cooldown, 1e-6), 1.0)

    def state_dict(self) -> dict[str, float]:
        """For accelerate's checkpoints."""
        return {"update": self.update, "minutes": self.minutes}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where `state_dict` was taken."""
        self.update, self._before = int(state["update"]), state["minutes"]
        self.start()


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder whose files, once all are written, replace those of `out` one after another.

    Files in subfolders come first, then the others by name. If writing fails, `out` stays as it is.
    """
    new = out / ".new"
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir(parents=True)
    try:
        yield new
        files = [path for path in new.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (-len(path.parts), path)):
            target = out / path.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save_state(accelerator: Accelerator, folder: Path) -> None:
    """Replace the state to resume from; whenever the process is killed, one whole state is left."""
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    shutil.rmtree(new, ignore_errors=True)
    accelerator.save_state(str(new))
    if folder.exists():
        # What a process left that was killed in the last line here; a folder can't replace it.
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_state(folder: Path) -> Path | None:
    """The newest whole state that `save_state` left, if there is one."""
    places = (folder, folder.with_suffix(".old"))
    return next((place for place in places if place.is_dir()), None)


def check_resumable(summary: Path, config: Any, fixed: Iterable[str]) -> None:
    """Raise `UnknownOptionError` if a folder holds a run that these settings can't go on.

    Args:
        summary: the file in that folder that says with which settings it was made.
        fixed: names of the settings that must stay.
    """
    if not summary.exists():
        return
    out = summary.parent
    if find_state(out / "state") is None:
        raise UnknownOptionError(
            f"`out` must be new or hold the state of its run, got {out}, which holds weights only."
        )
    before = json.loads(summary.read_text())["config"]
    now = json.loads(json.dumps(asdict(config)))  # tuples as lists
    for name in sorted(fixed):
        if before.get(name) != now[name]:
            raise UnknownOptionError(
                f"`{name}` must stay {before.get(name)}, as in the run that {out} holds, "
                f"got {now[name]}."
            )


def resume(accelerator: Accelerator, folder: Path, average: EMAModel) -> bool:
    """Load the state in `folder`, if there is one, into what is registered; whether there was."""
    state = find_state(folder)
    if state is None:
        return False
    accelerator.load_state(str(state))
    average.to(accelerator.device)  # accelerate loads it on the CPU
    return True


def check_single_process(accelerator: Accelerator) -> None:
    """Raise `UnknownOptionError` if `accelerate launch` started several: a state is of one."""
    if accelerator.num_processes > 1:
        raise UnknownOptionError(
            f"Training must run as one process, got {accelerator.num_processes}."
        )
