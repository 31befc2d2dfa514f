import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import make_rows

from map_pipeline.cli.main import main
from map_pipeline.config import EMOTIONS
from map_pipeline.errors import MAPError, UnknownOptionError
from map_pipeline.evaluation.blind import CAPTION, FACE, GAP, make_sheets, score
from map_pipeline.evaluation.protocol import wilson
from map_pipeline.evaluation.results import PhotoRow, append_rows, photo_file, photos_file
from map_pipeline.images import save_image, to_pil

PEOPLE = 15


def write_run(out: Path, rows: list[PhotoRow]) -> None:
    """Photos of an evaluation: person i has a face of brightness 10 i on white."""
    out.mkdir()
    append_rows(photos_file(out), rows)
    white = np.full((100, 80, 3), 255, np.uint8)
    for row in rows:
        result = white.copy()
        result[30:70, 20:60] = 10 * int(row.photo.split("@")[0])
        save_image(to_pil(white), photo_file(out, "source", row.photo))
        save_image(to_pil(result), photo_file(out, row.method, row.photo, row.left_out))


@pytest.fixture
def rows() -> list[PhotoRow]:
    return make_rows([str(index) for index in range(PEOPLE)], ["map"], ["plain"])[1]


@pytest.fixture
def run(tmp_path: Path, rows: list[PhotoRow]) -> Path:
    write_run(tmp_path / "run", rows)
    return tmp_path / "run"


@pytest.fixture
def sheets(run: Path, tmp_path: Path) -> Path:
    make_sheets(run, tmp_path / "sheets")
    return tmp_path / "sheets"


def key_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "key.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def answer(path: Path, answers: dict[str, str]) -> Path:
    lines = ["number,emotion", *(f"{number},{emotion}" for number, emotion in answers.items())]
    path.write_text("\n".join(lines))
    return path


