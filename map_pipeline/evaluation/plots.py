"""Charts of an evaluation as PNG files: rates, robustness, similarities, groups, before and after.

Figures are made without pyplot, so that no window, backend or global state is involved. Colours are
those of Okabe and Ito, which people with any common colour blindness can tell apart; each method
has a marker of its own as well. Error bars are 95 % Wilson intervals throughout.
"""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from map_pipeline.evaluation import findings
from map_pipeline.evaluation.contact_sheet import Sheet, compose
from map_pipeline.evaluation.findings import Rate, Summary, use
from map_pipeline.evaluation.results import NOT_FOUND, PhotoRow, Row
from map_pipeline.images import write_atomically

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8C8C8C", "#222222"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK, GREY)
MARKERS = "osD^vPX*h<"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "text.parse_math": False,  # names may hold a "$"
}
WIDTH = 6.4  # inches; narrow, so that the text stays readable on a phone
DPI = 144
CAP = 2.5  # points, half the width of an error bar's end
MANY_METHODS = 6  # from then on, the bars of all but the leading method are left to the table
LABEL_LENGTH = 24  # letters a line
# Knob of the trade-off -> label, colour and marker, and where its points' labels stand.
KNOBS = {
    "strength": ("strength of the protection", {"color": BLUE, "fmt": "o"}, (5, 4)),
    "expression": ("strength of the expression", {"color": VERMILION, "fmt": "s"}, (-5, -11)),
}
RATE_TICKS = (0, 25, 50, 75, 100)
SHEET_INCHES = 1.1  # side of a picture in the contact sheet
RATES = (
    ("impersonation", "Impersonation: matches the target"),
    ("dodging", "Dodging: no longer matches the person"),
)


def write_plots(
    summary: Summary, rows: Sequence[Row], photos: Sequence[PhotoRow], out: Path
) -> list[Path]:
    """Write every chart that the results allow to `out/plots/`.

    Args:
        summary: content of `summary.json`.
        rows: rows of `results.csv`; photos: rows of `photos.csv`.
        out: folder of the run, with `photos/METHOD/NAME.png`.

    Returns:
        Paths of the PNG files in the order of the report.
    """
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(summary, rows, photos, out):
            if figure is not None:
                written.append(out / "plots" / f"{name}.png")
                save_figure(figure, written[-1])
    return written


def _figures(
    summary: Summary, rows: Sequence[Row], photos: Sequence[PhotoRow], out: Path
) -> Iterator[tuple[str, Figure | None]]:
    sheet = compose(findings.main_methods(summary), photos, out / "photos")
    yield "contact_sheet", None if sheet is None else contact_sheet(sheet)
    yield "psr", protection_rates(summary)
    yield "psr_by_recogniser", rates_by_recogniser(summary)
    yield "robustness", robustness(summary)
    for method in findings.main_methods(summary):
        yield f"similarities_{method}", similarities(summary, rows, method)
    yield "expression", expression_confusion(summary)
    yield "groups", groups(summary)
    yield "ablations", ablations(summary)
    yield "trade_off", trade_off(summary)


def protection_rates(summary: Summary) -> Figure | None:
    """One bar per method on the recognisers left out, with the clean photos as a black mark."""
    found = {m: findings.pooled(summary, m) for m in findings.main_methods(summary)}
    found = {method: entry for method, entry in found.items() if entry is not None}
    if not found:
        return None
    heading = "Protection success rate, recognisers left out"
    figure = new_figure(1.6 + 2 * (0.5 + 0.36 * len(found)), heading)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (key, label) in zip(panels, RATES, strict=True):
        for y, (method, entry) in enumerate(found.items()):
            colour = _style(summary, method)["color"]
            axes.barh(y, _share(entry[key]), height=0.6, color=colour, alpha=0.75)
            _interval(axes, entry[key], y, color=INK, fmt="none")
            clean = axes.plot(_share(entry[f"{key}_clean"]), y, "|", color=INK, ms=15, mew=2.5)
            axes.text(104, y, findings.percent(entry[key]), va="center", clip_on=False)
        names = [f"{findings.title(summary, m)} {_count(e[key])}" for m, e in found.items()]
        _rate_axis(axes, label, names)
    panels[-1].set_xlabel(f"share of photos in % at FAR {_far(summary)}, 95 % interval")
    add_legend(figure, clean, ["unprotected photos"])
    return figure


