"""Charts of the page as HTML: what the recognisers and the expression networks see.

Each function maps plain results to one string of HTML for `gr.HTML`, drawn by `CSS`, which takes
its colours from Gradio's theme variables and so follows light and dark mode. The bars are pictures
to a screen reader (`role="img"`) that read out as one sentence each; colour is never the only
signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from map_pipeline.config import FAR
from map_pipeline.report import ExpressionReport, FaceReport, RecogniserReport

# The page is shown before torch is loaded, which this module needs.
if TYPE_CHECKING:
    from map_pipeline.compare import Comparison
    from map_pipeline.robustness import RobustnessCheck

LINE_PERCENT = 50  # where the threshold is drawn, of the width of a track

NO_VERDICT = '<span class="map-soft">no verdict: its line isn\'t known</span>'

SIMILARITY_NOTE = (
    "From the line on, a recogniser takes two photos for the same person. Each recogniser has a "
    "line of its own; the bars are stretched so that all lines stand below each other. "
    "0 is nothing in common, 1 the same photo."
)
EMOTION_NOTE = "How sure each expression network is of each emotion; the asked one is marked."
STURDINESS_NOTE = "The result was treated as sharing does it, then measured anew."

# Two hues that people with any common colour blindness can tell apart (Okabe and Ito), lighter in
# dark mode. `--map-line` is the threshold.
CSS = """
.map-chart {
    --map-you: #0072b2; --map-target: #c2570c; --map-line: var(--body-text-color);
    --map-track: color-mix(in srgb, var(--body-text-color) 9%, transparent);
    --map-soft: color-mix(in srgb, var(--body-text-color) 72%, transparent);
    --map-good: #0b6e4f; --map-bad: #b42318;
    color: var(--body-text-color); font-size: 14px; line-height: 1.35;
}
.dark .map-chart {
    --map-you: #56b4e9; --map-target: #f0a052; --map-good: #5fd3a6; --map-bad: #ff8f85;
}
.map-chart .map-head { font-weight: 600; font-size: 15px; margin: 14px 0 6px; }
.map-chart .map-head:first-child { margin-top: 0; }
.map-chart .map-note, .map-chart .map-soft { color: var(--map-soft); }
.map-chart .map-note { margin: 8px 0 0; font-size: 13px; }
.map-chart .map-soft { font-weight: 400; font-size: 13px; }
.map-chart .map-grid {
    display: grid; gap: 10px; align-items: start;
    grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
}
.map-chart .map-card {
    border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 12px;
    background: var(--background-fill-primary); min-width: 0;
}
.map-chart .map-title {
    display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 10px;
    font-weight: 600; margin-bottom: 6px;
}
.map-chart .map-row {
    display: grid; align-items: center; gap: 8px; margin: 3px 0;
    grid-template-columns: var(--map-label, 52px) 1fr var(--map-value, 96px);
}
.map-chart .map-row > span { overflow-wrap: anywhere; }
.map-chart .map-value {
    text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
}
.map-chart .map-track {
    position: relative; height: 16px; border-radius: 4px; background: var(--map-track);
}
.map-chart .map-bar {
    position: absolute; left: 0; top: 4px; bottom: 4px; border-radius: 0 3px 3px 0;
    background: var(--map-colour, var(--map-you));
}
.map-chart .map-bar.map-before { top: 0; bottom: 0; opacity: .3; border-radius: 4px; }
.map-chart .map-line {
    position: absolute; top: -3px; bottom: -3px; width: 0; left: var(--map-at);
    border-left: 2px dashed var(--map-line);
}
.map-chart details { margin-top: 8px; }
.map-chart details .map-key { margin-top: 6px; }
.map-chart summary { cursor: pointer; color: var(--map-soft); font-size: 13px; }
.map-chart .map-asked { font-weight: 700; }
.map-chart .map-asked > :first-child::before { content: "\\25B8\\00A0"; }
.map-chart .map-verdicts { display: flex; flex-wrap: wrap; gap: 2px 12px; margin-top: 5px; }
.map-chart .map-good { color: var(--map-good); }
.map-chart .map-bad { color: var(--map-bad); }
.map-chart .map-key {
    display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 8px; font-size: 13px;
}
.map-chart .map-key span { display: inline-flex; align-items: center; gap: 6px; }
.map-chart .map-key i {
    display: inline-block; width: 22px; height: 8px; border-radius: 2px;
    background: var(--map-colour);
}
.map-chart .map-key i.map-before { height: 14px; opacity: .3; }
.map-chart .map-key i.map-dash {
    width: 0; height: 16px; background: none; border-left: 2px dashed var(--map-line);
}
"""


def similarity_chart(reports: Sequence[FaceReport]) -> str:
    """How similar each recogniser finds the face to the original and to the target.

    Args:
        reports: the protected faces of one photo.

    Returns:
        One card per recogniser, face after face: before and after, the threshold at a false accept
        rate of 1 %, verdicts in words, and whether the recogniser was used in the editing.
    """
    key = _key(
        ("map-before", "--map-colour: var(--body-text-color)", "before"),
        ("", "--map-colour: var(--map-you)", "to your photo, after"),
        ("", "--map-colour: var(--map-target)", "to the target, after"),
        ("map-dash", "", "same person from here on"),
    )
    faces = _by_face([[_recogniser_card(one) for one in face.recognisers] for face in reports])
    return _chart(key + faces, SIMILARITY_NOTE) if faces else ""


def emotion_chart(reports: Sequence[FaceReport]) -> str:
    """Probabilities of the emotions before and after, one card per expression network and face.

    Args:
        reports: the protected faces of one photo.
    """
    key = _key(
        ("map-before", "--map-colour: var(--body-text-color)", "before"),
        ("", "--map-colour: var(--map-you)", "after"),
    )
    faces = _by_face(
        [[_emotion_card(one, face.emotion) for one in face.expressions] for face in reports]
    )
    return _chart(key + faces, EMOTION_NOTE) if faces else ""


def robustness_chart(results: Sequence[RobustnessCheck]) -> str:
    """What is left of one face's protection after each treatment.

    Args:
        results: one per treatment, each with a row per recogniser.
    """
    if not results:
        return ""
    cards = "".join(_treatment_card(one) for one in results)
    return _chart(f'<div class="map-grid">{cards}</div>', STURDINESS_NOTE)


def comparison_chart(rows: Sequence[Comparison]) -> str:
    """Whether each recogniser takes two photos for the same person.

    Args:
        rows: one per recogniser.
    """
    if not rows:
        return ""
    judged = [one.matches for one in rows if one.matches is not None]
    verb = "sees" if len(judged) == 1 else "see"
    head = f"{sum(judged)} of {len(judged)} recognisers {verb} the same person" if judged else ""
    key = _key(
        ("", "--map-colour: var(--map-you)", "similarity of the two photos"),
        ("map-dash", "", "same person from here on"),
    )
    cards = "".join(_comparison_card(one) for one in rows)
    title = f'<div class="map-head">{head}</div>' if head else ""
    return _chart(f'{title}{key}<div class="map-grid">{cards}</div>', SIMILARITY_NOTE)


def position(similarity: float, threshold: float | None) -> float:
    """Where a similarity is drawn, in per cent of a track.

    [0, threshold] and [threshold, 1] fill one half each, so that the threshold stands at the same
    place for every recogniser, be it .27 or .91. Without one the scale is even. Below 0 is drawn
    as 0.
    """
    value = min(max(similarity, 0.0), 1.0)
    if threshold is None or not 0 < threshold < 1:
        return 100 * value
    if value < threshold:
        return LINE_PERCENT * value / threshold
    return LINE_PERCENT + (100 - LINE_PERCENT) * (value - threshold) / (1 - threshold)


def _recogniser_card(report: RecogniserReport) -> str:
    limit = report.thresholds.get(str(FAR))
    used = "used in the editing" if report.used_in_optimisation else "not used in the editing"
    rows = [
        _similarity_row("You", "to your photo", 1.0, report.source_after, limit, "you"),
        _similarity_row(
            "Target", "to the target", report.target_before, report.target_after, limit, "target"
        ),
    ]
    verdicts = _verdicts(report.no_longer_matches, report.impersonates)
    return _card(report.title, used, "".join(rows) + verdicts)


def _similarity_row(
    label: str,
    meaning: str,
    before: float | None,
    after: float,
    limit: float | None,
    colour: str,
) -> str:
    """One track; `before` None draws and tells only `after`."""
    change = _number(after) if before is None else f"{_number(before)} → {_number(after)}"
    told = _number(after) if before is None else f"{_number(before)} before, {_number(after)} after"
    line = "no line known" if limit is None else f"same person from {limit:.2f} on"
    bars = "" if before is None else _bar(position(before, limit), "map-before")
    bars += _bar(position(after, limit))
    bars += "" if limit is None else '<div class="map-line"></div>'
    return _row(
        label, bars, change, f"Similarity {meaning}: {told}; {line}.", f"var(--map-{colour})"
    )


def _verdicts(no_longer_matches: bool | None, impersonates: bool | None) -> str:
    """Both verdicts in words; being taken for the target is a bonus, so its lack isn't alarming."""
    if no_longer_matches is None or impersonates is None:
        return f'<div class="map-verdicts">{NO_VERDICT}</div>'
    you = (
        '<span class="map-good">✓ no longer matches you</span>'
        if no_longer_matches
        else '<span class="map-bad">✗ still matches you</span>'
    )
    target = (
        '<span class="map-good">✓ sees the target</span>'
        if impersonates
        else '<span class="map-soft">doesn\'t see the target</span>'
    )
    return f'<div class="map-verdicts">{you}{target}</div>'


