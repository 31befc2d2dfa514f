"""`map-protect evaluate expressions`: edited expressions against real ones of the same people."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from map_pipeline.cli.options import Inline, Model, load_pipeline
from map_pipeline.errors import check_setting


@dataclass(frozen=True)
class Options:
    """Compare edited expressions with real photos of the same people, without protection.

    dlib, blendshapes and features need `pip install 'map-pipeline[judges]'`.

    Attributes:
        people: Zip of people in several expressions, with labels of subject and emotion.
        split: People kept out of all training and tuning, or those to tune on.
        strengths: Of the edits.
        landmarks: Who finds the 68 points: the bundled network, or dlib.
        blendshapes: MediaPipe's face_landmarker.task, for the distance of its blendshapes.
        features: Compare eyes and mouth by features of EfficientNet-Lite0.
        copy: Measure copies of the expression from the real photo itself, too.
        only: Only people of this source.
        limit: Compare only so many people.
        takes: Take only so many photos of each person and emotion.
        out: CSV file for every single comparison.
        sheet: PNG file for neutral photo, edits and real photo side by side.
        sheet_people: How many people the sheet shows.
    """

    people: Path
    split: Literal["kept", "tuning"] = "kept"
    strengths: tuple[float, ...] = (0.5, 1.0)
    landmarks: Literal["bundled", "dlib"] = "bundled"
    blendshapes: Path | None = None
    features: bool = False
    copy: bool = False
    only: str | None = None
    limit: int | None = None
    takes: int | None = None
    out: Path | None = None
    sheet: Path | None = None
    sheet_people: int = 8
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        check_setting(self, "strengths", bool(self.strengths), "at least one number")
        for name in ("limit", "takes", "sheet_people"):
            check_setting(self, name, (getattr(self, name) or 1) >= 1, ">= 1")
        for name in ("out", "sheet"):
            path = getattr(self, name)
            check_setting(self, name, path is None or not path.exists(), "a new file")


def run(options: Options) -> int:
    """Compare, write what is asked for and print the table."""
    import pandas as pd
    from tqdm import tqdm

    from map_pipeline.errors import InvalidImageError
    from map_pipeline.evaluation.expression_distances import blendshapes, part_features
    from map_pipeline.evaluation.expression_tables import sheet, table
    from map_pipeline.evaluation.expression_truth import (
        MeanExpressions,
        Truth,
        by_person,
        landmark_finder,
        pipeline_copy,
        pipeline_edit,
    )
    from map_pipeline.expression.people import PeoplePhotos

    people = PeoplePhotos(options.people, options.split)
    persons = by_person(people, options.only, options.takes)[: options.limit]
    if not persons:
        raise InvalidImageError(
            f"`people` must show {options.split} people neutral and with another emotion, got none."
        )
    judges = {"features": part_features()} if options.features else {}
    if options.blendshapes:
        judges["blendshapes"] = blendshapes(options.blendshapes)
    pipe = load_pipeline(options.model)
    find = landmark_finder(pipe, options.landmarks)
    copy = pipeline_copy(pipe) if options.copy else None
    truth = Truth(pipe, pipeline_edit(pipe), find, options.strengths, judges, copy)
    others = PeoplePhotos(options.people, "tuning")
    mean = MeanExpressions(truth.shapes(others, by_person(others, takes=options.takes)))
    rows = []
    for photos in tqdm(persons, unit="person"):
        rows += truth.compare_person(people, photos, mean)
    print(table(rows))
    used = {row[name] for row in rows for name in ("file", "neutral")}
    if lost := sorted({photo.file for photos in persons for photo in photos} - used):
        print(f"\nleft out, as no face was found: {', '.join(lost)}", file=sys.stderr)
    if options.out:
        pd.DataFrame(rows).to_csv(options.out, index=False)
    if options.sheet:
        shown = persons[: options.sheet_people]
        sheet(truth, people, shown).save(options.sheet)
    return 0