def rates_by_recogniser(summary: Summary) -> Figure | None:
    """A dot per method and recogniser."""
    methods = findings.main_methods(summary)
    entries = {m: {e["recogniser"]: e for e in findings.judges(summary, m)} for m in methods}
    titles = {name: e for method in methods for name, e in entries[method].items()}
    if not titles:
        return None
    height = len(titles) * max(0.5, 0.2 + 0.15 * len(methods))
    figure = new_figure(1.9 + 2 * (0.4 + height), "Protection success rate by recogniser")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (key, label) in zip(panels, RATES, strict=True):
        for method, offset in zip(methods, _offsets(len(methods)), strict=True):
            for y, name in enumerate(titles):
                if name in entries[method]:
                    rate = entries[method][name][key]
                    _interval(axes, rate, y + offset, **_style(summary, method))
        for y, name in enumerate(titles):
            clean = next(e[name][f"{key}_clean"] for e in entries.values() if name in e)
            mark = axes.plot([_share(clean)] * 2, [y - 0.4, y + 0.4], color=INK, lw=2.5)
        labels = [f"{e['title']}\n({use(e['unseen'])})" for e in titles.values()]
        _rate_axis(axes, label, labels)
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel(f"share of photos in % at FAR {_far(summary)}, 95 % interval")
    handles = [_handle(panels[0], **_style(summary, method)) for method in methods]
    titled = [findings.title(summary, method) for method in methods]
    add_legend(figure, [*handles, *mark], [*titled, "unprotected photos"])
    return figure


def robustness(summary: Summary) -> Figure | None:
    """Rates on the recognisers left out after each transformation, one marker per method."""
    methods = [m for m in findings.main_methods(summary) if findings.pooled(summary, m)]
    names = findings.transformations(summary)
    if not methods or len(names) < 2:
        return None
    figure = new_figure(7.6, "Protection after a photo was transformed, recognisers left out")
    panels = figure.subplots(2, 1, sharex=True)
    leading, crowded = findings.leading_method(summary), len(methods) > MANY_METHODS
    for axes, (key, label) in zip(panels, RATES, strict=True):
        for method, offset in zip(methods, _offsets(len(methods)), strict=True):
            style = _style(summary, method)
            style["elinewidth"] = 1.8 if method == leading else 0 if crowded else 0.8
            style["capsize"] = 0 if crowded and method != leading else CAP
            for x, name in enumerate(names):
                entry = findings.pooled(summary, method, name)
                if entry is not None:
                    _interval(axes, entry[key], x + offset, vertical=True, **style)
        clean = _clean_steps(axes, summary, leading, names, key)
        axes.set(title=label, ylim=(-4, 104), ylabel="share of photos in %")
        axes.grid(axis="x", visible=False)
        for x in range(0, len(names), 2):
            axes.axvspan(x - 0.5, x + 0.5, color="#F4F4F4", zorder=0)
    titles = [findings.transformation_title(name) for name in names]
    panels[-1].set_xticks(range(len(names)), titles, rotation=40, ha="right")
    of_whom = f" of {findings.title(summary, leading)}" if crowded else ""
    counts = {
        entry["impersonation"]["n"] for m in methods if (entry := findings.pooled(summary, m))
    }
    label = f"FAR {_far(summary)}, n = {findings.span(counts)}; bars: 95 % interval{of_whom}"
    panels[-1].set(xlim=(-0.5, len(names) - 0.5), xlabel=label)
    handles = [_handle(panels[0], **_style(summary, method)) for method in methods]
    titled = [findings.title(summary, method) for method in methods]
    add_legend(figure, [*handles, clean], [*titled, "unprotected photos"])
    return figure


def _clean_steps(axes: Axes, summary: Summary, method: str, names: Sequence[str], key: str) -> Any:
    """A short level per transformation: the unprotected photos after the same treatment."""
    entries = [findings.pooled(summary, method, name) for name in names]
    rates = [_share(entry and entry[f"{key}_clean"]) for entry in entries]
    positions = np.arange(len(names))
    return axes.hlines(rates, positions - 0.42, positions + 0.42, color=INK, lw=2)