def _emotion_card(report: ExpressionReport, asked: str) -> str:
    rows = [
        _row(
            emotion.capitalize(),
            _bar(100 * report.before[emotion], "map-before") + _bar(100 * after),
            f"{report.before[emotion]:.0%} → {after:.0%}",
            f"{emotion.capitalize()}{', the asked one' if emotion == asked else ''}: "
            f"{report.before[emotion]:.0%} before, {after:.0%} after.",
            "var(--map-you)",
            marked=emotion == asked,
        )
        for emotion, after in report.after.items()
    ]
    used = "used in the editing" if report.used_in_optimisation else "not used in the editing"
    return _card(report.title, used, "".join(rows), "--map-label: 78px; --map-value: 102px")


def _treatment_card(result: RobustnessCheck) -> str:
    judged = [one for one in result.recognisers if one.no_longer_matches is not None]
    rows = [
        _share_row(
            "No longer match you", sum(bool(one.no_longer_matches) for one in judged), judged
        ),
        _share_row("See the target", sum(bool(one.impersonates) for one in judged), judged),
    ]
    key = _key(
        ("", "--map-colour: var(--map-you)", "to your photo"),
        ("", "--map-colour: var(--map-target)", "to the target"),
        ("map-dash", "", "same person from here on"),
    )
    details = "".join(_robustness_rows(one) for one in result.recognisers)
    return _card(
        result.treatment[:1].upper() + result.treatment[1:],
        "",
        f"{''.join(rows) if judged else NO_VERDICT}"
        f'<details style="--map-label: 52px"><summary>Each recogniser</summary>'
        f"{key}{details}</details>",
        "--map-label: 152px; --map-value: 48px",
    )


