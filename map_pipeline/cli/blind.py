"""Name the emotions of protected faces without knowing what was asked.

`map-protect blind sheets`, then `map-protect blind score`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Sheets:
    """Write numbered contact sheets and their key.

    Attributes:
        folder: Folder of an evaluation with --emotion all.
        out: New folder for the sheets.
        count: Faces to show.
        seed: Of choice and order.
        method: Whose results, if the run has several methods.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    out: Path
    count: int = 48
    seed: int = 0
    method: str | None = None


@dataclass(frozen=True)
class Score:
    """Compare answers with the key.

    Attributes:
        folder: Folder with the sheets.
        answers: CSV file with the columns number and emotion.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]
    answers: Annotated[Path, tyro.conf.arg(metavar="ANSWERS"), tyro.conf.Positional]


def run_sheets(options: Sheets) -> int:
    """Write the sheets and say what to do with them."""
    from map_pipeline.config import EMOTIONS
    from map_pipeline.evaluation.blind import ANSWERS, KEY, make_sheets

    sheets = make_sheets(options.folder, options.out, options.count, options.seed, options.method)
    print(f"{len(sheets)} sheets: {', '.join(map(str, sheets))}")
    print(f"Write one of {', '.join(EMOTIONS)} for each number into {options.out / ANSWERS},")
    print(f"without a look at {KEY}, then: map-protect blind score {options.out} ", end="")
    print(options.out / ANSWERS)
    return 0


def run_score(options: Score) -> int:
    """Print the confusion table and the accuracy as Markdown."""
    from map_pipeline.evaluation.blind import score

    print(score(options.folder, options.answers))
    return 0


SUBCOMMANDS = {"sheets": (Sheets, run_sheets), "score": (Score, run_score)}
