"""What happens during the fine-tuning on a photo: losses of both objectives and their conflicts.

Each photo is protected as shipped, without projection and without EMA, with the same seed, target
and recognisers (none is left out), and what the pipeline tells after every step is kept. Losses are
those before the step. A layer is in conflict if the identity gradient opposes the average of the
expression gradient, which without EMA is that of the step itself.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student
from tqdm import tqdm

from map_pipeline.config import EMOTIONS, MODES, MAPConfig
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError
from map_pipeline.evaluation.dataset import PhotoSet, Problem
from map_pipeline.evaluation.gallery import embed_largest_face
from map_pipeline.evaluation.methods import Task
from map_pipeline.evaluation.plots import (
    COLOURS,
    MARKERS,
    STYLE,
    add_legend,
    new_figure,
    save_figure,
)
from map_pipeline.evaluation.settings import Settings, surrogates_without
from map_pipeline.evaluation.subjects import Goals, one_line
from map_pipeline.identity.objectives import Side, active, objectives_for
from map_pipeline.images import load_image, to_array, write_atomically
from map_pipeline.pipeline import MAPPipeline

STEPS = "steps.csv"
PICTURE = "curves.png"


@dataclass(frozen=True)
class Variant:
    """The method with some settings changed; `title` is what chart and table call it."""

    title: str
    changes: Mapping[str, object]


class Step(NamedTuple):
    """Losses by objective, and share of layers in conflict, of one step."""

    losses: dict[str, float]
    conflict: float


SHIPPED = "shipped"
VARIANTS = {
    SHIPPED: Variant("as shipped", {}),
    "no_projection": Variant("without projection", {"projection": False}),
    "no_ema": Variant("without EMA", {"ema_decay": 0.0}),
}

Runs = dict[str, dict[str, list[Step]]]
"""Photo -> variant -> its steps; every photo has all variants."""


@dataclass(frozen=True)
class Panel:
    """A quantity: title of its chart, symbol in the table, and its value at a step."""

    title: str
    symbol: str
    value: Callable[[Step], float]


def collect(
    pipe: MAPPipeline, photos: PhotoSet, settings: Settings, mode: str
) -> tuple[Runs, list[Problem]]:
    """Protect every chosen photo in all variants and keep the steps.

    Args:
        settings: which photos (`skip`, `limit`), `emotion`, `targets` and `seed`, meant as in an
            evaluation.
        mode: of the pipeline; the variants are changes of its settings.

    Returns:
        the steps, and photos that couldn't be protected.

    Raises:
        UnknownOptionError: the mode has no conflict to show, no photo is chosen, or an unknown
            target.
        InvalidImageError: none of the chosen photos can be protected.
    """
    _check_mode(mode)
    chosen = settings.chosen(len(photos.pairs))
    if not chosen:
        raise UnknownOptionError(
            f"`skip` must leave photos of {len(photos.pairs)}, got {settings.skip}."
        )
    goals = Goals(pipe, photos, settings.targets or tuple(photos.targets) or ("auto",))
    emotions = EMOTIONS if settings.emotion == "all" else (settings.emotion,)
    pipe.set_progress_bar_config(disable=True)
    runs: Runs = {}
    problems = []
    for index in tqdm(chosen, unit="photo"):
        pair = photos.pairs[index]
        try:
            photo = to_array(load_image(photos.read(pair.first)))
            target = goals.choose(index, embed_largest_face(pipe, photo)).enroll
            emotion = emotions[index % len(emotions)]
            task = Task(photo, emotion, target, surrogates_without(pipe, ""), settings.seed)
            runs[pair.name] = {
                name: follow(pipe, task, mode, replace(MODES[mode], **variant.changes))
                for name, variant in VARIANTS.items()
            }
        except UnknownOptionError:
            raise  # the run is wrong, not this photo
        except MAPError as error:
            problems.append(Problem(pair.name, one_line(error)))
    if not runs:
        raise InvalidImageError(
            "`pairs` must hold a photo that can be protected, got none: "
            f"{problems[0].name}: {problems[0].rule}"
        )
    return runs, problems


def follow(pipe: MAPPipeline, task: Task, mode: str, config: MAPConfig) -> list[Step]:
    """Protect the largest face of a photo and return what each step told."""
    steps: list[Step] = []

    def keep(_pipe: MAPPipeline, _index: int, _timestep: int, given: dict) -> dict:
        steps.append(Step(**given))
        return given

    pipe(
        task.photo,
        emotion=task.emotion,
        target=task.target,
        mode=mode,
        surrogates=task.surrogates,
        config=config,
        generator=torch.Generator().manual_seed(task.seed),
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["losses", "conflict"],
    )
    return steps


def write_results(runs: Runs, mode: str, out: Path) -> None:
    """Write `steps.csv` and `curves.png` into a folder."""
    write_atomically(out / STEPS, to_csv(runs).encode())
    with matplotlib.rc_context(STYLE):
        save_figure(draw(runs, mode), out / PICTURE)


def to_csv(runs: Runs) -> str:
    """A line a photo, variant and step: number of steps taken before, each loss, conflict."""
    names = list(_any_steps(runs)[0].losses)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["photo", "variant", "step", *names, "conflict"])
    writer.writerows(
        [photo, variant, index, *(step.losses[name] for name in names), step.conflict]
        for photo, variants in runs.items()
        for variant, steps in variants.items()
        for index, step in enumerate(steps)
    )
    return buffer.getvalue()


def panels(mode: str) -> list[Panel]:
    """The two objectives, weighted as in this mode, and the conflicts."""
    return [
        _objective("Identity", "L_A", "identity", mode),
        _objective("Expression", "L_E", "expression", mode),
        Panel("Share of conflicting layers", "conflict", lambda step: step.conflict),
    ]


def draw(runs: Runs, mode: str) -> Figure:
    """Mean over the photos against the step, a curve a variant, with a band of 95 %."""
    counted = f"n = {len(runs)}; mean over the photos, band: 95 % interval"
    counted = counted if len(runs) > 1 else "n = 1"
    figure = new_figure(9.0, f"Fine-tuning on a photo, {mode} mode\n{counted}")
    shown = panels(mode)
    charts = figure.subplots(len(shown), 1, sharex=True)
    for axes, panel in zip(charts, shown, strict=True):
        axes.set_title(panel.title)
        for (name, one), colour, marker in zip(VARIANTS.items(), COLOURS, MARKERS, strict=False):
            _band(axes, series(runs, name, panel), one.title, colour, marker)
        axes.set_ylim(bottom=0)
    charts[-1].set(ylim=(0, 1), xlabel="steps taken")
    charts[-1].xaxis.get_major_locator().set_params(integer=True)
    add_legend(figure, *charts[0].get_legend_handles_labels())
    return figure


def to_markdown(runs: Runs, mode: str) -> str:
    """Each objective before the first and the last step and on average, and the conflicts."""
    last = len(_any_steps(runs)) - 1
    lines = [
        f"| {mode} mode, n = {len(runs)} | {' | '.join(v.title for v in VARIANTS.values())} |",
        f"|---{'|---' * len(VARIANTS)}|",
    ]
    *objectives, conflict = panels(mode)
    for panel in objectives:
        values = {name: series(runs, name, panel) for name in VARIANTS}
        lines.append(_row(f"{panel.symbol} at step 0", {n: v[:, 0] for n, v in values.items()}))
        lines += _compared(
            f"{panel.symbol} at step {last}", {n: v[:, -1] for n, v in values.items()}
        )
        lines += _compared(
            f"{panel.symbol}, mean of all steps", {n: v.mean(1) for n, v in values.items()}
        )
    shares = {name: series(runs, name, conflict).mean(1) for name in VARIANTS}
    lines += _compared("share of conflicting layers, mean of all steps", shares)
    terms = "; ".join(panel.title for panel in objectives)
    lines += [
        "",
        f"{terms}. Means over the photos; after ± half of the 95 % interval. Values are those "
        "before the step; the pipeline keeps the best step, which need not be the last. "
        "Differences are taken photo by photo.",
    ]
    return "\n".join(lines)


def series(runs: Runs, variant: str, panel: Panel) -> np.ndarray:
    """A quantity of one variant, `[photos, steps]`."""
    return np.array([[panel.value(step) for step in one[variant]] for one in runs.values()])


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis, and half of its 95 % interval by Student's t; NaN of one value."""
    count = len(values)
    if count == 1:
        return values[0], np.full_like(values[0], np.nan)
    error = values.std(0, ddof=1) / np.sqrt(count)
    return values.mean(0), student.ppf(0.975, count - 1) * error