def similarities(summary: Summary, rows: Sequence[Row], method: str) -> Figure | None:
    """Histograms of the cosine similarities per recogniser, with the threshold between matches."""
    saved = [r for r in rows if r.method == method and r.transformation == "none"]
    names = [name for name in summary["thresholds"] if any(r.recogniser == name for r in saved)]
    if not names:
        return None
    heading = f"{findings.title(summary, method)}: similarities before and after"
    figure = new_figure(1.5 + 1.75 * len(names), heading)
    panels = figure.subplots(len(names), 2, squeeze=False)
    titles = {e["recogniser"]: e["title"] for e in findings.judges(summary, method)}
    for pair, name in zip(panels, names, strict=True):
        found = [row for row in saved if row.recogniser == name]
        judged = [row for row in found if not row.used] or found
        threshold = _threshold(summary, name)
        for axes, key in zip(pair, ("target", "person"), strict=True):
            # The unprotected photo is the same whatever was left out: count it once.
            clean = list({row.photo: getattr(row, f"{key}_clean") for row in found}.values())
            protected = [getattr(row, f"{key}_protected") for row in judged]
            _histogram(axes, _measured(clean), _measured(protected), threshold, _far(summary))
        lost = sum(not row.found for row in judged)
        note = f", {lost} without a face" if lost else ""
        used = use(not judged[0].used)
        pair[0].set_title(f"{titles.get(name, name)} ({used}), n = {len(judged)}{note}")
        pair[0].set_ylabel("photos in %")
    panels[-1, 0].set_xlabel("cosine with the target")
    panels[-1, 1].set_xlabel("cosine with the person")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    add_legend(figure, handles, labels)
    return figure


def _histogram(
    axes: Axes,
    clean: Sequence[float],
    protected: Sequence[float],
    threshold: float | None,
    far: str,
) -> None:
    values = [*clean, *protected] + ([] if threshold is None else [threshold])
    if not values:
        return
    bins = np.linspace(min(values) - 0.01, max(values) + 0.01, 19)
    for data, colour, label in ((clean, GREY, "unprotected"), (protected, BLUE, "protected")):
        if data:
            shares = np.full(len(data), 100 / len(data))
            axes.hist(data, bins, weights=shares, color=colour, alpha=0.6, label=label)
    if threshold is not None:
        label = f"threshold at FAR {far}: right of it is a match"
        axes.axvline(threshold, color=INK, ls="--", lw=1.6, label=label)
    axes.locator_params(nbins=4)


def expression_confusion(summary: Summary) -> Figure | None:
    """What a network that was not optimised against sees, by the emotion that was asked for."""
    method = findings.leading_method(summary)
    found = summary["methods"][method].get("expression")
    if not found or not found.get("confusion"):
        return None
    confusion = found["confusion"]
    seen = sorted({name for counts in confusion.values() for name in counts} | set(confusion))
    counts = np.array([[confusion[asked].get(name, 0) for name in seen] for asked in confusion])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heading = (
        f"Expression seen by {found['judge']} (n = {counts.sum()})\n"
        f"asked emotion on top: {findings.percent(found['hits_before'])} before, "
        f"{findings.percent(found['hits_after'])} after"
    )
    figure = new_figure(2.0 + 0.42 * len(confusion), heading)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), count in np.ndenumerate(counts):
        ink = "white" if shares[y, x] > 0.55 else INK
        axes.text(x, y, str(count) if count else "", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(seen)), seen, rotation=30, ha="right")
    axes.set_yticks(range(len(confusion)), list(confusion))
    label = f"seen in the photo protected by {findings.title(summary, method)} (count)"
    axes.set(xlabel=label, ylabel="asked")
    axes.grid(visible=False)
    return figure


