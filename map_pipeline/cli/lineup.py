"""Sheets of protected or edited faces for people to judge.

`map-protect lineup sheets` or `map-protect lineup faces`, then `map-protect lineup score`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, load_pipeline
from map_pipeline.errors import check_setting


@dataclass(frozen=True)
class Sheets:
    """Write line-ups of protected photos and their key.

    Attributes:
        folders: Folders of evaluations.
        pairs: Their photo set, whose second photos are shown to choose from.
        out: New folder for the sheets.
        count: Questions to ask.
        untouched: Share of questions with an unprotected photo, 0 to 1.
        seed: Of choice and order.
        method: Whose results, if there are several; more than one are shown in turn.
        attributes: JSON lines {"name": ..., "gender": ...}; candidates are of the same gender.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    pairs: Path
    out: Path
    count: int = 48
    untouched: float = 0.33
    seed: int = 0
    method: tuple[str, ...] = ()
    attributes: Path | None = None
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        check_setting(self, "folders", bool(self.folders), "at least one folder")


@dataclass(frozen=True)
class Faces:
    """Write sheets of single faces, real expressions and edits mixed, and their key.

    Attributes:
        people: Zip of people in several expressions, with labels of subject and emotion.
        out: New folder for the sheets.
        count: Real photos, and edits at each strength.
        strengths: Of the edits.
        seed: Of choice and order.
        split: People kept out of all training and tuning, or those to tune on.
        only: Only people of this source.
    """

    people: Path
    out: Path
    count: int = 16
    strengths: tuple[float, ...] = (0.5, 1.0)
    seed: int = 0
    split: Literal["kept", "tuning"] = "kept"
    only: str | None = None
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        check_setting(self, "strengths", bool(self.strengths), "at least one number")


@dataclass(frozen=True)
class Score:
    """Compare answers with the key; those of several viewers are added up.

    Attributes:
        folders: Folders with sheets and a viewer's answers.csv, which has the columns number,
            person (of line-ups only), emotion and edited.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]

    def __post_init__(self) -> None:
        check_setting(self, "folders", bool(self.folders), "at least one folder")


def run_sheets(options: Sheets) -> int:
    """Write the sheets and say what to do with them."""
    from map_pipeline.evaluation.answers import ANSWERS, KEY
    from map_pipeline.evaluation.dataset import PhotoSet, read_attributes
    from map_pipeline.evaluation.gallery import EmbeddingCache
    from map_pipeline.evaluation.lineup import make_sheets

    pipe = load_pipeline(options.model)
    sheets = make_sheets(
        options.folders,
        PhotoSet(options.pairs),
        partial(EmbeddingCache(options.folders[0] / "embeddings.npz").embed, pipe),
        pipe.face_detector,
        options.out,
        options.count,
        options.untouched,
        options.seed,
        options.method,
        None if options.attributes is None else read_attributes(options.attributes),
    )
    print(f"{len(sheets)} sheets: {', '.join(map(str, sheets))}")
    print(f"Fill in {options.out / ANSWERS} without looking at {KEY}: which of A to F it is, which")
    print("emotion you see (optional), and whether the face looks edited (yes or no). Then:")
    print(f"map-protect lineup score {options.out}")
    return 0


def run_faces(options: Faces) -> int:
    """Write the sheets and say what to do with them."""
    from map_pipeline.evaluation.answers import ANSWERS, KEY
    from map_pipeline.evaluation.expression_truth import face_cutter, pipeline_edit
    from map_pipeline.evaluation.single_faces import make_sheets
    from map_pipeline.expression.people import PeoplePhotos

    people = PeoplePhotos(options.people, options.split)
    pipe = load_pipeline(options.model)
    sheets = make_sheets(
        people,
        pipeline_edit(pipe),
        face_cutter(pipe),
        options.out,
        options.count,
        options.strengths,
        options.seed,
        options.only,
    )
    print(f"{len(sheets)} sheets: {', '.join(map(str, sheets))}")
    print(f"Fill in {options.out / ANSWERS} without looking at {KEY}: which emotion you see, and")
    print("whether the face looks edited (yes or no). Then:")
    print(f"map-protect lineup score {options.out}")
    return 0


def run_score(options: Score) -> int:
    """Print the shares as Markdown."""
    from map_pipeline.evaluation.answers import score

    print(score(options.folders))
    return 0


SUBCOMMANDS = {
    "sheets": (Sheets, run_sheets),
    "faces": (Faces, run_faces),
    "score": (Score, run_score),
}
