"""Charts of the page as HTML: what the recognisers and the expression classifiers see.

Each function maps plain results to one string of HTML for `gr.HTML`, from `templates/charts.html`
and drawn by `assets/charts.css`, which takes its colours from Gradio's theme and so follows light
and dark mode. The bars are pictures to a screen reader (`role="img"`) that read out as one sentence
each; colour is never the only signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from map_pipeline.config import FAR
from map_pipeline.report import ExpressionReport, FaceReport, RecogniserReport, face_numbers

# The page is shown before torch is loaded, which these modules need.
if TYPE_CHECKING:
    from map_pipeline.compare import Comparison
    from map_pipeline.robustness import RobustnessCheck

LINE_PERCENT = 50  # where the threshold is drawn, of the width of a track
SIMILARITY_NOTE = (
    "At or above its threshold (the dashed line), a program takes two photos to show the same "
    "person. Thresholds differ, so the bars are scaled to align them. 0 means nothing in common, "
    "1 the same photo."
)
EMOTION_NOTE = "How likely each program finds each emotion; the chosen one is marked."
ROBUSTNESS_NOTE = "The result was compressed or resized as sharing does, then measured again."
STAND_IN = "Stand-in"  # the target, as the page calls it
BEFORE = ("map-before", "body-text-color", "before")
LINE = ("map-dash", "", "threshold for the same person")

TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("charts.html")


@dataclass(frozen=True)
class Bar:
    """One row: a label, a track with up to two bars, and a number.

    Attributes:
        label, value: what is written; spoken: the sentence for a screen reader.
        after: width of the bar in per cent; before: of the pale one behind it, if any.
        colour: variable of the style sheet; line: whether the threshold is drawn.
        marked: the requested emotion.
    """

    label: str
    value: str
    spoken: str
    after: float
    before: float | None = None
    colour: str = "map-you"
    line: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Card:
    """One network, or one treatment.

    Attributes:
        title, remark: its heading.
        bars: the rows; verdicts: pairs (style, text) below them.
        details: cards to unfold; widths: of label and number, CSS.
    """

    title: str
    remark: str = ""
    bars: Sequence[Bar] = ()
    verdicts: Sequence[tuple[str, str]] = ()
    details: Sequence[Card] = ()
    widths: str = ""


@dataclass(frozen=True)
class Chart:
    """Groups of cards with a legend and a note.

    Attributes:
        groups: pairs (heading, cards); key: triples (kind, colour, text) of the legend.
    """

    groups: Sequence[tuple[str, Sequence[Card]]]
    note: str
    key: Sequence[tuple[str, str, str]] = ()
    details_key: Sequence[tuple[str, str, str]] = field(
        default=(("", "map-you", "to your photo"), ("", "map-target", "to the stand-in"), LINE)
    )


def similarity_chart(reports: Sequence[FaceReport]) -> str:
    """How similar each recogniser finds the face to the original and to the target.

    Args:
        reports: the protected faces of one photo.

    Returns:
        One card per recogniser, face after face: before and after, the threshold at a false accept
        rate of 1 %, verdicts in words, and whether the recogniser was used in the editing.
    """
    you, target = ("map-you", "to your photo, after"), ("map-target", "to the stand-in, after")
    key = (BEFORE, ("", *you), ("", *target), LINE)
    cards = [[_recogniser_card(one) for one in face.recognisers] for face in reports]
    return _render(_by_face(reports, cards), SIMILARITY_NOTE, key)


def emotion_chart(reports: Sequence[FaceReport]) -> str:
    """Probabilities of the emotions before and after, one card per classifier and face.

    Args:
        reports: the protected faces of one photo.
    """
    key = (BEFORE, ("", "map-you", "after"))
    cards = [[_emotion_card(one, face.emotion) for one in face.expressions] for face in reports]
    return _render(_by_face(reports, cards), EMOTION_NOTE, key)


def robustness_chart(
    reports: Sequence[FaceReport], results: Sequence[Sequence[RobustnessCheck]]
) -> str:
    """What is left of each face's protection after each treatment.

    Args:
        reports: the protected faces of one photo.
        results: for each of them one per treatment, with a row per recogniser.
    """
    cards = [[_treatment_card(one) for one in face] for face in results]
    return _render(_by_face(reports, cards), ROBUSTNESS_NOTE)


def comparison_chart(rows: Sequence[Comparison]) -> str:
    """Whether each recogniser takes two photos for the same person.

    Args:
        rows: one per recogniser.
    """
    judged = [one.matches for one in rows if one.matches is not None]
    verb = "sees" if len(judged) == 1 else "see"
    head = f"{sum(judged)} of {len(judged)} programs {verb} the same person" if judged else ""
    key = (("", "map-you", "similarity of the two photos"), LINE)
    return _render([(head, [_comparison_card(one) for one in rows])], SIMILARITY_NOTE, key)


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


def _render(
    groups: Sequence[tuple[str, Sequence[Card]]], note: str, key: Sequence[tuple] = ()
) -> str:
    filled = [(heading, cards) for heading, cards in groups if cards]
    if not filled:
        return ""
    return TEMPLATE.render(chart=Chart(filled, note, key), line_percent=LINE_PERCENT)


def _by_face(
    reports: Sequence[FaceReport], cards: Sequence[Sequence[Card]]
) -> list[tuple[str, Sequence[Card]]]:
    """The cards of each face, under a heading where there are several faces."""
    several, numbers = len(cards) > 1, face_numbers(reports)
    return [
        (f"Face {number}" if several else "", one)
        for number, one in zip(numbers, cards, strict=True)
    ]


def _used(report: RecogniserReport | ExpressionReport) -> str:
    return "used in the editing" if report.used_in_optimisation else "not used in the editing"


def _recogniser_card(report: RecogniserReport) -> Card:
    limit = report.thresholds.get(str(FAR))
    before = report.target_before
    bars = [_similarity_bar("You", "to your photo", 1.0, report.source_after, limit)]
    if report.target_after is not None:
        bars.append(
            _similarity_bar(STAND_IN, "to the stand-in", before, report.target_after, limit)
        )
    return Card(report.title, _used(report), bars, _verdicts(report))


def _similarity_bar(
    label: str, meaning: str, before: float | None, after: float, limit: float | None
) -> Bar:
    """One track; `before` None draws and names only `after`."""
    value, spoken = _number(after), _number(after)
    if before is not None:
        value, spoken = f"{_number(before)} → {value}", f"{_number(before)} before, {value} after"
    line = "threshold unknown" if limit is None else f"same person from {limit:.2f}"
    return Bar(
        label=label,
        value=value,
        spoken=f"Similarity {meaning}: {spoken}; {line}.",
        after=position(after, limit),
        before=None if before is None else position(before, limit),
        colour="map-target" if label == STAND_IN else "map-you",
        line=limit is not None,
    )


def _verdicts(report: RecogniserReport) -> list[tuple[str, str]]:
    """Both verdicts in words; being taken for the target is a bonus, so its lack isn't alarming."""
    if report.no_longer_matches is None:
        return [("map-soft", "no verdict: threshold unknown")]
    you = ("map-good", "✓ no longer finds you")
    verdicts = [you if report.no_longer_matches else ("map-bad", "✗ still finds you")]
    if report.impersonates is not None:
        seen = ("map-good", "✓ takes you for the stand-in")
        verdicts.append(
            seen if report.impersonates else ("map-soft", "doesn't take you for the stand-in")
        )
    return verdicts


