import dataclasses
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_rows

from map_pipeline.evaluation.contact_sheet import CELL, GAP, PHOTOS, changed_box, compose
from map_pipeline.evaluation.results import PhotoRow
from map_pipeline.images import save_image, to_pil

WHITE, BLACK = np.full((80, 60, 3), 255, np.uint8), np.zeros((80, 60, 3), np.uint8)


def changed(part: tuple[slice, slice]) -> np.ndarray:
    photo = WHITE.copy()
    photo[part] = 0
    return photo


def rows_of(count: int, method: str = "map") -> list[PhotoRow]:
    return make_rows([str(index) for index in range(count)], [method], ["plain"])[1]


def save(photo: np.ndarray, path: Path) -> None:
    save_image(to_pil(photo), path)


@pytest.mark.parametrize(
    ("part", "box"),
    [
        (np.s_[30:50, 20:40], (17, 27, 42, 52)),  # 20 px and a quarter around it
        (np.s_[40:41, 30:31], (30, 40, 31, 41)),
        (np.s_[0:20, 0:20], (0, 0, 25, 25)),  # not beyond the edges
        (np.s_[60:80, 40:60], (35, 55, 60, 80)),
        (np.s_[0:80, 20:30], (0, 10, 60, 70)),  # not wider than the photo
    ],
)
def test_the_box_is_a_square_around_what_changed(part: tuple, box: tuple) -> None:
    assert changed_box(WHITE, [changed(part)]) == box


def test_the_box_holds_what_any_method_changed() -> None:
    results = [changed(np.s_[30:32, 20:22]), changed(np.s_[48:50, 38:40])]
    assert changed_box(WHITE, results) == changed_box(WHITE, [changed(np.s_[30:50, 20:40])])


def test_nothing_changed_shows_the_whole_photo() -> None:
    assert changed_box(WHITE, [WHITE]) == changed_box(WHITE, []) == (0, 0, 60, 80)


def test_pictures_stand_in_their_cells(tmp_path: Path) -> None:
    photos = rows_of(2)
    for row in photos:
        save(BLACK, tmp_path / "source" / f"{row.photo}.png")
    first, second = photos
    result = np.full_like(BLACK, 100)
    save(result, tmp_path / "map" / f"{first.photo}.without_{first.left_out}.png")
    save(result, tmp_path / "map" / f"{second.photo}.without_{second.left_out}.png")
    sheet = compose(["map"], photos, tmp_path)
    assert sheet is not None
    assert sheet.rows == ["0", "1"]
    assert sheet.columns == ["original", "map"]
    assert sheet.notes == {}
    assert sheet.picture.shape == (2 * sheet.cell, 2 * sheet.cell, 3)
    cell = sheet.picture[: sheet.cell, sheet.cell :]
    inner = np.s_[GAP // 2 : GAP // 2 + CELL, GAP // 2 : GAP // 2 + CELL]
    assert (cell[inner] == 100).all()
    assert (sheet.picture[: sheet.cell, : sheet.cell][inner] == 0).all()
    outside = np.ones(cell.shape[:2], dtype=bool)
    outside[inner] = False
    assert (cell[outside] == 255).all()


def test_what_is_missing_says_why(tmp_path: Path) -> None:
    ok, failed = rows_of(2)
    failed = dataclasses.replace(failed, status="`image` must show a face")
    for row in (ok, failed):
        save(WHITE, tmp_path / "source" / f"{row.photo}.png")
    sheet = compose(["map", "pgd"], [ok, failed], tmp_path)
    assert sheet is not None
    assert sheet.notes == {
        (0, 1): "file missing",
        (1, 1): "failed",
        (0, 2): "not run",
        (1, 2): "not run",
    }


def test_only_the_first_photos_are_shown(tmp_path: Path) -> None:
    photos = rows_of(PHOTOS + 3)
    for row in photos[1:]:
        save(WHITE, tmp_path / "source" / f"{row.photo}.png")
    sheet = compose(["map"], photos, tmp_path)
    assert sheet is not None
    assert sheet.rows == [row.photo for row in photos[1 : PHOTOS + 1]]


def test_a_damaged_file_is_a_missing_one(tmp_path: Path) -> None:
    (row,) = rows_of(1)
    save(WHITE, tmp_path / "source" / f"{row.photo}.png")
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / f"{row.photo}.without_{row.left_out}.png").write_bytes(b"no picture")
    sheet = compose(["map"], [row], tmp_path)
    assert sheet is not None
    assert sheet.notes == {(0, 1): "file missing"}


def test_long_names_are_cut(tmp_path: Path) -> None:
    (row,) = make_rows(["a very long name of a photo"], ["map"], ["plain"])[1]
    save(WHITE, tmp_path / "source" / f"{row.photo}.png")
    sheet = compose(["map"], [row], tmp_path)
    assert sheet is not None
    assert sheet.rows == ["a very long n…"]


def test_without_pictures_there_is_no_sheet(tmp_path: Path) -> None:
    assert compose(["map"], rows_of(1), tmp_path) is None
