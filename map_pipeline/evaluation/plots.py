"""The charts of a run."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from map_pipeline.evaluation.tables import Table, unseen
from map_pipeline.files import write_atomically

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120}
MARKERS = "os^DvP*X"  # with matplotlib's ten colours, 40 methods differ
COLOURS = {"impersonation": "#b3541e", "dodging": "#1f6f8b"}


def write_plots(
    tables: Mapping[str, Table], judged: pd.DataFrame, titles: Mapping[str, str], out: Path
) -> list[Path]:
    """Draw what the tables hold; charts without figures are left out.

    Args:
        tables: by name; judged: see `tables.outcomes`.

    Returns:
        the files written, PNG.
    """
    charts = {
        "protection.png": lambda axes: draw_protection(axes, tables["protection"], titles),
        "robustness.png": lambda axes: draw_robustness(axes, tables["robustness"], titles),
        "visible_change.png": lambda axes: draw_visible_change(axes, tables, titles),
        "similarities.png": lambda axes: draw_similarities(axes, judged, titles),
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in charts.items():
            figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
            draw(axes)
            file = out / name
            _save(figure, file)
            written.append(file)
    return written


def write_chart(draw: Callable[[Axes], None], file: Path) -> None:
    """Draw one chart alone."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        draw(axes)
        _save(figure, file)


def draw_protection(axes: Axes, table: Table, titles: Mapping[str, str]) -> None:
    """Bars of impersonation and dodging with their intervals, and marks of the clean photos."""
    figures = table.figures[table.figures["transformation"] == "none"].set_index(
        ["method", "measure"]
    )
    methods = list(dict.fromkeys(figures.index.get_level_values("method")))
    for offset, measure in ((-0.2, "impersonation"), (0.2, "dodging")):
        for place, method in enumerate(methods):
            one, clean = figures.loc[(method, measure)], figures.loc[(method, f"{measure}_clean")]
            if not one["n"]:
                continue
            error = [[one["share"] - one["low"]], [one["high"] - one["share"]]]
            label = measure if place == 0 else None
            x = place + offset
            axes.bar(x, one["share"], 0.38, yerr=error, color=COLOURS[measure], label=label)
            axes.plot([x - 0.19, x + 0.19], [clean["share"]] * 2, color="black")
    axes.set_xticks(range(len(methods)), [titles.get(m, m) for m in methods], rotation=20)
    axes.set(ylim=(0, 1), ylabel="share of photos", title=table.title)
    axes.legend(frameon=False)


def draw_robustness(axes: Axes, table: Table, titles: Mapping[str, str]) -> None:
    """Dodging by treatment of the protected photo, one line a method."""
    figures = table.figures[table.figures["measure"] == "dodging"]
    for method, group in figures.groupby("method", sort=False):
        axes.plot(group["transformation"], group["share"], "o-", label=titles.get(method, method))
    axes.set(ylim=(0, 1.02), ylabel="dodging, share of photos", title=table.title)
    axes.tick_params(axis="x", rotation=30)
    axes.legend(frameon=False, fontsize=7)


def draw_visible_change(axes: Axes, tables: Mapping[str, Table], titles: Mapping[str, str]) -> None:
    """Dodging against structural similarity of the face: the price of the protection."""
    kept = tables["quality"].figures.query("measure == 'face_ssim'").set_index("method")["mean"]
    draw_price(axes, tables["protection"], kept, titles)
    axes.set(
        xlabel="SSIM of the face, its motion undone (1: unchanged)",
        title="What does the protection cost in visible change?",
    )


def draw_lineup(axes: Axes, tables: Mapping[str, Table], titles: Mapping[str, str]) -> None:
    """Dodging against how many viewers of line-ups find the person."""
    found = tables["lineup"].figures.query("measure == 'found'").set_index("method")["share"]
    found.index = found.index.map(lambda name: titles.get(name, name))
    draw_price(axes, tables["protection"], found, {})
    if "untouched" in found:
        axes.axvline(found["untouched"], color="grey", linestyle=":", label="untouched photos")
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(
        xlabel="person found in a line-up, share of photos",
        title="Whom does the protection hide the person from?",
    )


def draw_price(axes: Axes, protection: Table, kept: pd.Series, titles: Mapping[str, str]) -> None:
    """Dodging with its interval against what is kept, one point a method, named beside the chart.

    Args:
        kept: by method; methods that it doesn't hold are left out.
    """
    rows = protection.figures.query("measure == 'dodging' and transformation == 'none'")
    drawn = [one for one in rows.itertuples() if one.n and pd.notna(kept.get(one.method))]
    for number, one in enumerate(drawn):
        error = [[one.share - one.low], [one.high - one.share]]
        look = {"fmt": MARKERS[number % len(MARKERS)], "elinewidth": 0.5}
        title = titles.get(one.method, one.method)
        axes.errorbar(kept[one.method], one.share, error, label=title, **look)
    axes.set(ylim=(0, 1.05), ylabel="dodging, share of photos")
    if drawn:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_similarities(axes: Axes, judged: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """How similar photos are to the person's other photo, before and after."""
    saved = unseen(judged)
    saved = saved[(saved["transformation"] == "none") & saved["person_protected"].notna()]
    boxes, labels = [], []
    for method, group in saved.groupby("method", sort=False):
        if not labels:
            boxes.append(group["person_clean"].to_numpy())
            labels.append("unprotected")
        boxes.append(group["person_protected"].to_numpy())
        labels.append(titles.get(method, method))
    if boxes:
        axes.boxplot(boxes)
        axes.set_xticks(range(1, len(labels) + 1), labels, rotation=20)
    axes.set(
        ylabel="cosine similarity",
        title="How similar is the photo to another one of the person?",
    )


def _save(figure: plt.Figure, file: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    write_atomically(file, buffer.getvalue())
