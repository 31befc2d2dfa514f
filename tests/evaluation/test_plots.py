import copy
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from synthetic import METHODS, STRENGTH, TITLES, make_summary, write_photos

from map_pipeline.evaluation import findings, plots
from map_pipeline.evaluation.results import PhotoRow, Row

NOTHING = {"rate": None, "low": None, "high": None, "n": 0}
Made = tuple[dict, list[Row], list[PhotoRow]]


@pytest.fixture(scope="module")
def made() -> Made:
    return make_summary(n=6)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.rc_context(plots.STYLE):
        yield


@pytest.fixture
def summary(made: Made) -> dict:
    """A copy that a test may change."""
    return copy.deepcopy(made[0])


def intervals(axes: Axes) -> list[tuple[float, float, float]]:
    """(value, low, high) of every error bar across, in percent."""
    found = []
    for container in axes.containers:
        if hasattr(container, "has_xerr") and container.has_xerr:
            ((low, _), (high, _)) = container.lines[2][0].get_segments()[0]
            line = container.lines[0]
            found.append((np.nan if line is None else float(line.get_xdata()[0]), low, high))
    return found


def expected(rate: dict) -> tuple[float, float, float]:
    return tuple(100 * rate[key] for key in ("rate", "low", "high"))


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        found += [label.get_text() for label in labels]
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([figure.get_suptitle(), *found, *legends]).replace("\u00a0", " ")


def test_all_charts_are_written_as_png(tmp_path: Path) -> None:
    summary, rows, photos = make_summary(n=3, methods=("map", "pgd", "map-no-ema"))
    write_photos(photos, tmp_path, np.full((64, 48, 3), 200, np.uint8))
    written = plots.write_plots(summary, rows, photos, tmp_path)
    assert [path.stem for path in written] == [
        *("contact_sheet", "psr", "psr_by_recogniser", "robustness"),
        *("similarities_map", "similarities_pgd"),
        *("expression", "groups", "ablations"),
    ]
    assert {path.parent for path in written} == {tmp_path / "plots"}
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 900 <= image.width <= 1400
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 5  # not blank


def test_a_small_run_has_the_charts_that_it_allows(tmp_path: Path) -> None:
    summary, rows, photos = make_summary(n=3, methods=("map",), attributes={}, judge=None)
    saved = [row for row in rows if row.transformation == "none"]
    for key in ("verification", "mean_unseen"):
        entries = summary["methods"]["map"][key]
        entries[:] = [entry for entry in entries if entry["transformation"] == "none"]
    written = plots.write_plots(summary, saved, photos, tmp_path)
    assert [path.stem for path in written] == ["psr", "psr_by_recogniser", "similarities_map"]


def test_no_result_no_chart(summary: dict, tmp_path: Path) -> None:
    for method in summary["methods"].values():
        method.update(verification=[], mean_unseen=[], groups={}, expression=None)
    summary["ablations"] = {}
    assert plots.write_plots(summary, [], [], tmp_path) == []


def test_bars_show_rate_interval_and_the_clean_photos(summary: dict) -> None:
    figure = plots.protection_rates(summary)
    assert figure is not None
    for axes, key in zip(figure.axes, ("impersonation", "dodging"), strict=True):
        entries = [findings.pooled(summary, method) for method in METHODS]
        lengths = [bar.get_width() for bar in axes.patches]
        assert lengths == pytest.approx([100 * entry[key]["rate"] for entry in entries])
        bounds = [bound for _, *bound in intervals(axes)]
        assert np.allclose(bounds, [expected(entry[key])[1:] for entry in entries])
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
        clean = [100 * entry[f"{key}_clean"]["rate"] for entry in entries]
        assert [mark for mark in marks if mark in clean] == clean
        shown = [text.get_text() for text in axes.texts]
        assert shown == [findings.percent(entry[key]) for entry in entries]
    assert "MAP (n = 6)" in texts(figure)
    assert "in % at FAR 1 %, 95 % interval" in texts(figure)


