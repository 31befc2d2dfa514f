import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from matplotlib import colors
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main
from map_pipeline.config import MODES
from map_pipeline.evaluation.curves import (
    PICTURE,
    STEPS,
    VARIANTS,
    Runs,
    Step,
    draw,
    mean_and_half,
    panels,
    series,
    to_csv,
    to_markdown,
)
from map_pipeline.evaluation.plots import COLOURS
from map_pipeline.images import load_image

LAST = MODES["strong"].refine_steps - 1


def made_up(*levels: float) -> Runs:
    """Photos with three steps each: losses fall from `level` by 0.1 a step, with conflicts of 0.3;
    without projection L_A falls by 0.05 and half of the layers are in conflict.
    """

    def steps(level: float, fall: float, conflict: float) -> list[Step]:
        values = [level - fall * index for index in range(3)]
        losses = ({"impersonation": v, "dodging": 0.2, "expression": 2 * v} for v in values)
        return [Step(one, conflict) for one in losses]

    return {
        f"photo{index}": {
            "shipped": steps(level, 0.1, 0.3),
            "no_projection": steps(level, 0.05, 0.5),
            "no_ema": steps(level, 0.1, 0.3),
        }
        for index, level in enumerate(levels)
    }


def cells(markdown: str) -> dict[str, list[str]]:
    """Rows by label; of rows of one label the last."""
    lines = [line.split("|")[1:-1] for line in markdown.splitlines() if line[:1] == "|"]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_interval_of_a_mean() -> None:
    """Of 1, 2, 3 the error is 1 / sqrt(3), and Student's quantile of two degrees is 4.303."""
    mean, half = mean_and_half(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(half, [4.302653 / math.sqrt(3), 0], rtol=1e-6)
    mean, half = mean_and_half(np.array([7.0]))
    assert mean == 7
    assert math.isnan(half)


def test_the_identity_loss_is_weighted() -> None:
    identity = panels("strong")[0]
    assert identity.title == "Identity loss L_A = impersonation + 0.5 dodging"
    np.testing.assert_allclose(series(made_up(1.0), "shipped", identity), [[1.1, 1.0, 0.9]])


def test_table() -> None:
    rows = cells(to_markdown(made_up(1.0, 1.2), "strong"))
    assert rows["strong mode, n = 2"] == ["as shipped", "without projection", "without EMA"]
    # Student's quantile of one degree is 12.706, the error of 1.1 and 1.3 is 0.1.
    assert rows["L_A at step 0"] == ["1.200 ± 1.271"] * 3
    assert rows["L_A at step 2"] == ["1.000 ± 1.271", "1.100 ± 1.271", "1.000 ± 1.271"]
    assert rows["L_E at step 2"][0].startswith("1.800 ±")
    assert rows["L_A, mean of all steps"][:2] == ["1.100 ± 1.271", "1.150 ± 1.271"]
    share = "share of conflicting layers, mean of all steps"
    assert rows[share] == ["0.300 ± 0.000", "0.500 ± 0.000", "0.300 ± 0.000"]
    assert rows["less that as shipped"] == ["", "+0.200 ± 0.000", "+0.000 ± 0.000"]


def test_differences_are_paired() -> None:
    """Photos differ widely, but each by the same from itself: the difference is certain."""
    text = to_markdown(made_up(1.0, 9.0), "strong")
    assert text.splitlines()[4] == "| less that as shipped |  | +0.100 ± 0.000 | +0.000 ± 0.000 |"


def test_one_photo_has_no_interval() -> None:
    assert draw(made_up(1.0), "strong").get_suptitle().endswith("n = 1")
    assert cells(to_markdown(made_up(1.0), "strong"))["L_A at step 0"] == ["1.100"] * 3


def test_chart() -> None:
    figure = draw(made_up(1.0, 1.2, 1.4), "strong")
    assert "n = 3" in figure.get_suptitle()
    identity, expression, conflict = figure.axes
    for axes in (identity, expression, conflict):
        assert [colors.to_hex(line.get_color()) for line in axes.lines] == [
            colour.lower() for colour in COLOURS[:3]
        ]
        assert len(axes.collections) == 3  # bands
    np.testing.assert_allclose(identity.lines[1].get_ydata(), [1.3, 1.25, 1.2])
    np.testing.assert_allclose(conflict.lines[1].get_ydata(), [0.5] * 3)
    low, high = expression.collections[0].get_datalim(expression.transData).intervaly
    half = 4.302653 * 0.4 / math.sqrt(3)
    assert (low, high) == pytest.approx((2.0 - half, 2.4 + half), rel=1e-5)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [v.title for v in VARIANTS.values()]


def test_csv_tells_every_step() -> None:
    lines = to_csv(made_up(1.0, 1.2)).splitlines()
    assert lines[0] == "photo,variant,step,impersonation,dodging,expression,conflict"
    assert lines[1] == "photo0,shipped,0,1.0,0.2,2.0,0.3"
    assert len(lines) == 1 + 2 * 3 * 3


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A face, a picture without one, and another face; the target is the second face."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    face = load_image(ASTRONAUT).crop((96, 0, 352, 256)).resize((180, 180))
    target = load_image(ASTRONAUT.parent / "woman-young-tan.png").resize((180, 180))
    pictures = {"a": face, "b": Image.new("RGB", (180, 180), "teal"), "c": target}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}_a.png")
    target.save(folder / "77_enroll.png")
    target.save(folder / "77_probe.png")
    return folder