def groups(summary: Summary) -> Figure | None:
    """Rates of the leading method by group of people."""
    method = findings.leading_method(summary)
    found = findings.groups(summary, method)
    if not found:
        return None
    sizes = [len(entries) + 1 for entries in found.values()]
    heading = f"{findings.title(summary, method)}: protection by group, recognisers left out"
    figure = new_figure(1.5 + 0.42 * sum(sizes), heading)
    panels = figure.subplots(len(found), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (attribute, entries) in zip(panels, found.items(), strict=True):
        for y, entry in enumerate(entries):
            _interval(axes, entry["impersonation"], y - 0.14, color=BLUE, fmt="o")
            _interval(axes, entry["dodging"], y + 0.14, color=VERMILION, fmt="s")
        labels = [f"{entry['group']} {_count(entry['dodging'])}" for entry in entries]
        _rate_axis(axes, attribute.replace("_", " "), labels)
    panels[-1].set_xlabel("share of photos in %, 95 % interval")
    handles = [_handle(panels[0], BLUE, "o"), _handle(panels[0], VERMILION, "s")]
    add_legend(figure, handles, ["impersonation", "dodging"])
    return figure


def ablations(summary: Summary) -> Figure | None:
    """Rates of MAP with one part taken out; the band is the interval of the full method."""
    names = findings.ablations(summary)
    summary = findings.on_common_photos(summary)
    if not names:
        return None
    titles = [findings.title(summary, name) for name in names]
    entries = [findings.pooled(summary, name) or {} for name in names]
    expressions = [summary["methods"][name].get("expression") or {} for name in names]
    found = {key: [entry.get(key) for entry in entries] for key, _ in RATES}
    found["expression"] = [entry.get("hits_after") for entry in expressions]
    found = {label: rates for label, rates in found.items() if any(rates)}
    if not found:
        return None
    figure = new_figure(1.5 + 0.4 * len(names), "Ablations: what each part contributes")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (label, rates) in zip(panels, found.items(), strict=True):
        if rates[0]:
            axes.axvspan(100 * rates[0]["low"], 100 * rates[0]["high"], color=SKY, alpha=0.25, lw=0)
        for y, rate in enumerate(rates):
            _interval(axes, rate, y, color=INK if y else BLUE, fmt="o")
        _rate_axis(axes, label, titles)
        axes.set(xticks=(0, 50, 100), xlim=(-9, 109))
    counts = {rate["n"] for rates in found.values() for rate in rates if rate}
    label = f"share of photos in %, 95 % interval, n = {findings.span(counts)}; band: {titles[0]}"
    figure.supxlabel(label, fontsize=11)
    return figure


def trade_off(summary: Summary) -> Figure | None:
    """Rates of MAP in fast mode against SSIM and PSNR, one curve per knob, labelled points."""
    curves = {knob: _points(summary, curve) for knob, curve in findings.trade_off(summary).items()}
    curves = {knob: points for knob, points in curves.items() if points}
    if not curves:
        return None
    counts = {e["impersonation"]["n"] for points in curves.values() for _, e, _ in points}
    heading = (
        "Trade-off: protection and visible change, recognisers left out\n"
        f"FAR {_far(summary)}, n = {findings.span(counts)}; bars: 95 % interval; up and right is "
        "better"
    )
    figure = new_figure(7.4, heading)
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, (key, label) in zip(panels, RATES, strict=True):
        row[0].set(title=label, ylabel="share of photos in %", ylim=(-4, 112), yticks=RATE_TICKS)
        for axes, metric in zip(row, ("ssim", "psnr"), strict=True):
            for knob, points in curves.items():
                _curve(axes, knob, points, metric, key)
            axes.margins(x=0.1)
    panels[1, 0].set_xlabel("SSIM, mean")
    panels[1, 1].set_xlabel("PSNR in dB, mean")
    handles = [_handle(panels[0, 0], **KNOBS[knob][1]) for knob in curves]
    add_legend(figure, handles, [KNOBS[knob][0] for knob in curves])
    return figure


Point = tuple[int, Mapping[str, Any], Mapping[str, Any]]
"""Percent of a strength, rates on the recognisers left out, quality."""


def _points(summary: Summary, curve: Mapping[str, int]) -> list[Point]:
    """The methods of a curve that were judged by recognisers left out."""
    return [
        (percent, entry, summary["methods"][name]["quality"])
        for name, percent in curve.items()
        if (entry := findings.pooled(summary, name)) is not None
    ]


def _curve(axes: Axes, knob: str, points: Sequence[Point], metric: str, key: str) -> None:
    """A line through rates with their intervals; each point is labelled with its strength."""
    measured = [
        (quality[metric]["mean"], entry[key], percent)
        for percent, entry, quality in points
        if findings.is_number(quality[metric]["mean"]) and entry[key]["n"]
    ]
    _, style, offset = KNOBS[knob]
    places = [place for place, _, _ in measured]
    axes.plot(places, [_share(rate) for _, rate, _ in measured], color=style["color"], lw=1)
    for place, rate, percent in measured:
        _interval(axes, rate, place, vertical=True, **style)
        axes.annotate(
            f"{percent / 100:g}",
            (place, _share(rate)),
            offset,
            textcoords="offset points",
            ha="left" if offset[0] > 0 else "right",
            color=style["color"],
            fontsize=9,
        )


def contact_sheet(sheet: Sheet) -> Figure:
    """Before and after: photos down, the original and the methods across."""
    rows, columns = len(sheet.rows), len(sheet.columns)
    width = max(WIDTH, SHEET_INCHES * columns + 1)
    figure = new_figure(SHEET_INCHES * rows + 0.8, "Before and after", width)
    axes = figure.subplots()
    axes.imshow(sheet.picture, interpolation="antialiased")
    centres = (np.arange(max(rows, columns)) + 0.5) * sheet.cell - 0.5
    axes.set_xticks(centres[:columns], sheet.columns)
    axes.set_yticks(centres[:rows], sheet.rows, fontsize=9)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    for (row, column), text in sheet.notes.items():
        place = centres[column], centres[row]
        axes.text(*place, text, ha="center", va="center", color=VERMILION, fontsize=9)
    return figure


def _threshold(summary: Summary, recogniser: str) -> float | None:
    return summary["thresholds"][recogniser][findings.main_far(summary)]["used"]


def _far(summary: Summary) -> str:
    return findings.far_title(findings.main_far(summary))


def new_figure(height: float, heading: str, width: float = WIDTH) -> Figure:
    """An empty figure of `width` x `height` inches with a heading; draw within `STYLE`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def _rate_axis(axes: Axes, label: str, names: Sequence[str]) -> None:
    """A percent axis across and names down, first on top."""
    axes.set(title=label, xlim=(-3, 103), xticks=RATE_TICKS)
    labels = [
        "\n".join(textwrap.fill(line, LABEL_LENGTH) for line in name.splitlines()) for name in names
    ]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _interval(
    axes: Axes, rate: Rate | None, position: float, vertical: bool = False, **style: Any
) -> None:
    """A rate with its Wilson interval at `position`; nothing if nothing was counted."""
    if not rate or not rate["n"]:
        return
    value = 100 * rate["rate"]
    error = [[max(value - 100 * rate["low"], 0)], [max(100 * rate["high"] - value, 0)]]
    style = {"ms": 6, "elinewidth": 1.4, "capsize": CAP, **style}
    if vertical:
        axes.errorbar(position, value, yerr=error, **style)
    else:
        axes.errorbar(value, position, xerr=error, **style)


def _offsets(count: int) -> np.ndarray:
    """Places of `count` methods within one category of width 1."""
    return (
        np.linspace(-0.38, 0.38, count + 2)[1:-1] if count < 4 else np.linspace(-0.36, 0.36, count)
    )


def _share(rate: Rate | None) -> float:
    """A rate in percent; NaN, which isn't drawn, if nothing was counted."""
    return 100 * rate["rate"] if rate and rate["n"] else np.nan


def _count(rate: Rate) -> str:
    """The number of trials, with spaces that no line ends at."""
    return f"(n = {rate['n']})".replace(" ", "\u00a0")


def _measured(similarities: Sequence[float]) -> list[float]:
    """Without faces that weren't found and people without a second photo."""
    return [value for value in similarities if value != NOT_FOUND and not np.isnan(value)]


def _style(summary: Summary, method: str) -> dict[str, Any]:
    """Colour and marker of a method, the same in all charts of a run."""
    index = findings.main_methods(summary).index(method)
    return {"color": COLOURS[index % len(COLOURS)], "fmt": MARKERS[index % len(MARKERS)]}


def _handle(axes: Axes, color: str, fmt: str) -> Any:
    return axes.plot([], [], fmt, color=color)[0]


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend below all panels."""
    columns = 2 if max(map(len, labels)) > 22 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks shows boxes; that's no reason to worry the user.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DPI)
    write_atomically(path, buffer.getvalue())
