"""Sheets of single faces, real ones and edits mixed, and what viewers answer."""

import csv
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from people_zip import write_people
from PIL import Image

from map_pipeline.cli.main import main
from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.answers import score
from map_pipeline.evaluation.sheets import CAPTION, GAP
from map_pipeline.evaluation.single_faces import (
    COLUMNS,
    ROWS,
    SIDE,
    choose,
    make_sheets,
)
from map_pipeline.expression.people import PeoplePhotos, split_of

KEPT = [name for name in map(str, range(60)) if split_of(name) == "kept"][:8]
SHOWN = ("happy", "sad", "fear")
NEUTRAL_BLUE = 9  # of the made-up photos; real expressions have their place in `SHOWN`


def colour(person: int, blue: int) -> tuple[int, int, int]:
    return (20 * person + 10, 200, blue)


@pytest.fixture
def people(tmp_path: Path) -> PeoplePhotos:
    photos = [
        (name, emotion, np.full((40, 40, 3), colour(person, blue), np.uint8))
        for person, name in enumerate(KEPT)
        for blue, emotion in [*enumerate(SHOWN), (NEUTRAL_BLUE, "neutral")]
    ]
    return PeoplePhotos(write_people(tmp_path / "people.zip", photos), "kept")


def edit(photo: np.ndarray, emotion: str, strength: float) -> np.ndarray:
    """The blue of the result says what was asked for."""
    assert photo[0, 0, 2] == NEUTRAL_BLUE
    result = photo.copy()
    result[..., 2] = 100 * strength + SHOWN.index(emotion)
    return result


def cut_out(photo: np.ndarray, before: np.ndarray) -> np.ndarray:
    assert photo.shape == before.shape
    return photo[5:35, 5:35]


def key_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "key.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def answer(path: Path, lines: list[tuple[str, str, str]]) -> Path:
    path.write_text("\n".join(["number,emotion,edited", *map(",".join, lines)]))
    return path


@pytest.fixture
def sheets(people: PeoplePhotos, tmp_path: Path) -> Path:
    make_sheets(people, edit, cut_out, tmp_path / "sheets", count=6)
    return tmp_path / "sheets"


def test_faces_are_what_the_key_says(sheets: Path) -> None:
    key = key_of(sheets)
    assert [line["number"] for line in key] == [str(n) for n in range(1, 19)]
    width, height = SIDE + GAP, SIDE + CAPTION + GAP
    for index, line in enumerate(key):
        sheet, place = divmod(index, COLUMNS * ROWS)
        row, column = divmod(place, COLUMNS)
        with Image.open(sheets / f"sheet-{sheet + 1}.png") as shown:
            middle = (column * width + SIDE // 2, row * height + CAPTION + SIDE // 2)
            blue = SHOWN.index(line["emotion"])
            if line["shown"] != "real":
                blue += round(100 * float(line["shown"].removeprefix("strength ")))
            assert shown.getpixel(middle) == colour(KEPT.index(line["subject"]), blue)
            left, top = column * width, row * height
            caption = shown.crop((left, top, left + width, top + CAPTION))
            whole = caption.convert("L").tobytes()
            assert min(whole) < 50, "there is a number"


def test_groups_have_the_same_emotions_and_nobody_one_of_them_twice(sheets: Path) -> None:
    key = key_of(sheets)
    emotions = {
        shown: Counter(line["emotion"] for line in key if line["shown"] == shown)
        for shown in ("real", "strength 0.5", "strength 1")
    }
    assert emotions["strength 0.5"] == emotions["strength 1"] == emotions["real"]
    assert emotions["real"] == dict.fromkeys(SHOWN, 2)
    pairs = [(line["subject"], line["emotion"]) for line in key]
    assert len(set(pairs)) == len(pairs)
    often = Counter(line["subject"] for line in key).values()
    assert max(often) - min(often) <= 1


def test_order_is_the_seeds(people: PeoplePhotos) -> None:
    a, b, c = (
        [face for face, *_ in choose(people.photos, 6, (1.0,), random.Random(seed))]
        for seed in (0, 0, 1)
    )
    assert a == b != c
    assert [face.shown for face in a] != sorted(face.shown for face in a)


def test_too_few_people_and_wrong_settings_are_named(
    people: PeoplePhotos, sheets: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidImageError, match="`people` must show 9 people for each group"):
        make_sheets(people, edit, cut_out, tmp_path / "new", count=9)
    with pytest.raises(InvalidImageError, match="`people` must show 1 people"):
        make_sheets(people, edit, cut_out, tmp_path / "new", count=1, source="moon")
    with pytest.raises(UnknownOptionError, match="`count` must be at least 1, got 0"):
        make_sheets(people, edit, cut_out, tmp_path / "new", count=0)
    with pytest.raises(UnknownOptionError, match="must be a new folder, got 'sheets'"):
        make_sheets(people, edit, cut_out, sheets)
    with pytest.raises(InvalidImageError, match="`people` must show faces, got none in set/"):
        make_sheets(people, edit, lambda *_: None, tmp_path / "new", count=1)
    assert not (tmp_path / "new").exists()


def test_score(sheets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real faces are named, edits at 1 half of the times; edits are called edited."""
    lines, seen = [], Counter()
    for line in key_of(sheets):
        seen[line["shown"]] += 1
        wrong = line["shown"] == "strength 1" and seen[line["shown"]] > 3
        edited = "no" if line["shown"] == "real" else "yes"
        lines.append((line["number"], "angry" if wrong else line["emotion"], edited))
    answer(sheets / "answers.csv", lines)
    assert main(["lineup", "score", str(sheets)]) == 0
    text = capsys.readouterr().out
    for shown in ("real", "strength 1"):  # one person is shown twice
        assert len({line["subject"] for line in key_of(sheets) if line["shown"] == shown}) == 5
    assert "| real | 6 | 0 % (0-43), 0 of 6 | 100 % (57-100), 6 of 6 |" in text
    assert "| strength 1 | 6 | 100 % (57-100), 6 of 6 | 50 % (16-84), 3 of 6 |" in text
    assert "strength 1: called edited +100 points more often, its emotion named -50 points" in text
    assert "person" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("number,emotion,edited\n1,,no", "a emotion among angry, .*, got ''"),
        ("number,edited\n1,no", "columns number,emotion,edited; got number,edited"),
        ("number,emotion,edited\n1,sad,no", "got none for 2, 3"),
        ("number,emotion,edited\n", "at least one line, got none in 'answers.csv'"),
    ],
)
def test_bad_answers_are_named(content: str, message: str, sheets: Path) -> None:
    path = sheets / "answers.csv"
    path.write_text(content)
    with pytest.raises(UnknownOptionError, match=message):
        score([sheets])


@pytest.mark.weights
def test_the_command_shows_the_edits_of_the_pipeline(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "examples"
    photos = [
        (KEPT[index], emotion, np.array(Image.open(path).convert("RGB").resize((300, 300))))
        for index, (emotion, path) in enumerate(
            [("happy", root / "woman-young-tan.png"), ("neutral", root / "astronaut.png")]
        )
    ]
    zipped = write_people(tmp_path / "people.zip", photos)
    out = tmp_path / "out"
    given = ["--people", str(zipped), "--out", str(out), "--count", "1", "--strengths", "1"]
    assert main(["lineup", "faces", *given]) == 0
    assert {line["shown"] for line in key_of(out)} == {"real", "strength 1"}
    with Image.open(out / "sheet-1.png") as sheet:
        assert sheet.size == (2 * (SIDE + GAP), SIDE + CAPTION + GAP)
    assert main(["lineup", "faces", *given]) == 2