@pytest.fixture
def curves(pairs: Path, tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., int]:
    def call(*options: str, folder: Path = pairs) -> int:
        command = ["curves", "--pairs", str(folder), "--out", str(tmp_path / "out")]
        return main([*command, "--checkpoint", str(tiny_checkpoint), *options])

    return call


def read_steps(folder: Path) -> list[dict[str, str]]:
    with (folder / STEPS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_line(
    curves: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, tiny_pipeline: MAPPipeline
) -> None:
    assert curves("--limit", "2", "--seed", "3") == 0
    told = capsys.readouterr()
    assert "map-protect: b: `image` must show a face" in told.err
    rows = cells(told.out)
    assert rows["strong mode, n = 1"] == [one.title for one in VARIANTS.values()]
    with Image.open(tmp_path / "out" / PICTURE) as picture:
        assert min(picture.size) > 500

    steps = read_steps(tmp_path / "out")
    assert [(line["photo"], line["variant"], int(line["step"])) for line in steps] == [
        ("a", variant, index) for variant in VARIANTS for index in range(LAST + 1)
    ]
    parts = {name: [s for s in steps if s["variant"] == name] for name in VARIANTS}
    for part in parts.values():  # the seed and the target are the same
        assert part[0]["impersonation"] == steps[0]["impersonation"]
    # Without projection another step is taken, and conflicts are told all the same.
    assert parts["no_projection"][-1]["expression"] != parts["shipped"][-1]["expression"]
    for part in parts.values():
        assert any(0 < float(line["conflict"]) <= 1 for line in part)

    photo = load_image(tmp_path / "pairs" / "a_a.png")
    target = load_image(tmp_path / "pairs" / "77_enroll.png")
    found: list[Step] = []
    tiny_pipeline(
        photo,
        target=target,
        generator=torch.Generator().manual_seed(3),
        callback_on_step_end=lambda _pipe, _index, _total, step: found.append(step),
    )
    shipped = [float(line["impersonation"]) for line in parts["shipped"]]
    expected = [step.losses["impersonation"] for step in found]
    assert shipped[:5] == pytest.approx(expected[:5], rel=1e-3)
    # bf16 sums depend on the threads at work, and every step builds on the one before.
    assert shipped == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "fast"], "`mode` must be one that weighs identity and expression (strong)"),
        (["--skip", "3"], "`skip` must leave photos of 3, got 3"),
        (["--skip", "1", "--limit", "1"], "that can be protected, got none: b: `image` must show"),
        (["--targets", "nobody"], "got 'nobody'"),
        (["--emotion", "joy"], "`emotion` must be one of"),
    ],
)
def test_bad_options_are_named(
    options: list[str],
    message: str,
    curves: Callable,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    assert curves(*options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / STEPS).exists()


def test_a_folder_without_pairs(
    curves: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert curves(folder=tmp_path / "nowhere") == 2
    assert "`pairs` must be a folder or a zip file" in capsys.readouterr().err
