import dataclasses
import math
from pathlib import Path

import pytest
import synthetic

from map_pipeline.evaluation.results import (
    NO_SECOND,
    NOT_FOUND,
    PhotoRow,
    Row,
    append_rows,
    photos_file,
    read_rows,
    repair,
    results_file,
)

ROW = dataclasses.replace(
    synthetic.ROW,
    left_out="faceres",
    recogniser="faceres",
    target_protected=1 / 3,
    person_protected=-1e-17,
)
PHOTO = PhotoRow(
    photo="001",
    method="map",
    left_out="faceres",
    style="plain",
    status="ok",
    psnr=math.inf,
    ssim=1 / 3,
    seconds=8.25,
    peak_memory_mb=1000.0,
    unet_calls=90,
    recogniser_calls=100,
    emotion="happy",
    emotion_before='{"happy": 0.25}',
    emotion_after="",
)


def write_unit(out: Path, name: str) -> None:
    rows = [dataclasses.replace(ROW, photo=name, recogniser=one) for one in ("faceres", "dlib")]
    append_rows(results_file(out), rows)
    append_rows(photos_file(out), [dataclasses.replace(PHOTO, photo=name)])


def names(out: Path) -> tuple[list[str], list[str]]:
    """Photos of the result rows and of the photo rows."""
    rows, photos = read_rows(results_file(out), Row), read_rows(photos_file(out), PhotoRow)
    return [row.photo for row in rows], [row.photo for row in photos]


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, photo='a "quoted", näme', found=False, target_protected=NOT_FOUND),
        dataclasses.replace(ROW, left_out="", used=True),
    ]
    assert read_rows(tmp_path / "rows.csv", Row) == repair(tmp_path) == []
    for row in rows:
        append_rows(tmp_path / "rows.csv", [row])
    assert read_rows(tmp_path / "rows.csv", Row) == rows
    assert (tmp_path / "rows.csv").read_text().count("photo,method") == 1
    append_rows(tmp_path / "rows.csv", [dataclasses.replace(ROW, person_clean=NO_SECOND)])
    assert math.isnan(read_rows(tmp_path / "rows.csv", Row)[-1].person_clean)

    photos = [
        PHOTO,
        dataclasses.replace(PHOTO, face_psnr=30.125, facepp_clean=99.5, status="`x`, no"),
    ]
    append_rows(tmp_path / "photos.csv", photos)
    assert read_rows(tmp_path / "photos.csv", PhotoRow) == photos


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_a_kill_at_any_byte_loses_one_photo_at_most(tmp_path: Path, cut: int) -> None:
    """Writing stops anywhere in the second unit; after repair it's written again."""
    write_unit(tmp_path, "001")
    write_unit(tmp_path, "002")
    # What is written last is lost first: the line in photos.csv, then the lines of results.csv.
    photos, results = photos_file(tmp_path).read_bytes(), results_file(tmp_path).read_bytes()
    line = photos.splitlines(keepends=True)[-1]
    photos_file(tmp_path).write_bytes(photos[: -min(cut, len(line))])
    if cut > len(line):
        unit_lines = b"".join(results.splitlines(keepends=True)[-2:])
        results_file(tmp_path).write_bytes(results[: -min(cut - len(line), len(unit_lines))])
    assert [row.photo for row in repair(tmp_path)] == ["001"]
    write_unit(tmp_path, "002")
    assert names(tmp_path) == (["001", "001", "002", "002"], ["001", "002"])
    assert photos_file(tmp_path).read_bytes() == photos
    assert results_file(tmp_path).read_bytes() == results


def test_a_file_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    """It has no column of skin tones yet."""
    write_unit(tmp_path, "001")
    path = photos_file(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    assert repair(tmp_path) == [PHOTO]
    append_rows(path, [dataclasses.replace(PHOTO, photo="002", skin_angle=41.5)])
    assert [row.skin_angle for row in read_rows(path, PhotoRow)] == [None, 41.5]