def _share_row(label: str, number: int, judged: Sequence[RecogniserReport]) -> str:
    """A bar for how many of the recognisers that give a verdict say so."""
    share = f"{number} of {len(judged)}"
    bar = _bar(100 * number / len(judged)) if judged else ""
    return _row(label, bar, share, f"{label}: {share} recognisers.", "var(--map-good)")


def _robustness_rows(row: RecogniserReport) -> str:
    limit = row.thresholds.get(str(FAR))
    used = "" if row.used_in_optimisation else " · not used in the editing"
    tracks = [
        _similarity_row("You", "to your photo", None, row.source_after, limit, "you"),
        _similarity_row("Target", "to the target", None, row.target_after, limit, "target"),
    ]
    return (
        f'<div class="map-head">{escape(row.title)}<span class="map-soft">{used}</span></div>'
        f"{''.join(tracks)}"
    )


def _comparison_card(row: Comparison) -> str:
    bar = _similarity_row(
        "Similarity", "of the two photos", None, row.similarity, row.threshold, "you"
    )
    verdict = {None: NO_VERDICT, True: "<b>= same person</b>", False: "<b>≠ different people</b>"}
    line = "" if row.threshold is None else f"line at {_number(row.threshold)}"
    body = (
        f'{bar}<div class="map-verdicts">{verdict[row.matches]}'
        f'<span class="map-soft">{line}</span></div>'
    )
    return _card(row.title, "", body, "--map-label: 72px; --map-value: 48px")


def _row(label: str, bars: str, value: str, told: str, colour: str, *, marked: bool = False) -> str:
    """Label, track and number; a screen reader is told the sentence `told` instead of them."""
    return (
        f'<div class="map-row{" map-asked" if marked else ""}" role="img" '
        f'aria-label="{escape(told)}" style="--map-colour: {colour}; --map-at: {LINE_PERCENT}%">'
        f'<span>{escape(label)}</span><div class="map-track">{bars}</div>'
        f'<span class="map-value">{escape(value)}</span></div>'
    )


def _bar(percent: float, kind: str = "") -> str:
    return f'<div class="map-bar {kind}" style="width: {percent:.1f}%"></div>'


def _card(title: str, remark: str, body: str, style: str = "") -> str:
    return (
        f'<div class="map-card" style="{style}"><div class="map-title"><span>{escape(title)}</span>'
        f'<span class="map-soft">{escape(remark)}</span></div>{body}</div>'
    )


def _by_face(cards: Sequence[Sequence[str]]) -> str:
    """The cards of each face in a grid, under a heading where there are several faces."""
    grids = [f'<div class="map-grid">{"".join(one)}</div>' if one else "" for one in cards]
    if len(grids) < 2:
        return "".join(grids)
    return "".join(
        f'<div class="map-head">Face {number}</div>{grid}'
        for number, grid in enumerate(grids, 1)
        if grid
    )


def _key(*entries: tuple[str, str, str]) -> str:
    """The legend; for eyes only, as the rows are told in full sentences."""
    return '<div class="map-key" aria-hidden="true">{}</div>'.format(
        "".join(
            f'<span><i class="{kind}" style="{style}"></i>{escape(text)}</span>'
            for kind, style, text in entries
        )
    )


def _chart(body: str, note: str) -> str:
    return f'<div class="map-chart">{body}<p class="map-note">{escape(note)}</p></div>'


def _number(similarity: float) -> str:
    """Two decimals, with a real minus sign, and never "-0.00"."""
    return f"{round(similarity, 2) + 0.0:.2f}".replace("-", "−")  # noqa: RUF001 (minus sign)
