"""`--trade-off`: the methods, and what charts, report and README tell of them."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import ASTRONAUT
from synthetic import METHODS, make_summary, write_photos

from map_pipeline import MAPPipeline
from map_pipeline.cli.evaluate import settings_of
from map_pipeline.cli.main import build_parser
from map_pipeline.evaluation import findings, html_protection, plots, readme, wording
from map_pipeline.evaluation.methods import ABLATIONS, TRADE_OFF, Task, create
from map_pipeline.evaluation.methods.trade_off import CURVES
from map_pipeline.evaluation.summary import to_tables
from map_pipeline.images import load_image, to_array

VARIED = ("map", "map-no-ema", *TRADE_OFF)


@pytest.fixture(scope="module")
def summary() -> dict:
    return make_summary(n=6, methods=VARIED)[0]


def test_the_option_adds_both_curves() -> None:
    options = ["evaluate", "--methods", "map,map-fast-strength-25", "--trade-off"]
    settings = settings_of(build_parser().parse_args(options))
    assert settings.methods[:2] == ("map", "map-fast-strength-25")
    assert set(settings.methods[2:]) == set(TRADE_OFF) - {"map-fast-strength-25"}
    assert len(TRADE_OFF) == 10


def test_each_method_sets_its_own_knob() -> None:
    weak = create("map-fast-strength-25", settings={"strength": 0.9, "expression_strength": 0.9})
    assert (weak.mode, weak.settings) == ("fast", {"strength": 0.25, "expression_strength": 0.1})
    assert weak.title == "MAP, fast, strength 0.25"
    face = create("map-fast-expression-75", settings={"strength": 0.9})
    assert (face.mode, face.settings) == ("fast", {"strength": 0.9, "expression_strength": 0.75})


def test_a_stronger_expression_changes_more(editing_pipeline: MAPPipeline) -> None:
    photo = to_array(load_image(ASTRONAUT))[:256, 96:352]
    task = Task(photo, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)
    short = {"refine_steps": 0, "num_inversion_steps": 2}
    weak, strong = (
        create(f"map-fast-expression-{percent}", settings=short).protect(editing_pipeline, task)
        for percent in (0, 100)
    )
    changes = [np.abs(result.astype(int) - photo).sum() for result in (weak, strong)]
    assert changes[0] < changes[1]


def test_other_charts_and_tables_leave_them_out(summary: dict) -> None:
    assert findings.main_methods(summary) == ["map"]
    assert findings.ablations(summary) == ["map", "map-no-ema"]
    assert list(findings.table_methods(summary)) == ["map", "map-no-ema"]
    rows = [row for table in html_protection.dodging(summary).tables for row in table.rows]
    assert not any("strength" in row[0] for row in rows)
    by_recogniser = to_tables(summary).split("each recogniser")[1]
    assert "MAP, fast" not in by_recogniser


def test_the_table_tells_every_point_and_its_n(summary: dict) -> None:
    header, rows = wording.trade_off_table(summary)
    assert header[1] == "n"
    assert [row[0] for row in rows] == [findings.title(summary, name) for name in TRADE_OFF]
    assert all(row[1] == "6" for row in rows)
    text = readme.section(summary)
    assert "**Trade-off**" in text
    assert all(f"| {row[0]} | 6 |" in text for row in rows)
    section = html_protection.trade_off(summary, {})
    assert [list(row) for row in section.tables[0].rows] == rows


def test_the_chart_shows_each_strength_in_each_panel(summary: dict) -> None:
    with matplotlib.rc_context(plots.STYLE):
        figure = plots.trade_off(summary)
    labels = sorted(f"{percent / 100:g}" for curve in CURVES.values() for percent in curve.values())
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == labels
    points = {(text.get_text(), *text.xy) for text in figure.axes[1].texts}
    entry = findings.pooled(summary, "map-fast-strength-75")
    quality = summary["methods"]["map-fast-strength-75"]["quality"]
    expected = (quality["psnr"]["mean"], 100 * entry["impersonation"]["rate"])
    assert ("0.75", *expected) in points
    assert "n = 6;" in figure.get_suptitle()


def test_points_without_a_left_out_recogniser_are_not_drawn(summary: dict) -> None:
    judged = {name: {**one, "mean_unseen": []} for name, one in summary["methods"].items()}
    assert plots.trade_off({**summary, "methods": judged}) is None


@pytest.mark.parametrize("methods", [("map",), ("map", "map-fast-strength-25"), ABLATIONS[:3]])
def test_without_a_curve_nothing_is_told(methods: tuple[str, ...]) -> None:
    summary = make_summary(n=2, methods=methods)[0]
    assert plots.trade_off(summary) is None
    assert "Trade-off**" not in readme.section(summary)
    assert html_protection.trade_off(summary, {}).paragraphs == ()


def test_the_chart_is_written(tmp_path: Path) -> None:
    summary, rows, photos = make_summary(n=2, methods=VARIED)
    write_photos(photos, tmp_path, np.full((64, 48, 3), 200, np.uint8))
    names = [path.stem for path in plots.write_plots(summary, rows, photos, tmp_path)]
    assert names[-1] == "trade_off"
    assert not any(name.startswith("similarities_map-fast") for name in names)
    assert set(METHODS) & set(summary["methods"]) == {"map"}