def test_bars_without_dodging_trials_are_empty(summary: dict) -> None:
    for method in summary["methods"].values():
        for entry in method["mean_unseen"]:
            entry["dodging"] = entry["dodging_clean"] = NOTHING
    figure = plots.protection_rates(summary)
    assert figure is not None
    assert np.isnan([bar.get_width() for bar in figure.axes[1].patches]).all()
    assert {text.get_text() for text in figure.axes[1].texts} == {"-"}


def test_dots_by_recogniser_show_what_the_summary_holds(summary: dict) -> None:
    figure = plots.rates_by_recogniser(summary)
    assert figure is not None
    for axes, key in zip(figure.axes, ("impersonation", "dodging"), strict=True):
        wanted = [expected(entry[key]) for m in METHODS for entry in findings.judges(summary, m)]
        assert np.allclose(sorted(intervals(axes)), sorted(wanted))
    assert all(f"{title}\n(not used)" in texts(figure) for title, _ in TITLES.values())


def test_robustness_has_a_place_for_every_transformation(summary: dict) -> None:
    figure = plots.robustness(summary)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == [findings.transformation_title(name) for name in STRENGTH]
    bars = [c for c in figure.axes[0].containers if c.has_yerr]
    assert len(bars) == len(METHODS) * len(STRENGTH)
    shown = sorted(float(bar.lines[0].get_ydata()[0]) for bar in bars)
    wanted = [
        100 * findings.pooled(summary, method, name)["impersonation"]["rate"]
        for method in METHODS
        for name in STRENGTH
    ]
    assert shown == pytest.approx(sorted(wanted))


def test_methods_can_be_told_apart_without_colour(summary: dict) -> None:
    names = [f"method {index}" for index in range(10)]
    many = {**summary, "methods": dict.fromkeys(names, summary["methods"]["map"])}
    figure = plots.robustness(many)
    assert figure is not None
    handles = figure.legends[0].legend_handles[: len(names)]
    assert len({handle.get_marker() for handle in handles}) == len(names)


def test_a_method_looks_the_same_in_chart_and_legend(summary: dict) -> None:
    summary["methods"]["map"]["mean_unseen"] = []
    figure = plots.robustness(summary)
    assert figure is not None
    legend = figure.legends[0]
    titles = [text.get_text() for text in legend.get_texts()]
    looks = {
        title: (handle.get_marker(), handle.get_color())
        for title, handle in zip(titles[:-1], legend.legend_handles, strict=False)
    }
    assert "MAP" not in looks
    drawn = [bar.lines[0] for bar in figure.axes[0].containers if bar.has_yerr]
    first = [(line.get_marker(), line.get_color()) for line in drawn[:: len(STRENGTH)]]
    assert first == list(looks.values())


def test_many_methods_keep_only_the_bars_of_the_leading_one(summary: dict) -> None:
    names = ["map", *(f"method {index}" for index in range(plots.MANY_METHODS))]
    many = {**summary, "methods": dict.fromkeys(names, summary["methods"]["map"])}
    figure = plots.robustness(many)
    assert figure is not None
    bars = [bar for bar in figure.axes[0].containers if bar.has_yerr]
    widths = [float(bar.lines[2][0].get_linewidths()[0]) for bar in bars]
    assert sum(width > 0 for width in widths) == len(STRENGTH)
    assert "FAR 1 %, n = 6; bars: 95 % interval of MAP" in texts(figure)


def test_histograms_hold_all_photos_and_the_threshold_in_use(made: Made, summary: dict) -> None:
    summary["thresholds"]["faceres"]["0.01"]["used"] = 0.5
    figure = plots.similarities(summary, made[1], "map")
    assert figure is not None
    panels = np.array(figure.axes).reshape(len(TITLES), 2)
    for pair, name in zip(panels, TITLES, strict=True):
        for axes in pair:
            heights = [sum(bar.get_height() for bar in container) for container in axes.containers]
            assert heights == pytest.approx([100, 100])  # per cent: clean, protected
            lines = [line.get_xdata()[0] for line in axes.lines]
            assert lines == [summary["thresholds"][name]["0.01"]["used"]]
    assert "FaceRes (not used), n = 2" in texts(figure)
    assert "MobileFace (not used), n = 6" in texts(figure)


