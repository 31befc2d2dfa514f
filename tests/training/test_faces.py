import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import faces, pictures, write_folder
from PIL import Image

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import InvalidImageError
from map_pipeline.training.faces import (
    find_grey,
    labels_path,
    load_faces,
    read_files,
    read_hand_labels,
    read_labels,
    read_pictures,
    write_labels,
)


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def test_a_folder_and_its_zip_hold_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", 3, labels=[{"file": "00001.png", "age": 30}])
    (folder / "deeper").mkdir()
    (folder / "deeper" / "no.png").write_bytes(b"")
    expected = ["00000.png", "00001.png", "00002.png"]
    for source in (folder, zipped(folder)):
        assert [name for name, _ in read_files(source)] == [*expected, "labels.jsonl"]
        assert [name for name, _ in read_files(source, lambda name: "1" in name)] == expected[1:2]
        deep = [name for name, _ in read_files(source, deep=True)]
        assert deep == [*expected, "deeper/no.png", "labels.jsonl"]
        assert read_labels(source) == [{"file": "00001.png", "age": 30}]
        names, images = read_pictures(source)
        assert names == expected
        assert torch.equal(images, pictures(3))


def test_labels_of_people_win_where_they_name_an_emotion(tmp_path: Path) -> None:
    labels = [
        {"file": "00000.png", "emotion": "happy"},
        {"file": "00001.png", "emotion": "contempt"},
        {"file": "00002.png"},
    ]
    folder = write_folder(tmp_path / "set", 3, labels=labels)
    assert read_hand_labels(folder) == {"00000.png": "happy"}
    emotions = load_faces([folder]).emotions
    assert emotions[0].tolist() == [float(name == "happy") for name in EMOTIONS]
    assert torch.equal(emotions[1:], torch.zeros(2, 7))


def test_without_labels_nothing_is_known(tmp_path: Path) -> None:
    found = load_faces([write_folder(tmp_path / "set", 3)])
    assert read_labels(tmp_path / "set") == []
    assert not found.emotions.any()
    assert not found.has_landmarks.any()
    assert found.landmarks68.shape == (3, 68, 2)
    assert not found.grey.any()


def test_stored_labels_come_back(tmp_path: Path) -> None:
    folder, known = write_folder(tmp_path / "set", 24), faces()
    write_labels(labels_path(folder), known)
    for source in (folder, zipped(folder)):
        found = load_faces([source])
        assert found.names == known.names
        torch.testing.assert_close(found.emotions, known.emotions, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.landmarks68, known.landmarks68, atol=1e-3, rtol=0)
        assert torch.equal(found.has_landmarks, known.has_landmarks)
        assert found.emotions.dtype == found.landmarks68.dtype == torch.float32


def test_several_sets_become_one(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", 3)
    second = zipped(
        write_folder(tmp_path / "second", 2, labels=[{"file": "00001.png", "emotion": "sad"}])
    )
    found = load_faces([first, second])
    assert len(found) == 5
    assert found.names == ["00000.png", "00001.png", "00002.png", "00000.png", "00001.png"]
    assert found.emotions.sum(1).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("source", "labels"),
    [("faces.zip", "faces"), ("faces", "faces"), ("faces.v2", "faces.v2"), ("a.b.zip", "a.b")],
)
def test_labels_lie_beside_the_set(tmp_path: Path, source: str, labels: str) -> None:
    assert labels_path(tmp_path / source) == tmp_path / f"{labels}.labels.npz"


def test_labels_of_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "set", 2)
    monkeypatch.chdir(tmp_path / "set")
    assert labels_path(Path()) == tmp_path / "set.labels.npz"
    assert len(load_faces([Path()])) == 2


def test_select_keeps_what_belongs_together() -> None:
    known = faces()
    chosen = known.select(torch.tensor([7, 2]))
    assert chosen.names == ["00007.png", "00002.png"]
    for name in ("images", "emotions", "landmarks68", "has_landmarks", "grey"):
        assert torch.equal(getattr(chosen, name), getattr(known, name)[[7, 2]])


def test_split_is_a_partition_and_always_the_same() -> None:
    known = faces()
    training, validation = known.split(5)
    assert len(training) == 19
    assert len(validation) == 5
    assert sorted(training.names + validation.names) == known.names
    assert known.split(5)[1].names == validation.names
    assert known.split(5, seed=1)[1].names != validation.names
    assert len(known.split(0)[1]) == 0


def test_pictures_without_colour_are_found() -> None:
    images = pictures(300)
    images[::3] = images[::3, :1]
    assert torch.equal(find_grey(images), torch.arange(300) % 3 == 0)


@pytest.mark.parametrize("count", [0, 2])
def test_pictures_that_do_not_fit_are_named(tmp_path: Path, count: int) -> None:
    folder = write_folder(tmp_path / "set", count)
    Image.new("RGB", (32, 48)).save(folder / "other.png")
    with pytest.raises(InvalidImageError, match=r"one size, got 32 x 48 px in other\.png"):
        load_faces([folder])


def test_sources_that_are_no_set(tmp_path: Path) -> None:
    sources = [write_folder(tmp_path / str(side), 2, side) for side in (32, 64)]
    with pytest.raises(InvalidImageError, match=r"all be of one size, got \[32, 64\] px"):
        load_faces(sources)
    with pytest.raises(InvalidImageError, match="must hold pictures, got none"):
        load_faces([write_folder(tmp_path / "empty", 0)])
    (tmp_path / "file.txt").write_text("no")
    for name in ("missing", "file.txt"):
        with pytest.raises(InvalidImageError, match=f"folder or a zip file, got .*{name}"):
            load_faces([tmp_path / name])


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", 3)
    whole = (folder / "00001.png").read_bytes()
    for content in (b"", b"nothing like a picture", whole[: len(whole) // 2]):
        (folder / "00001.png").write_bytes(content)
        with pytest.raises(InvalidImageError, match=r"can be read, got 00001\.png"):
            load_faces([folder])


def test_a_damaged_zip(tmp_path: Path) -> None:
    archive = zipped(write_folder(tmp_path / "set", 1))
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(content)
    with pytest.raises(InvalidImageError, match="whole zip file, got"):
        load_faces([archive])


def test_labels_of_other_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", 23)
    write_labels(labels_path(folder), faces(24))
    with pytest.raises(InvalidImageError, match=r"set\.labels\.npz labels; label them again"):
        load_faces([folder])


def test_damaged_stored_labels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", 24)
    stored = labels_path(folder)
    write_labels(stored, faces())
    np.savez(tmp_path / "partial.npz", names=np.array(["a"]))
    whole, partial = stored.read_bytes(), (tmp_path / "partial.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", partial):
        stored.write_bytes(damaged)
        with pytest.raises(InvalidImageError, match="labels that can be read"):
            load_faces([folder])


@pytest.mark.parametrize("line", ["{", "[]", '{"emotion": "sad"}', '{"file": 3}'])
def test_labels_that_cant_be_understood(tmp_path: Path, line: str) -> None:
    folder = write_folder(tmp_path / "set", 2)
    (folder / "labels.jsonl").write_text(f'{{"file": "00000.png"}}\n\n{line}\n')
    with pytest.raises(InvalidImageError, match=r"see line 3 of labels\.jsonl"):
        load_faces([folder])
