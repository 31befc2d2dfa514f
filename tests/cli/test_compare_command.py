from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline.cli.compare import describe_faces
from map_pipeline.cli.main import main
from map_pipeline.compare import FoundFace, PhotoFaces
from map_pipeline.report import UNCLEAR_FACE

MAN = ASTRONAUT.parent / "man-older-dark.png"
NETWORKS = ["tiny dlib", "tiny mobilefacenet", "tiny mobilefacenet"]


@pytest.fixture
def compare(tiny_checkpoint: Path) -> Callable[..., int]:
    def call(first: Path, second: Path, *options: str) -> int:
        defaults = ["--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
        return main(["compare", str(first), str(second), *defaults, *options])

    return call


@pytest.fixture
def group(tmp_path: Path, portrait_file: Path) -> Path:
    """The portrait at the left, and a larger face beside it."""
    photo = Image.new("RGB", (512, 256))
    photo.paste(Image.open(portrait_file), (0, 0))
    photo.paste(Image.open(MAN).convert("RGB").resize((256, 256)), (256, 0))
    photo.save(tmp_path / "group.png")
    return tmp_path / "group.png"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A face of which nearly half lies outside the photo."""
    Image.open(ASTRONAUT).convert("RGB").crop((0, 0, 235, 256)).save(tmp_path / "cut.png")
    return tmp_path / "cut.png"


def test_all_pairs_of_a_group_photo(
    compare: Callable, group: Path, portrait_file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compare(group, portrait_file) == 0
    printed = capsys.readouterr()
    assert f"A, {group}: 2 faces found" in printed.err
    assert f"B, {portrait_file}: 1 face found" in printed.err
    header, _, *rows = printed.out.splitlines()
    assert header.split()[:3] == ["A", "B", "recogniser"]
    cells = [row.split("  ") for row in rows]
    assert [(one[0], one[1], one[2].strip()) for one in cells] == [
        (number, "1", title) for number in "12" for title in NETWORKS
    ]
    # The portrait is the group's second largest face; before, only the largest was looked at.
    assert all(row.endswith("yes") for row in rows[3:])


def test_largest_faces_only(
    compare: Callable, group: Path, portrait_file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compare(group, portrait_file, "--faces", "largest") == 0
    printed = capsys.readouterr()
    assert "2 faces found" in printed.err
    [left_out] = [line for line in printed.err.splitlines() if "not compared" in line]
    assert left_out.strip().startswith("face 2 at ")
    assert len(printed.out.splitlines()) == 2 + len(NETWORKS)


def test_problems_are_told_and_clear_faces_are_not_doubted(
    compare: Callable, cut: Path, portrait_file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compare(portrait_file, cut) == 0
    problem, printed = "cut off by the edge of the photo", capsys.readouterr().err
    [line] = [line for line in printed.splitlines() if problem in line]
    assert line.strip().startswith("face 1 at ")
    assert UNCLEAR_FACE in printed
    assert compare(portrait_file, portrait_file) == 0
    printed = capsys.readouterr()
    assert problem not in printed.err
    assert UNCLEAR_FACE not in printed.err
    header, _, *rows = printed.out.splitlines()
    assert header.split() == ["recogniser", "similarity", "threshold", "same", "person"]
    assert len(rows) == len(NETWORKS)
    assert all(row.split()[-3:] == ["1.000", "0.600", "yes"] for row in rows)


def test_too_small_face_of_a_photo_is_named(
    compare: Callable, portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small = tmp_path / "small.png"
    Image.open(portrait_file).resize((96, 96)).save(small)
    assert compare(portrait_file, small) == 2
    assert "the second photo: `faces` must be at least 40 px" in capsys.readouterr().err


def test_places_of_perhaps_more_faces_are_told() -> None:
    face = FoundFace(1, (0.0, 0.0, 90.0, 90.2), (), True)
    lines = describe_faces("A", PhotoFaces([face], [(100.0, 5.0, 180.0, 80.0)]))
    assert "0,0 - 90,90 px" in lines[1]
    assert "100,5 - 180,80 px" in lines[2]
    assert "not compared" in lines[2]