def _check_mode(mode: str) -> None:
    sides: tuple[Side, ...] = ("identity", "expression")
    able = [
        name
        for name, config in MODES.items()
        if config.refine_steps and all(active(objectives_for(config), side) for side in sides)
    ]
    if mode not in able:
        raise UnknownOptionError(
            f"`mode` must be one that weighs identity and expression ({', '.join(able)}), "
            f"got {mode!r}."
        )


def _objective(name: str, symbol: str, side: Side, mode: str) -> Panel:
    parts = active(objectives_for(MODES[mode]), side)
    terms = (part.name if part.weight == 1 else f"{part.weight:g} {part.name}" for part in parts)
    return Panel(
        f"{name} loss {symbol} = {' + '.join(terms)}",
        symbol,
        lambda step: sum(part.weight * step.losses[part.name] for part in parts),
    )


def _band(axes: Axes, values: np.ndarray, label: str, colour: str, marker: str) -> None:
    mean, half = mean_and_half(values)
    taken = np.arange(len(mean))
    axes.plot(taken, mean, color=colour, marker=marker, ms=4, label=label)
    axes.fill_between(taken, mean - half, mean + half, color=colour, alpha=0.15, lw=0)


def _compared(label: str, values: Mapping[str, np.ndarray]) -> list[str]:
    """Two rows: values `[photos]` by variant, and what they differ from those as shipped."""
    differences = {n: v - values[SHIPPED] for n, v in values.items() if n != SHIPPED}
    return [_row(label, values), _row("less that as shipped", differences, "+")]


def _row(label: str, values: Mapping[str, np.ndarray], sign: str = "") -> str:
    cells = (_cell(values[name], sign) if name in values else "" for name in VARIANTS)
    return f"| {label} | {' | '.join(cells)} |"


def _cell(values: np.ndarray, sign: str) -> str:
    mean, half = mean_and_half(values)
    return f"{mean:{sign}.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")


def _any_steps(runs: Runs) -> list[Step]:
    """The steps of one photo; all have as many."""
    return next(iter(runs.values()))[SHIPPED]
