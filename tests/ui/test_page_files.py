"""The files that the page writes, shows and deletes, without a server."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.config import EMOTIONS
from map_pipeline.images import MAX_BYTES
from map_pipeline.report import FaceReport, notes_of
from map_pipeline.ui import style
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.result_files import write_files
from map_pipeline.ui.service import Files, Protected, read_upload
from map_pipeline.ui.settings import PageSettings

# Files of a result


def protected_file(
    folder: Path, upload: Path, file_type: str = "auto", max_bytes: int = 10**8
) -> tuple[Files, list[str]]:
    read = read_upload(str(upload))
    report = FaceReport((0, 0, 9, 9), "d", "happy", "t", 0.97, 33.0, 1.0)
    result = Protected(read.photo.picture, [report])
    files, noted = write_files(read, result, str(folder), file_type, max_bytes)
    assert json.loads(Path(files.report).read_text()) == [noted.reports[0].to_dict()]
    return files, notes_of(noted.reports)


def upload_of(folder: Path, name: str, mode: str = "RGB") -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(noise).convert(mode).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "mode", "suffix"),
    [
        ("a.jpg", "RGB", ".jpg"),
        ("a.jpg", "L", ".jpg"),
        ("a.webp", "RGB", ".jpg"),
        ("a.webp", "RGBA", ".png"),
        ("a.avif", "RGB", ".jpg"),
        ("a.png", "RGB", ".png"),
        ("a.png", "RGBA", ".png"),
        ("a.tif", "RGB", ".png"),
        ("a.gif", "L", ".png"),
    ],
)
def test_result_is_written_once_in_the_type_of_the_photo(
    tmp_path: Path, name: str, mode: str, suffix: str
) -> None:
    upload, folder = upload_of(tmp_path, name, mode), tmp_path / "cache"
    folder.mkdir()
    files, notes = protected_file(folder, upload)
    assert Path(files.after).name == f"protected{suffix}"
    assert notes == []
    written = {path.name for path in folder.rglob("*.*")}
    if name.endswith((".tif", ".avif")):  # not every browser shows them
        assert written == {"original.jpg", f"protected{suffix}", "report.json"}
    else:
        assert files.before == str(upload)
        assert written == {f"protected{suffix}", "report.json"}


def test_result_is_never_larger_than_the_page_reads(tmp_path: Path) -> None:
    upload = upload_of(tmp_path, "a.png")
    limit = upload.stat().st_size // 2
    files, notes = protected_file(tmp_path, upload, max_bytes=limit)
    assert Path(files.after).name == "protected.jpg"
    assert len(notes) == 1
    assert not list(tmp_path.rglob("protected.png"))
    files, notes = protected_file(tmp_path, upload, "png", limit)
    assert Path(files.after).name == "protected.png"
    assert len(notes) == 1


def test_uploads_may_be_as_large_as_what_is_read() -> None:
    assert PageSettings().max_upload_bytes == MAX_BYTES


# Looks and files


def test_built_in_targets_are_those_of_the_checkpoint(
    tiny_pipeline: MAPPipeline, tiny_checkpoint: Path
) -> None:
    cards = style.built_in_targets(tiny_checkpoint)
    bank = tiny_pipeline.targets
    assert [one.name for one in cards] == bank.names
    for one in cards:
        np.testing.assert_array_equal(np.array(one.picture), np.array(bank.picture(one.name)))


def test_every_emotion_target_and_example_has_its_picture() -> None:
    targets = [one.picture for one in style.built_in_targets(PageSettings().checkpoint)]
    css = style.page_css(targets, targets[:2])
    for tiles, count in ((".map-emotions label", len(EMOTIONS)), ("#examples button", 2)):
        assert all(f"{tiles}:nth-of-type({n + 1})" in css for n in range(count))
    # "Nobody" and "Auto" have no picture.
    numbers = re.findall(r"#target label:nth-of-type\((\d+)\)::before { background-image", css)
    assert numbers == [str(n) for n in range(3, len(targets) + 3)]


def test_sweeping_goes_by_age(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old.png", tmp_path / "b" / "new.png"
    for path in (old, new):
        path.parent.mkdir()
        path.touch()
    os.utime(old, (0, 0))
    sweep(tmp_path, keep_seconds=600)
    assert not old.exists()
    assert new.exists()
    os.utime(old.parent, (0, 0))
    sweep(tmp_path, keep_seconds=600)
    assert not old.parent.exists()
