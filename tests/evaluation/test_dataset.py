import json
import zipfile
from pathlib import Path

import pytest

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.dataset import Pair, PhotoSet, Problem, TargetPhotos, read_attributes

FILES = {
    "002_b.jpg": b"second of two",
    "002_a.png": b"first of two",
    "001_a.png": b"first of one",
    "001_b.png": b"second of one",
    "targets/77_enroll.jpg": b"enroll",
    "targets/77_probe.jpg": b"probe",
    "README.md": b"not a photo",
}
PAIRS = [Pair("001", "001_a.png", "001_b.png"), Pair("002", "002_a.png", "002_b.jpg")]
FOLDERS = {
    "lfw/Ada/Ada_0001.jpg": b"first of Ada",
    "lfw/Ada/Ada_0002.jpg": b"second of Ada",
    "lfw/Ada/Ada_0003.jpg": b"third of Ada",
    "lfw/Bob/2.png": b"second of Bob",
    "lfw/Bob/10.png": b"first of Bob",
    "targets/77_enroll.jpg": b"enroll",
    "targets/77_probe.jpg": b"probe",
}


def write(path: Path, files: dict[str, bytes]) -> Path:
    """A folder or zip with the given files; names that end in a slash are empty folders."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        if name.endswith("/"):
            (path / name).mkdir(parents=True)
            continue
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture(params=["folder", "set.zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_pairs_in_order_and_target(place: Path) -> None:
    photos = PhotoSet(write(place, FILES))
    assert photos.pairs == PAIRS
    assert photos.read("002_b.jpg") == b"second of two"
    assert photos.problems == []
    assert photos.targets == ["77"]
    assert photos.target("77") == TargetPhotos("77", b"enroll", b"probe")


def test_one_folder_per_identity(place: Path) -> None:
    photos = PhotoSet(write(place, FOLDERS))
    assert photos.pairs == [
        Pair("Ada", "lfw/Ada/Ada_0001.jpg", "lfw/Ada/Ada_0002.jpg"),
        Pair("Bob", "lfw/Bob/10.png", "lfw/Bob/2.png"),
    ]
    assert photos.targets == ["77"]
    assert photos.problems == []
    again = {f"{folder}/x_{role}.png": b"" for folder in ("one", "two") for role in "ab"}
    names = [pair.name for pair in PhotoSet(write(place.with_stem("again"), again)).pairs]
    assert names == ["one__x", "two__x"]


def test_problems_of_folders(place: Path) -> None:
    more = {"lfw/Eve/only.png": b"", "lfw/Nil/": b"", "loose.jpg": b""}
    photos = PhotoSet(write(place, {**FOLDERS, **more}))
    assert photos.pairs[2:] == [Pair("Eve", "lfw/Eve/only.png", None)]
    rules = {problem.name: problem.rule for problem in photos.problems}
    assert set(rules) == {"lfw/Eve/only.png", "lfw/Nil", "loose.jpg"}
    assert "no second photo" in rules["lfw/Eve/only.png"]
    assert "without any photo" in rules["lfw/Nil"]
    assert "in none of them" in rules["loose.jpg"]


@pytest.mark.parametrize("name", ["88", "99", "001"])
def test_unknown_target(place: Path, name: str) -> None:
    photos = PhotoSet(write(place, {**FILES, "targets/88_enroll.jpg": b"lonely"}))
    with pytest.raises(UnknownOptionError, match=f"`target` must be one of 77; got '{name}'"):
        photos.target(name)
    [problem] = photos.problems
    assert problem.name == "targets/88_enroll.jpg"


def test_lonely_photos_are_listed(place: Path) -> None:
    """A photo to protect is kept without its partner; a partner alone can't be used."""
    photos = PhotoSet(write(place, {**FILES, "003_a.png": b"alone", "004_b.png": b"alone too"}))
    assert photos.pairs == [*PAIRS, Pair("003", "003_a.png", None)]
    rules = {problem.name: problem.rule for problem in photos.problems}
    assert set(rules) == {"003_a.png", "004_b.png"}
    assert "left out of dodging" in rules["003_a.png"]
    assert "no photo to protect" in rules["004_b.png"]


def test_other_files_are_listed(place: Path) -> None:
    more = {"005_a.psd": b"", "holiday.png": b"", "001_a.jpg": b"again", "__MACOSX/001_a.png": b""}
    photos = PhotoSet(write(place, {**FILES, **more}))
    assert [pair.name for pair in photos.pairs] == ["001", "002"]
    assert {problem.name for problem in photos.problems} >= {"005_a.psd", "holiday.png"}
    # Whichever of the two comes first by name is used, and the other is named.
    assert photos.pairs[0].first == "001_a.jpg"
    taken = Problem("001_a.png", "the place is taken by 001_a.jpg; left out")
    assert taken in photos.problems


@pytest.mark.parametrize(
    "files", [{"notes.txt": b""}, {"picture.png": b""}, {"001_b.png": b""}, {"empty/": b""}]
)
def test_nobody_to_protect(place: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidImageError, match=r"`pairs` must hold.*NAME_a.*got none"):
        PhotoSet(write(place, files))


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"not a zip")
    for name in ("file.zip", "missing"):
        with pytest.raises(InvalidImageError, match=f"`pairs` must be a folder or a zip.*{name}"):
            PhotoSet(tmp_path / name)


def test_damaged_file_in_a_zip(tmp_path: Path) -> None:
    path = write(tmp_path / "set.zip", FILES)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"first of two", b"first of tvo"))
    photos = PhotoSet(path)
    with pytest.raises(InvalidImageError, match=r"`image` must be readable, got '002_a.png'"):
        photos.read("002_a.png")
    assert photos.read("001_a.png") == b"first of one"


def test_fingerprint_tells_sets_apart(tmp_path: Path) -> None:
    folder = PhotoSet(write(tmp_path / "folder", FILES))
    same = PhotoSet(write(tmp_path / "set.zip", FILES))
    other = PhotoSet(write(tmp_path / "other.zip", {**FILES, "003_a.png": b""}))
    assert folder.fingerprint() == same.fingerprint() != other.fingerprint()


def test_attributes_with_ages_in_bands(tmp_path: Path) -> None:
    path = tmp_path / "attributes.jsonl"
    lines = [{"name": "001", "gender": "female", "skin_tone": 3}, {"name": 2, "age": "20-29"}]
    ages = {0: "0-19", 19.9: "0-19", 20: "20-39", 59: "40-59", 60: "60+"}
    lines += [{"name": f"aged {age}", "age": age} for age in ages]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_attributes(path) == {
        "001": {"gender": "female", "skin_tone": "3"},
        "2": {"age": "20-29"},
        **{f"aged {age}": {"age": band} for age, band in ages.items()},
    }


@pytest.mark.parametrize("line", ["{", '{"gender": "male"}', '["001"]', "3"])
def test_bad_attributes(tmp_path: Path, line: str) -> None:
    path = tmp_path / "attributes.jsonl"
    path.write_text(json.dumps({"name": "001"}) + "\n" + line)
    with pytest.raises(UnknownOptionError, match=r'`attributes` must hold.*"name".*in line 2'):
        read_attributes(path)