def test_histograms_tell_lost_faces_and_leave_missing_values_out(made: Made) -> None:
    summary, rows, _ = made
    changed = [
        dataclasses.replace(
            row,
            found=row.photo != "000",
            target_protected=-1.0 if row.photo == "000" else row.target_protected,
            person_clean=float("nan"),
            person_protected=float("nan"),
        )
        for row in rows
    ]
    figure = plots.similarities(summary, changed, "map")
    assert figure is not None
    assert "dlib ResNet-29 (not used), n = 2, 1 without a face" in texts(figure)
    assert all(not axes.containers for axes in figure.axes[1::2])  # nobody's other photo
    target = figure.axes[0]
    assert min(bar.get_x() for container in target.containers for bar in container) > 0.5


def test_only_the_asked_method_enters_its_histogram(made: Made) -> None:
    summary, rows, _ = made
    assert plots.similarities(summary, [row for row in rows if row.method != "pgd"], "pgd") is None


def test_confusion_counts_what_was_seen(summary: dict) -> None:
    summary["methods"]["map"]["expression"].update(
        confusion={"happy": {"happy": 3, "neutral": 1}, "sad": {"no face": 2}},
        hits_before={"rate": 0.25, "low": 0.1, "high": 0.5, "n": 6},
        hits_after={"rate": 0.5, "low": 0.2, "high": 0.8, "n": 6},
    )
    figure = plots.expression_confusion(summary)
    assert figure is not None
    (axes,) = figure.axes
    seen = [label.get_text() for label in axes.get_xticklabels()]
    assert seen == ["happy", "neutral", "no face", "sad"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["happy", "sad"]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "", "", "", "", "2", ""]
    shares = np.asarray(axes.images[0].get_array())
    assert np.allclose(shares, [[0.75, 0.25, 0, 0], [0, 0, 1, 0]])
    assert "(n = 6)" in texts(figure)
    assert "25.0 % before, 50.0 % after" in texts(figure)


def test_long_names_are_wrapped_before_their_count(summary: dict) -> None:
    summary["methods"]["map"]["title"] = "MAP with a rather long title"
    figure = plots.protection_rates(summary)
    assert figure is not None
    assert "MAP with a rather long\ntitle (n = 6)" in texts(figure)
    assert "MI-FGSM, eps 8/255\n(n = 6)" in texts(figure)


def test_groups_have_their_intervals(summary: dict) -> None:
    figure = plots.groups(summary)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["gender", "age"]
    entries = summary["methods"]["map"]["groups"]["gender"]
    wanted = [expected(e[key]) for e in entries for key in ("impersonation", "dodging")]
    assert np.allclose(intervals(figure.axes[0]), wanted)
    assert "female (n = 3)" in texts(figure)


def test_ablations_stand_beside_the_full_method(summary: dict) -> None:
    figure = plots.ablations(summary)
    assert figure is not None
    labels = [axes.get_title(loc="left") for axes in figure.axes]
    assert labels == ["impersonation", "dodging", "expression"]
    names = findings.ablations(summary)
    wanted = [expected(findings.pooled(summary, name)["dodging"]) for name in names]
    assert np.allclose(intervals(figure.axes[1]), wanted)
    band = figure.axes[1].patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(wanted[0][1:])


def test_names_of_any_script_and_with_dollars_are_drawn(summary: dict, tmp_path: Path) -> None:
    entries = summary["methods"]["map"]["groups"]["gender"]
    entries[0]["group"], entries[1]["group"] = "$\\frac{$", "女性"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path,) = plots.write_plots(only(summary, "groups"), [], [], tmp_path)
    assert path.stem == "groups"


def only(summary: dict, part: str) -> dict:
    """A summary with one method that holds one part."""
    empty = {"verification": [], "mean_unseen": [], "groups": {}, "expression": None}
    method = {"title": "MAP", **empty, part: summary["methods"]["map"][part]}
    return {**summary, "methods": {"map": method}}
