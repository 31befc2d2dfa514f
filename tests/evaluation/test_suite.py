"""Parts of a suite: what they measure, and that they can be repeated alone."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from map_pipeline.cli.evaluate import Options
from map_pipeline.cli.options import parse
from map_pipeline.evaluation.answers import ANSWERS, KEY, is_answered, write_table
from map_pipeline.evaluation.names import resolve
from map_pipeline.evaluation.settings import Settings
from map_pipeline.evaluation.sizes import calls
from map_pipeline.evaluation.suite import COMPARED, PARTS, Part, command
from map_pipeline.evaluation.suite_page import Answer, joined, lineup_table, to_markdown, write_page
from map_pipeline.evaluation.tables import Table

PART = Part("one", "Why?", {"methods": ("none",)}, most=24, quick=2)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_command_of_a_part_gives_its_settings(part: Part) -> None:
    settings = part.complete(Settings(skip=62, limit=38, seed=3), quick=False)
    line = command(Path("some pairs.zip"), Path("out"), settings, ["--judge", "judge.onnx"])
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("map-protect", "evaluate")
    parsed = parse(Options, arguments, name)
    assert parsed.settings == settings
    assert (parsed.pairs, parsed.out) == (Path("some pairs.zip"), Path("out"))
    assert parsed.judge == (Path("judge.onnx"),)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_all_that_a_part_names_exists(part: Part) -> None:
    settings = resolve(part.complete(Settings(), quick=False))
    assert "share" in settings.transforms
    assert len(set(settings.methods)) == len(settings.methods)


def test_parts_have_folders_of_their_own() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert set(COMPARED) <= set(names)
    assert all(part.tables and part.question.endswith("?") for part in PARTS)


@pytest.mark.parametrize(
    ("limit", "quick", "found"), [(None, False, 24), (9, False, 9), (None, True, 2), (1, True, 1)]
)
def test_the_smallest_bound_counts(limit: int | None, quick: bool, found: int) -> None:
    assert PART.complete(Settings(limit=limit), quick).limit == found


def test_all_photos_where_nothing_bounds_them() -> None:
    assert replace(PART, most=None).complete(Settings(), quick=False).limit is None


def test_one_method_with_two_budgets_stays_two() -> None:
    def tables(title: str, ssim: float) -> list[Table]:
        shown = pd.DataFrame({"method": [title]})
        share = pd.DataFrame({"method": ["pgd"], "measure": ["dodging"], "share": [0.5]})
        mean = pd.DataFrame({"method": ["pgd"], "measure": ["face_ssim"], "mean": [ssim]})
        return [Table("protection", "?", share, shown), Table("quality", "?", mean, shown)]

    both = joined({"noise-4": tables("PGD, eps 4", 0.9), "noise-8": tables("PGD, eps 8", 0.8)})
    kept = both["quality"].figures.set_index("method")["mean"]
    assert kept.to_dict() == {"PGD, eps 4": 0.9, "PGD, eps 8": 0.8}
    assert both["protection"].figures["method"].tolist() == ["PGD, eps 4", "PGD, eps 8"]


def test_a_question_its_table_and_its_command_stand_together() -> None:
    table = Table("cost", "What does it cost?", pd.DataFrame(), pd.DataFrame({"seconds": ["3.1"]}))
    other = replace(table, title="And twice?")
    text = to_markdown(Answer("What does it cost?", [table, other], "map-protect evaluate", 2.4))
    assert text.count("What does it cost?") == 1
    assert text.index("3.1") < text.index("And twice?") < text.index("`map-protect evaluate`")
    assert "(2 minutes)" in text


def test_costs_are_measured_on_photos_of_the_promised_size() -> None:
    photos = [np.zeros((100, 80, 3), np.uint8)] * 2
    found = {what: (faces, given) for what, faces, given in calls(photos, quick=True)}
    assert found["256 px"][1][0].shape == (256, 256, 3)
    assert found["12 MP"][1][0].shape[:2] == (3464, 3464)
    assert found["2 faces side by side"][0] == 2
    assert found["2 faces side by side"][1][0].shape == (256, 512, 3)
    whole = {what: (faces, given) for what, faces, given in calls(photos, quick=False)}
    assert whole["50 MP"][1][0].shape[:2] == (7071, 7071)
    assert len(whole["16 photos of 256 px"][1]) == whole["16 photos of 256 px"][0] == 16


def test_viewers_are_added_up_and_drawn(tmp_path: Path) -> None:
    lines = [("1", "A", "map"), ("2", "B", "map"), ("3", "C", "untouched"), ("4", "D", "blur")]
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        key = [(*line, "happy" if line[2] == "map" else "", line[0]) for line in lines]
        write_table(folder / KEY, ("number", "person", "shown", "emotion", "photo"), key)
        given = [
            (number, "A" if number == "2" else person, "", "no") for number, person, _ in lines
        ]
        write_table(folder / ANSWERS, ("number", "person", "emotion", "edited"), given)
    table = lineup_table(folders)
    found = table.figures.query("measure == 'found'").set_index("method")
    assert found["share"].to_dict() == {"map": 0.5, "untouched": 1, "blur": 1}
    assert found["n"].to_dict() == {"map": 4, "untouched": 2, "blur": 2}
    assert table.shown.set_index("method")["found"]["MAP"].startswith("50.0 %")
    once = lineup_table(folders[:1]).figures.query("measure == 'found'").set_index("method")
    # A second viewer who says the same of the same people makes nothing more certain.
    assert found[["low", "high"]].to_numpy() == pytest.approx(once[["low", "high"]].to_numpy())

    def part(name: str, method: str) -> list[Table]:
        line = {"method": [method], "measure": ["dodging"], "transformation": ["none"]}
        numbers = {"share": [0.9], "low": [0.8], "high": [0.95], "n": [9]}
        mean = pd.DataFrame({"method": [method], "measure": ["face_ssim"], "mean": [0.9]})
        shown = pd.DataFrame({"method": [name]})
        protection = Table("protection", "?", pd.DataFrame({**line, **numbers}), shown)
        return [protection, Table("quality", "?", mean, shown)]

    answer = Answer("Do people still find the person?", [table], "map-protect lineup score", 0)
    compared = {"hide": part("MAP", "map"), "others": part("Gaussian blur", "blur")}
    text = write_page(tmp_path, [answer], compared)
    assert "untouched" in text
    assert (tmp_path / "suite.html").read_text().count("data:image/png;base64,") == 2
    blank = folders[0]
    assert is_answered(blank)
    write_table(blank / ANSWERS, ("number", "person", "emotion", "edited"), [("1", "", "", "")])
    assert not is_answered(blank)
