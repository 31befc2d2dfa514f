"""Line-ups of protected faces for people to judge.

`map-protect lineup sheets`, then `map-protect lineup score`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from map_pipeline.cli.options import Inline, Model, load_pipeline


@dataclass(frozen=True)
class Sheets:
    """Write line-ups of an evaluation's photos and their key.

    Attributes:
        folder: Folder of the evaluation.
        pairs: Its photo set, whose second photos are shown to choose from.
        out: New folder for the sheets.
        count: Questions to ask.
        untouched: Share of questions with an unprotected photo, 0 to 1.
        seed: Of choice and order.
        method: Whose results, if the run has several methods.
        attributes: JSON lines {"name": ..., "gender": ...}; candidates are of the same gender.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    pairs: Path
    out: Path
    count: int = 48
    untouched: float = 0.33
    seed: int = 0
    method: str | None = None
    attributes: Path | None = None
    model: Inline[Model] = Model()


@dataclass(frozen=True)
class Score:
    """Compare answers with the key.

    Attributes:
        folder: Folder with the sheets.
        answers: CSV file with the columns number, person, emotion and edited.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]
    answers: Annotated[Path, tyro.conf.arg(metavar="ANSWERS"), tyro.conf.Positional]


def run_sheets(options: Sheets) -> int:
    """Write the sheets and say what to do with them."""
    from map_pipeline.evaluation.dataset import PhotoSet, read_attributes
    from map_pipeline.evaluation.gallery import EmbeddingCache
    from map_pipeline.evaluation.lineup import ANSWERS, KEY, make_sheets

    pipe = load_pipeline(options.model)
    sheets = make_sheets(
        options.folder,
        PhotoSet(options.pairs),
        partial(EmbeddingCache(options.folder / "embeddings.npz").embed, pipe),
        pipe.face_detector,
        options.out,
        options.count,
        options.untouched,
        options.seed,
        options.method,
        None if options.attributes is None else read_attributes(options.attributes),
    )
    print(f"{len(sheets)} sheets: {', '.join(map(str, sheets))}")
    print(f"Fill in {options.out / ANSWERS} without looking at {KEY}: who of A to F it is, which")
    print("emotion you see (optional), and whether the face looks edited (yes or no). Then:")
    print(f"map-protect lineup score {options.out} {options.out / ANSWERS}")
    return 0


def run_score(options: Score) -> int:
    """Print the shares as Markdown."""
    from map_pipeline.evaluation.lineup import score

    print(score(options.folder, options.answers))
    return 0


SUBCOMMANDS = {"sheets": (Sheets, run_sheets), "score": (Score, run_score)}
