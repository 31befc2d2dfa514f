import zipfile
from pathlib import Path

import pytest

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.data import Pair, PhotoSet, TargetPhotos

FILES = {
    "002_b.jpg": b"second of two",
    "002_a.png": b"first of two",
    "001_a.png": b"first of one",
    "001_b.png": b"second of one",
    "targets/77_enroll.jpg": b"enroll",
    "targets/77_probe.jpg": b"probe",
    "targets/88_enroll.jpg": b"lonely",
    "README.md": b"not a photo",
    "notes_a.txt": b"not a photo either",
}


def write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture(params=["folder", "set.zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_pairs_in_order(place: Path) -> None:
    photos = PhotoSet(write(place, FILES))
    assert list(photos.pairs()) == [
        Pair("001", b"first of one", b"second of one"),
        Pair("002", b"first of two", b"second of two"),
    ]
    assert [pair.name for pair in photos.pairs(1)] == ["001"]


def test_target(place: Path) -> None:
    assert PhotoSet(write(place, FILES)).target("77") == TargetPhotos("77", b"enroll", b"probe")


@pytest.mark.parametrize("name", ["88", "99", "001"])
def test_unknown_target(place: Path, name: str) -> None:
    photos = PhotoSet(write(place, FILES))
    with pytest.raises(UnknownOptionError, match=f"`target` must be one of 77; got '{name}'"):
        photos.target(name)


def test_missing_partner_is_named(place: Path) -> None:
    photos = PhotoSet(write(place, {**FILES, "003_a.png": b"alone", "004_b.png": b"alone too"}))
    with pytest.raises(InvalidImageError, match="only one of 003, 004"):
        list(photos.pairs())


def test_no_pairs_at_all(place: Path) -> None:
    photos = PhotoSet(write(place, {"picture.png": b""}))
    with pytest.raises(InvalidImageError, match=r"NAME_a.*got none"):
        list(photos.pairs())
    with pytest.raises(UnknownOptionError, match="none; got '77'"):
        photos.target("77")


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"not a zip")
    for name in ("file.zip", "missing"):
        with pytest.raises(InvalidImageError, match=f"`pairs` must be a folder or a zip.*{name}"):
            PhotoSet(tmp_path / name)