def _emotion_card(report: ExpressionReport, asked: str) -> Card:
    bars = []
    for emotion, after in report.after.items():
        before, name = report.before[emotion], emotion.capitalize()
        mark = ", chosen" if emotion == asked else ""
        bars.append(
            Bar(
                label=name,
                value=f"{before:.0%} → {after:.0%}",
                spoken=f"{name}{mark}: {before:.0%} before, {after:.0%} after.",
                after=100 * after,
                before=100 * before,
                marked=emotion == asked,
            )
        )
    return Card(report.title, _used(report), bars, widths="--map-label: 92px; --map-value: 112px")


def _treatment_card(result: RobustnessCheck) -> Card:
    judged = [one for one in result.recognisers if one.no_longer_matches is not None]
    bars = [_share_bar("No longer find you", [bool(one.no_longer_matches) for one in judged])]
    if any(one.impersonates is not None for one in judged):
        bars.append(
            _share_bar("Take you for the stand-in", [bool(one.impersonates) for one in judged])
        )
    return Card(
        result.treatment[:1].upper() + result.treatment[1:],
        bars=bars if judged else (),
        verdicts=() if judged else [("map-soft", "no verdict: threshold unknown")],
        details=[_small_card(one) for one in result.recognisers],
        widths="--map-label: 168px; --map-value: 48px",
    )


def _share_bar(label: str, said: Sequence[bool]) -> Bar:
    """How many of the recognisers that give a verdict say so."""
    share = f"{sum(said)} of {len(said)}"
    percent = 100 * sum(said) / max(len(said), 1)
    return Bar(label, share, f"{label}: {share} programs.", percent, colour="map-good")


def _small_card(row: RecogniserReport) -> Card:
    limit = row.thresholds.get(str(FAR))
    used = "" if row.used_in_optimisation else " · not used in the editing"
    bars = [_similarity_bar("You", "to your photo", None, row.source_after, limit)]
    if row.target_after is not None:
        bars.append(_similarity_bar(STAND_IN, "to the stand-in", None, row.target_after, limit))
    return Card(row.title, used, bars)


def _comparison_card(row: Comparison) -> Card:
    bar = _similarity_bar("Similarity", "of the two photos", None, row.similarity, row.threshold)
    verdict = {
        None: ("map-soft", "no verdict: threshold unknown"),
        True: ("map-strong", "= same person"),
        False: ("map-strong", "≠ different people"),
    }
    line = "" if row.threshold is None else f"threshold {_number(row.threshold)}"
    verdicts = [verdict[row.matches], ("map-soft", line)]
    return Card(row.title, "", [bar], verdicts, widths="--map-label: 72px; --map-value: 48px")


def _number(similarity: float) -> str:
    """Two decimals, with a real minus sign, and never "-0.00"."""
    return f"{round(similarity, 2) + 0.0:.2f}".replace("-", "−")  # noqa: RUF001 (minus sign)
