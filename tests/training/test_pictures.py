import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import SIDE, batch, score_model
from PIL import Image
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import MAPError
from map_pipeline.training.pictures import (
    GAP,
    HEADING,
    draw_curves,
    expressions,
    lay_out,
    sample_grid,
    write_curves,
)
from map_pipeline.training.score_model import new_scheduler
from map_pipeline.training.validation import round_trip

SCHEDULER = new_scheduler()


def cell(sheet: Image.Image, row: int, column: int, side: int = SIDE) -> Tensor:
    """`[3,S,S]` in [0,1]."""
    top, left = HEADING + row * (side + GAP), GAP + column * (side + GAP)
    pixels = np.array(sheet.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def test_pictures_stand_in_rows_and_columns() -> None:
    columns = {"one": torch.rand(3, 3, SIDE, SIDE), "two": torch.rand(3, 3, SIDE, SIDE)}
    sheet = lay_out(columns)
    assert sheet.size == (GAP + 2 * (SIDE + GAP), HEADING + 3 * (SIDE + GAP))
    for column, expected in enumerate(columns.values()):
        for row in range(3):
            torch.testing.assert_close(cell(sheet, row, column), expected[row], atol=2e-3, rtol=0)
    white = np.array(sheet)
    assert (white[HEADING:, :GAP] == 255).all()
    assert (white[-GAP:] == 255).all()
    assert (white[:HEADING] < 100).any()  # the headings


@pytest.mark.slow
@torch.no_grad()
def test_samples_show_source_round_trip_and_emotions() -> None:
    model, faces = score_model(), batch(3)
    sheet = sample_grid(model.unet, model.conditioner, SCHEDULER, faces)
    assert sheet.width == GAP + 9 * (SIDE + GAP)
    back = round_trip(model.unet, SCHEDULER, faces.images, 300, model.conditioner(faces.condition))
    made = expressions(model.unet, model.conditioner, SCHEDULER, faces)
    assert tuple(made) == EMOTIONS
    for row in range(3):
        torch.testing.assert_close(cell(sheet, row, 0), faces.images[row], atol=2e-3, rtol=0)
        torch.testing.assert_close(cell(sheet, row, 1), back[row], atol=3e-3, rtol=0)
        for column, emotion in enumerate(EMOTIONS, 2):
            torch.testing.assert_close(
                cell(sheet, row, column), made[emotion][row], atol=3e-3, rtol=0
            )


@torch.no_grad()
def test_each_emotion_changes_the_face() -> None:
    model, faces = score_model(), batch(2)
    made = expressions(model.unet, model.conditioner, SCHEDULER, faces)
    assert (made["angry"] - made["happy"]).abs().mean() > 1e-5


@torch.no_grad()
def test_an_emotion_doesnt_depend_on_what_the_face_shows() -> None:
    model, faces = score_model(), batch(2)
    first = expressions(model.unet, model.conditioner, SCHEDULER, faces)
    faces.emotions[:] = faces.emotions.flip(1)
    faces.landmarks68[:] = 0
    second = expressions(model.unet, model.conditioner, SCHEDULER, faces)
    assert all(torch.equal(first[name], second[name]) for name in EMOTIONS)


def reports(count: int = 3, conflict: float = 0.3) -> list[dict[str, float]]:
    """As `train_map` makes them."""
    return [
        {
            "impersonation": 1 / (index + 1),
            "dodging": 0.5 / (index + 1),
            "expression": 2.0 - 0.1 * index,
            "smoothness": 0.1,
            "conflict": conflict,
            "update": 25 * (index + 1),
            "minutes": index + 1.0,
        }
        for index in range(count)
    ]


def write_run(folder: Path, found: list[dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "training_map.json").write_text(json.dumps({"config": {}, "reports": found}))
    return folder


def drawn(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def test_curves_of_both_objectives_and_the_conflicts() -> None:
    pytest.importorskip("matplotlib")
    content = draw_curves({"run": reports()})
    assert content == draw_curves({"run": reports()})
    # A report lacks an objective if no batch asked for it since the last one.
    partial = [{name: one[name] for name in one if name != "dodging"} for one in reports()[1:]]
    assert drawn(draw_curves({"run": [*reports()[:1], *partial]})).shape == drawn(content).shape
    before, after = drawn(content), drawn(draw_curves({"run": reports(conflict=0.9)}))
    rows = np.flatnonzero((before != after).any((1, 2)))
    assert rows.min() > len(before) / 2  # only the lowest panel differs
    vermilion = (before == (0xD5, 0x5E, 0x00)).all(-1)
    assert vermilion.sum() > 100


@pytest.mark.slow
def test_curves_of_several_runs(tmp_path: Path) -> None:
    """Folders of one name are distinguished, and one run has no dodging."""
    pytest.importorskip("matplotlib")
    without = [{k: v for k, v in report.items() if k != "dodging"} for report in reports()]
    many = [reports(count) for count in range(1, 6)]
    runs = [write_run(tmp_path / f"{i}/map", found) for i, found in enumerate([*many, without])]
    found, shape = [], drawn(draw_curves({"a": reports()})).shape
    for chosen in (runs, runs[:2], runs[1:2], runs[-1:]):
        write_curves(chosen, tmp_path / "new" / "curves.png")
        found.append((tmp_path / "new" / "curves.png").read_bytes())
        assert drawn(found[-1]).shape == shape
    assert len(set(found)) == 4


def test_runs_without_reports(tmp_path: Path) -> None:
    with pytest.raises(MAPError, match=r"folder with training_map\.json, got .*missing"):
        write_curves([tmp_path / "missing"], tmp_path / "curves.png")
    with pytest.raises(MAPError, match="reported once at least"):
        write_curves([write_run(tmp_path / "empty", [])], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_curves_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MAPError, match="pip install matplotlib"):
        write_curves([write_run(tmp_path / "run", reports())], tmp_path / "curves.png")