def test_each_face_stands_under_its_number(sheets: Path) -> None:
    assert {path.name for path in sheets.iterdir()} == {
        *("key.csv", "answers.csv"),
        *("sheet-1.png", "sheet-2.png"),
    }
    key = key_of(sheets)
    assert [line["number"] for line in key] == [str(number) for number in range(1, PEOPLE + 1)]
    assert {line["photo"] for line in key} == {str(index) for index in range(PEOPLE)}
    width, height = FACE + GAP, FACE + CAPTION + GAP
    for index, line in enumerate(key):
        assert line["emotion"] == EMOTIONS[int(line["photo"]) % 7]
        sheet, place = divmod(index, 12)
        with Image.open(sheets / f"sheet-{sheet + 1}.png") as picture:
            centre = (place % 4 * width + width // 2, place // 4 * height + CAPTION + FACE // 2)
            assert picture.getpixel(centre) == (10 * int(line["photo"]),) * 3
            number = (place % 4 * width, place // 4 * height, (place % 4 + 1) * width)
            caption = picture.crop((*number, place // 4 * height + CAPTION)).convert("L")
            assert min(caption.tobytes()) < 50  # there is a number


def test_the_order_is_the_seeds_and_not_the_runs(run: Path, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_sheets(run, tmp_path / name, seed=seed)
        orders.append([line["photo"] for line in key_of(tmp_path / name)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0], key=int)


def test_only_so_many_are_shown(run: Path, tmp_path: Path) -> None:
    assert len(make_sheets(run, tmp_path / "some", count=5)) == 1
    assert len(key_of(tmp_path / "some")) == 5


def test_failures_and_styles_are_left_out(tmp_path: Path) -> None:
    rows = make_rows(["0", "1", "2"], ["map"], ["plain", "grey"])[1]
    rows[0] = dataclasses.replace(rows[0], status="`image` must show a face")
    write_run(tmp_path / "run", rows)
    make_sheets(tmp_path / "run", tmp_path / "sheets")
    assert {line["photo"] for line in key_of(tmp_path / "sheets")} == {"1", "2"}


def test_one_method_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "run", make_rows(["0", "1"], ["map", "blur"], ["plain"])[1])
    with pytest.raises(UnknownOptionError, match=r"`--method` must be one of map, blur; got none"):
        make_sheets(tmp_path / "run", tmp_path / "sheets")
    with pytest.raises(UnknownOptionError, match=r"one of map, blur; got 'pgd'"):
        make_sheets(tmp_path / "run", tmp_path / "sheets", method="pgd")
    make_sheets(tmp_path / "run", tmp_path / "sheets", method="blur")
    assert {line["method"] for line in key_of(tmp_path / "sheets")} == {"blur"}


def test_answers_are_never_overwritten(run: Path, sheets: Path) -> None:
    with pytest.raises(UnknownOptionError, match=r"`--out` must be a new folder, got 'sheets'"):
        make_sheets(run, sheets)


def test_what_is_no_run_is_refused(tmp_path: Path, rows: list[PhotoRow]) -> None:
    with pytest.raises(UnknownOptionError, match=r"`RUN` must be the folder .* got 'nowhere'"):
        make_sheets(tmp_path / "nowhere", tmp_path / "sheets")
    write_run(tmp_path / "happy", [dataclasses.replace(row, emotion="happy") for row in rows])
    with pytest.raises(UnknownOptionError, match=r"several emotions \(all\), got only happy"):
        make_sheets(tmp_path / "happy", tmp_path / "sheets")
    write_run(tmp_path / "part", rows)
    photo_file(tmp_path / "part", "map", "7", rows[7].left_out).unlink()
    with pytest.raises(MAPError, match=r"got no photos/map/7\.without_"):
        make_sheets(tmp_path / "part", tmp_path / "sheets")
    assert not (tmp_path / "sheets").exists()
    with pytest.raises(UnknownOptionError, match="`count` must be at least 1, got 0"):
        make_sheets(tmp_path / "part", tmp_path / "sheets", count=0)


def test_score(sheets: Path, tmp_path: Path) -> None:
    key = {line["number"]: line["emotion"] for line in key_of(sheets)}
    wrong = [number for number, emotion in key.items() if emotion == "fear"]
    named = {**key, **dict.fromkeys(wrong, "Surprise ")}
    text = score(sheets, answer(tmp_path / "mine.csv", named))
    table = [
        [cell.strip() for cell in re.split(r"\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert table[0] == ["asked, named", *EMOTIONS, "named right"]
    by_emotion = {row[0]: row[1:] for row in table[2:]}
    asked = {emotion: list(key.values()).count(emotion) for emotion in EMOTIONS}
    assert by_emotion["fear"][:7] == ["0"] * 6 + [str(asked["fear"])]
    assert by_emotion["happy"][3] == str(asked["happy"])
    assert by_emotion["happy"][7].startswith("100.0 %")
    right = PEOPLE - len(wrong)
    low, high = (round(100 * bound) for bound in wilson(right, PEOPLE))
    share = f"{100 * right / PEOPLE:.1f} % ({low}-{high})"
    assert f"Named right: {right} of {PEOPLE}, {share}; by chance 14.3 %" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"must be a CSV file, got 'mine.csv' \(No such file"),
        (b"\xff\xfe\x00", r"'mine.csv' \(no text\)"),
        (b"", "columns number,emotion; got none"),
        (b"1,happy", "columns number,emotion; got 1,happy"),
        (b"number,emotion\n99,happy", "numbers of the sheets, got '99' in line 2 of mine.csv"),
        (b"number,emotion\none,happy", "got 'one' in line 2"),
        (b"number,emotion\n1,happy\n1,sad", "each face once, got 1 again in line 3"),
        (b"number,emotion\n1,joy", "one of angry, .* surprise, got 'joy' in line 2"),
        (b"number,emotion\n1,happy\n2,sad\n3,", "every face, got none for 3, 4, 5, 6"),
        (b"number,emotion\n1", "every face, got none for 1, 2"),
    ],
)
def test_bad_answers_are_named(
    content: bytes | None, message: str, sheets: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnknownOptionError, match=message):
        score(sheets, path)


def test_a_folder_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="`DIR` must be a folder of `map-protect blind"):
        score(tmp_path, tmp_path / "answers.csv")


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "sheets"
    assert main(["blind", "sheets", str(run), "--out", str(out), "--count", "8"]) == 0
    assert "1 sheet" in capsys.readouterr().out
    assert main(["blind", "score", str(out), str(out / "answers.csv")]) == 2
    assert "got none for 1, 2, 3, 4, 5, 6, 7, 8 in answers.csv" in capsys.readouterr().err
    key = {line["number"]: line["emotion"] for line in key_of(out)}
    answer(out / "answers.csv", key)
    assert main(["blind", "score", str(out), str(out / "answers.csv")]) == 0
    assert "Named right: 8 of 8, 100.0 %" in capsys.readouterr().out
