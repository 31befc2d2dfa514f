import csv
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import make_rows

from map_pipeline.cli.main import main
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError
from map_pipeline.evaluation.answers import LETTERS, score
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.lineup import (
    FACE,
    QUESTIONS,
    alike,
    inner_face,
    make_sheets,
)
from map_pipeline.evaluation.results import append_rows, photo_file, photos_file
from map_pipeline.evaluation.sheets import CAPTION, GAP
from map_pipeline.faces.align import arcface_template
from map_pipeline.faces.detect import Face
from map_pipeline.images import load_image, save_image, to_array, to_pil

PEOPLE = 12
SIDE = 96
SOURCE, SECOND = 1, 2  # blue of the unprotected and of the second photos; protected ones have 0


class Detector:
    """Every picture is one aligned face, unless it's black."""

    name = "fixed"

    def detect(self, photo: np.ndarray) -> list[Face]:
        if not photo.any():
            return []
        return [Face((0, 0, SIDE, SIDE), arcface_template(SIDE, 0.02).numpy(), 1.0)]


def picture(person: int, blue: int = 0) -> np.ndarray:
    """Person i is a face of brightness 10 i."""
    return np.full((SIDE, SIDE, 3), (10 * person + 20, 10 * person + 20, blue), np.uint8)


def embed(content: bytes) -> dict[str, np.ndarray]:
    """People of neighbouring numbers are alike; person 11 shows no face."""
    angle = to_array(load_image(content))[0, 0, 0] / 200
    if angle == 130 / 200:
        raise InvalidImageError("`image` must show a face")
    return {"one": np.array([np.cos(angle), np.sin(angle)])}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for person in range(PEOPLE):
            for role, blue in (("a", SOURCE), ("b", SECOND)):
                content = io.BytesIO()
                to_pil(picture(person, blue)).save(content, "PNG")
                archive.writestr(f"{person}_{role}.png", content.getvalue())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    out = tmp_path / "run"
    out.mkdir()
    rows = make_rows([str(index) for index in range(PEOPLE)], ["map"], ["plain"])[1]
    append_rows(photos_file(out), rows)
    for row in rows:
        person = int(row.photo)
        save_image(to_pil(picture(person, SOURCE)), photo_file(out, "source", row.photo))
        save_image(to_pil(picture(person)), photo_file(out, "map", row.photo, row.left_out))
    return out


@pytest.fixture
def make(run: Path, pairs: Path) -> Callable[..., list[Path]]:
    def call(out: Path, **settings: object) -> list[Path]:
        return make_sheets([run], PhotoSet(pairs), embed, Detector(), out, **settings)

    return call


@pytest.fixture
def sheets(make: Callable, tmp_path: Path) -> Path:
    make(tmp_path / "sheets")
    return tmp_path / "sheets"


def key_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "key.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def answer(path: Path, lines: list[tuple[str, str, str, str]]) -> Path:
    path.write_text("\n".join(["number,person,emotion,edited", *map(",".join, lines)]))
    return path


