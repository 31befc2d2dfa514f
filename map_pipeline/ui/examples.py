"""The shipped before/after pairs, which the page shows without running any network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from map_pipeline.report import FaceReport

FILES = ("photo", "protected", "report")


@dataclass(frozen=True)
class Example:
    """One shipped pair with the settings that made it.

    Attributes:
        photo: file of the photo; protected: of the result; both PNG. report: of the measurements.
        reports: what was measured, one per face.
        caption: what a visitor reads.
        emotion, target, mode, seed: settings of the run, see `Choices`.
    """

    photo: Path
    protected: Path
    report: Path
    reports: list[FaceReport]
    caption: str
    emotion: str
    target: str
    mode: str
    seed: int


def load_examples(folder: Path) -> list[Example]:
    """The pairs that `folder/examples.json` lists; those whose files are missing are left out."""
    listing = folder / "examples.json"
    entries = json.loads(listing.read_text()) if listing.is_file() else []
    return [
        _example(folder, entry)
        for entry in entries
        if all((folder / entry[name]).is_file() for name in FILES)
    ]


def _example(folder: Path, entry: dict[str, Any]) -> Example:
    photo, protected, report = (folder / entry[name] for name in FILES)
    return Example(
        photo=photo,
        protected=protected,
        report=report,
        reports=[FaceReport.from_dict(one) for one in json.loads(report.read_text())],
        **{name: entry[name] for name in ("caption", "emotion", "target", "mode", "seed")},
    )
