"""`map-protect evaluate --suite readme`: all questions, one page.

Every part is a run of `map-protect evaluate` in a folder of its own, so a suite that was stopped
goes on, and any part can be repeated alone by the command below its tables.
"""

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from map_pipeline.cli.options import check_writable, load_pipeline
from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.settings import Settings
from map_pipeline.evaluation.suite import (
    COMPARED,
    LINEUP_METHODS,
    LINEUP_PARTS,
    PARTS,
    VIEWERS,
    Part,
    command,
)
from map_pipeline.files import write_atomically

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.cli.evaluate import Options
    from map_pipeline.evaluation.suite_page import Answer
    from map_pipeline.evaluation.tables import Table

# Which photos, people and randomness is up to the user; how they're protected isn't.
FREE = ("skip", "limit", "gallery", "seed")
EMBEDDINGS, MINUTES = "embeddings.npz", "minutes.json"
EVERYBODY = 1_000_000  # questions of a line-up: as many as there are photos


def run(options: "Options") -> int:
    """Do what isn't done yet of every part, and write `suite.md`, `suite.html` and the chart."""
    from map_pipeline.evaluation.suite_page import Answer, write_page

    check_free(options.settings)
    check_writable("--out", options.out)
    minutes = Minutes(options.out / MINUTES)
    answers: list[Answer] = []
    compared: dict[str, Sequence[Table]] = {}
    previous: Path | None = None
    for part in PARTS:
        out, started = options.out / part.name, time.perf_counter()
        share_embeddings(previous, out)
        one = options_of(part, options)
        made = measure_part(one)
        minutes.add(part.name, time.perf_counter() - started)
        line = command(one.pairs, out, one.settings, further(one))
        chosen = [table for table in made if table.name in part.tables]
        answers.append(Answer(part.question, chosen, line, minutes.of(part.name)))
        if part.name in COMPARED:
            compared[part.name] = made
        previous = out
    answers.append(ask_viewers(options))
    started = time.perf_counter()
    costs = cost_of(options)
    minutes.add("cost", time.perf_counter() - started)
    suite = ["--suite", "readme", *(["--quick"] if options.quick else []), *further(options)]
    line = command(options.pairs, options.out, options.settings, suite)
    answers.append(Answer(costs.title, [costs], line, minutes.of("cost")))
    print(write_page(options.out, answers, compared))
    print(f"\nall results: {options.out / 'suite.html'}")
    return 0


def check_free(settings: Settings) -> None:
    """Raise `UnknownOptionError` for options that the suite decides on."""
    for one in fields(Settings):
        value = getattr(settings, one.name)
        if one.name not in FREE and value != one.default:
            raise UnknownOptionError(
                f"`{one.name}` must not be given with `suite`, which chooses it, got {value!r}."
            )


def options_of(part: Part, options: "Options") -> "Options":
    """The options of the run that answers one question."""
    settings = part.complete(options.settings, options.quick)
    out = options.out / part.name
    return replace(options, suite=None, quick=False, settings=settings, out=out)


def further(options: "Options") -> list[str]:
    """The options beside settings that matter for figures, as they're typed."""
    given = [] if options.attributes is None else ["--attributes", str(options.attributes)]
    given += ["--features"] if options.features else []
    if options.judge:
        given += ["--judge", *map(str, options.judge)]
    if options.model.checkpoint is not None:
        given += ["--checkpoint", options.model.checkpoint]
    if options.far != type(options).far:
        given += ["--far", *map(str, options.far)]
    if options.thresholds != "stored":
        given += ["--thresholds", options.thresholds]
    return given


def share_embeddings(previous: Path | None, out: Path) -> None:
    """Let a part start with the embeddings of untouched photos that another has computed."""
    if previous is not None and not (out / EMBEDDINGS).exists():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(previous / EMBEDDINGS, out / EMBEDDINGS)


def measure_part(options: "Options") -> "Sequence[Table]":
    """The tables of one run."""
    from map_pipeline.cli.evaluate import measure

    return measure(options)[0]


def cost_of(options: "Options") -> "Table":
    """What photos of several sizes cost; measured once, on the first of those asked for."""
    import pandas as pd

    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.evaluation.sizes import cost_table, measure_costs
    from map_pipeline.images import load_image, to_array

    file = options.out / ("cost-quick.csv" if options.quick else "cost.csv")
    if file.is_file():
        return cost_table(pd.read_csv(file))
    pipe = load_pipeline(options.model)
    pipe.set_progress_bar_config(disable=True)
    photos = PhotoSet(options.pairs)
    chosen = list(options.settings.chosen(len(photos.pairs)))[:4]
    names = [name for index in chosen if (name := photos.pairs[index].first)]
    pictures = [to_array(load_image(photos.read(name))) for name in names]
    costs = measure_costs(pipe, pictures, options.quick)
    write_atomically(file, costs.to_csv(index=False).encode())
    return cost_table(costs)


def ask_viewers(options: "Options") -> "Answer":
    """Write the sheets of line-ups that aren't there yet, and add up what viewers answered."""
    from map_pipeline.evaluation.answers import is_answered
    from map_pipeline.evaluation.suite_page import Answer, lineup_table

    runs = [options.out / name for name in LINEUP_PARTS]
    folders = [options.out / f"lineup-{number}" for number in range(1, VIEWERS + 1)]
    question = "Do people still find the person?"

    def line(chosen: Sequence[Path]) -> str:
        return f"map-protect lineup score {shlex.join(map(str, chosen))}"

    try:
        for number, folder in enumerate(folders, 1):
            write_sheets(runs, folder, number, options)
    except InvalidImageError as error:  # too few people for this, but not for the rest
        return Answer(question, [], line(folders), note=str(error))
    answered = [folder for folder in folders if is_answered(folder)]
    waiting = [folder.name for folder in folders if folder not in answered]
    note = f"Sheets without answers: {', '.join(waiting)}." if waiting else ""
    made = [lineup_table(answered)] if answered else []
    return Answer(question, made, line(answered or folders), note=note)


def write_sheets(runs: "Sequence[Path]", out: Path, seed: int, options: "Options") -> None:
    """The sheets of one viewer."""
    from map_pipeline.cli.lineup import Sheets, run_sheets
    from map_pipeline.evaluation.answers import KEY

    if not (out / KEY).exists():
        chosen = {"method": LINEUP_METHODS, "count": EVERYBODY, "seed": seed}
        shared = {"attributes": options.attributes, "model": options.model}
        run_sheets(Sheets(tuple(runs), options.pairs, out, **chosen, **shared))


class Minutes:
    """What each part has taken so far, kept in a file: a suite may be stopped and go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, name: str, seconds: float) -> None:
        """Note that a part was worked on."""
        self._known[name] = self.of(name) + seconds / 60
        write_atomically(self._path, json.dumps(self._known, indent=2).encode())

    def of(self, name: str) -> float:
        """Minutes of a part."""
        return self._known.get(name, 0.0)