def test_every_question_shows_what_its_key_says(sheets: Path) -> None:
    key = key_of(sheets)
    assert [line["number"] for line in key] == [str(n) for n in range(1, PEOPLE)]
    assert {line["photo"] for line in key} == {str(n) for n in range(PEOPLE - 1)}  # 11 has no face
    cell, height = FACE + GAP, FACE + CAPTION + GAP
    for index, line in enumerate(key):
        sheet, row = divmod(index, QUESTIONS)
        with Image.open(sheets / f"sheet-{sheet + 1}.png") as shown:
            middle = row * height + CAPTION + FACE // 2
            face = shown.getpixel((GAP // 2 + FACE // 2, middle))
            blue = SOURCE if line["shown"] == "untouched" else 0
            assert face == tuple(picture(int(line["photo"]), blue)[0, 0])
            choices = line["choices"].split(" ")
            assert choices[LETTERS.index(line["person"])] == line["photo"]
            assert len(set(choices)) == 6
            for column, name in enumerate(choices, 1):
                place = (column * cell + 3 * GAP + GAP // 2 + FACE // 2, middle)
                assert shown.getpixel(place) == tuple(picture(int(name), SECOND)[0, 0])
            caption = shown.crop((0, row * height, cell, row * height + CAPTION)).convert("L")
            assert min(caption.tobytes()) < 50  # there is a number


def test_a_third_is_untouched_and_tells_no_emotion(sheets: Path) -> None:
    untouched = [line for line in key_of(sheets) if line["shown"] == "untouched"]
    assert len(untouched) == 4
    assert {line["emotion"] for line in untouched} == {""}


def test_the_order_is_the_seeds(make: Callable, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, seed=seed)
    a, b, c = (key_of(tmp_path / name) for name in "abc")
    assert a == b != c
    assert [line["photo"] for line in a] != [line["photo"] for line in c]


def test_candidates_are_the_most_alike_and_of_the_same_gender() -> None:
    known = {str(n): {"one": np.array([np.cos(n / 20), np.sin(n / 20)])} for n in range(12)}
    assert set(alike("5", known, {})) < {"2", "3", "4", "6", "7", "8"}
    genders = {str(n): {"gender": "female" if n % 2 else "male"} for n in range(12)}
    assert set(alike("5", known, genders)) == {"1", "3", "7", "9", "11"}
    with pytest.raises(InvalidImageError, match="must show 5 others to choose from for 0, got 2"):
        alike("0", {name: known[name] for name in "012"}, {})


def test_the_inner_face_has_no_hair_and_no_background() -> None:
    photo = np.zeros((SIDE, SIDE, 3), np.uint8)
    photo[20:80, 15:81] = 255  # a face on black
    face = np.asarray(inner_face(photo, Detector()))
    assert face.shape == (FACE, FACE, 3)
    assert (face[FACE // 2, FACE // 2] == 255).all()
    for corner in (face[0, 0], face[0, -1], face[-1, 0], face[-1, -1], face[5, FACE // 2]):
        assert (corner == 128).all()
    with pytest.raises(InvalidImageError, match="must show a face"):
        inner_face(photo * 0, Detector())


def test_wrong_settings(make: Callable, sheets: Path, tmp_path: Path, run: Path) -> None:
    with pytest.raises(UnknownOptionError, match=r"`--out` must be a new folder, got 'sheets'"):
        make(sheets)
    with pytest.raises(UnknownOptionError, match="`count` must be at least 1"):
        make(tmp_path / "new", count=0)
    with pytest.raises(UnknownOptionError, match=r"`--method` must be among map; got 'pgd'"):
        make(tmp_path / "new", methods=["pgd"])
    [row] = [path for path in (run / "photos" / "map").iterdir() if path.name.startswith("3.")]
    row.unlink()
    with pytest.raises(MAPError, match=r"`RUN` must hold the pictures .* got no photos/map/3\."):
        make(tmp_path / "new", untouched=0.0)
    photos_file(run).unlink()
    with pytest.raises(UnknownOptionError, match="`RUN` must be the folder of an evaluation"):
        make(tmp_path / "new")


def test_score(sheets: Path) -> None:
    lines = []
    for line in key_of(sheets):
        untouched = line["shown"] == "untouched"
        wrong = next(letter for letter in LETTERS if letter != line["person"])
        # One protected face isn't found; all protected ones look edited, and one untouched does.
        person = (
            wrong if line["photo"] in ("2", "5", "7", "9") and not untouched else line["person"]
        )
        edited = "no" if untouched else "Yes"
        lines.append((line["number"], person.lower(), line["emotion"], edited))
    answer(sheets / "answers.csv", lines)
    text = score([sheets])
    protected = [line for line in key_of(sheets) if line["shown"] == "map"]
    lost = sum(line["photo"] in ("2", "5", "7", "9") for line in protected)
    found = len(protected) - lost
    assert "| untouched | 4 | 100 % (51-100), 4 of 4 | 0 % (0-49), 0 of 4 | - |" in text
    assert f"{found} of {len(protected)}" in text
    assert f"{len(protected)} of {len(protected)} | 100 %" in text
    assert f"found in {100 * found / len(protected):.0f} % of the cases" in text
    assert "edited +100 points" in text
    # As if two viewers agreed; the people are still four.
    assert "| untouched | 8 | 100 % (51-100), 8 of 8 |" in score([sheets, sheets])


def test_methods_of_several_runs_take_turns(run: Path, pairs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    rows = make_rows([str(index) for index in range(PEOPLE)], ["blur", "pgd"], ["plain"])[1]
    append_rows(photos_file(other), rows)
    for row in rows:
        face = to_pil(picture(int(row.photo)))
        save_image(face, photo_file(other, row.method, row.photo, row.left_out))
        save_image(face, photo_file(other, "source", row.photo))

    def shown(out: str, runs: list[Path], *methods: str) -> list[str]:
        make_sheets(runs, PhotoSet(pairs), embed, Detector(), tmp_path / out, methods=methods)
        return [line["shown"] for line in key_of(tmp_path / out) if line["emotion"]]

    assert shown("both", [run, other], "map", "blur") == ["map", "blur"] * 3 + ["map"]
    with pytest.raises(UnknownOptionError, match="must be among map, blur, pgd; got none"):
        shown("all", [run, other])
    with pytest.raises(UnknownOptionError, match="must be in one run, got 'blur' in several"):
        shown("twice", [other, shutil.copytree(other, tmp_path / "copy")], "blur")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"must be a CSV file, got 'answers.csv' \(No such file"),
        (b"\xff\xfe\x00", r"'answers.csv' \(no text\)"),
        (b"", "columns number,person,emotion,edited; got none"),
        (b"number,person,emotion,edited\n99,A,,no", "numbers of the sheets, got '99' in line 2"),
        (b"number,person,emotion,edited\n1,A,,no\n1,B,,no", "once, got '1' in line 3"),
        (b"number,person,emotion,edited\n1,G,,no", "a person among a, b, .*, got 'g' in line 2"),
        (b"number,person,emotion,edited\n1,A,joy,no", "an emotion among|a emotion among angry"),
        (b"number,person,emotion,edited\n1,A,,maybe", "edited among yes, no, got 'maybe'"),
        (b"number,person,emotion,edited\n1,A,happy,no", "got none for 2, 3, 4"),
    ],
)
def test_bad_answers_are_named(content: bytes | None, message: str, sheets: Path) -> None:
    path = sheets / "answers.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnknownOptionError, match=message):
        score([sheets])


def test_scores_on_the_command_line(
    sheets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["lineup", "score", str(tmp_path)]) == 2
    assert "`DIR` must hold a key" in capsys.readouterr().err
    lines = [(line["number"], line["person"], "", "no") for line in key_of(sheets)]
    answer(sheets / "answers.csv", lines)
    assert main(["lineup", "score", str(sheets)]) == 0
    assert "found in 100 % of the cases" in capsys.readouterr().out
