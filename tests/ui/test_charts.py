import re
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import pytest

from map_pipeline.compare import Comparison
from map_pipeline.config import EMOTIONS
from map_pipeline.report import ExpressionReport, FaceReport, RecogniserReport
from map_pipeline.robustness import RobustnessCheck
from map_pipeline.ui.charts import (
    comparison_chart,
    emotion_chart,
    position,
    robustness_chart,
    similarity_chart,
)

FOOLED = RecogniserReport(
    name="fooled",
    title="Net <29> & co",
    family="nets",
    used_in_optimisation=True,
    thresholds={"0.01": 0.5, "0.001": 0.75},
    target_before=-0.125,
    target_after=0.625,
    source_after=0.25,
    impersonates=True,
    no_longer_matches=True,
)
NOT_FOOLED = replace(
    FOOLED,
    title="Judge",
    used_in_optimisation=False,
    source_after=0.51,
    target_after=0.1,
    impersonates=False,
    no_longer_matches=False,
)
WITHOUT_LINE = replace(FOOLED, thresholds={}, impersonates=None, no_longer_matches=None)
EXPRESSIONS = ExpressionReport(
    name="faces",
    title="Faces net",
    used_in_optimisation=True,
    before=dict.fromkeys(EMOTIONS, 0.0) | {"neutral": 0.75, "happy": 0.25},
    after=dict.fromkeys(EMOTIONS, 0.0) | {"happy": 1.0},
)
FACE = FaceReport(
    (0, 0, 9, 9), "d", "happy", "t", 0.9, 30.0, 1.0, [FOOLED, NOT_FOOLED], [EXPRESSIONS]
)
ROWS = [
    Comparison("a", "First", "f", 0.95, 0.9, True),
    Comparison("b", "Second <b>", "f", 0.2, 0.3, False),
    Comparison("c", "Third", "f", 0.4, None, None),
]
STURDINESS = [
    RobustnessCheck("as it is", [FOOLED, NOT_FOOLED]),
    RobustnessCheck("half size", [FOOLED, WITHOUT_LINE]),
]
ALL_CHARTS = {
    "similarity": similarity_chart([FACE, FACE]),
    "emotion": emotion_chart([FACE]),
    "robustness": robustness_chart([FACE], [STURDINESS]),
    "comparison": comparison_chart(ROWS),
}


def answer(chart: str) -> list[str]:
    """What a screen reader gets of the bars, in order."""
    return [
        one.get("aria-label") for one in ElementTree.fromstring(chart).iter() if one.get("role")
    ]


def words(chart: str) -> str:
    """The text that people see."""
    return " ".join(" ".join(ElementTree.fromstring(chart).itertext()).split())


def widths(chart: str) -> list[float]:
    """Widths of the bars in per cent, in order."""
    return [float(value) for value in re.findall(r"width: ([\d.]+)%", chart)]


@pytest.mark.parametrize("threshold", [0.267, 0.561, 0.911])
def test_line_is_at_the_same_place_for_every_recogniser(threshold: float) -> None:
    assert position(threshold, threshold) == 50
    assert position(threshold - 0.01, threshold) < 50 < position(threshold + 0.01, threshold)
    assert [position(value, threshold) for value in (-0.4, 0, 1)] == [0, 0, 100]
    values = [position(step / 20, threshold) for step in range(21)]
    assert values == sorted(values)


def test_scale_is_even_without_a_line() -> None:
    assert [position(value, None) for value in (-0.1, 0.25, 1.0)] == [0, 25, 100]


@pytest.mark.parametrize("chart", ALL_CHARTS.values(), ids=ALL_CHARTS.keys())
def test_charts_are_well_formed_and_told_to_screen_readers(chart: str) -> None:
    tree = ElementTree.fromstring(chart)
    assert "{" not in chart
    pictures = [one for one in tree.iter() if one.get("role") == "img"]
    assert pictures
    assert all(one.get("aria-label", "").endswith(".") for one in pictures)
    assert all(0 <= width <= 100 for width in widths(chart))


@pytest.mark.parametrize(
    "chart",
    [similarity_chart([]), emotion_chart([]), robustness_chart([], []), comparison_chart([])],
)
def test_nothing_to_show_is_no_chart(chart: str) -> None:
    assert chart == ""


def test_names_are_escaped() -> None:
    assert "Net &lt;29&gt; &amp; co" in ALL_CHARTS["similarity"]
    assert "Net &lt;29&gt; &amp; co" in ALL_CHARTS["robustness"]
    assert "Second &lt;b&gt;" in ALL_CHARTS["comparison"]


def test_similarities_before_and_after() -> None:
    chart = similarity_chart([FACE])
    assert answer(chart) == [
        "Similarity to your photo: 1.00 before, 0.25 after; same person from 0.50.",
        "Similarity to the stand-in: −0.12 before, 0.62 after; same person from 0.50.",  # noqa: RUF001
        "Similarity to your photo: 1.00 before, 0.51 after; same person from 0.50.",
        "Similarity to the stand-in: −0.12 before, 0.10 after; same person from 0.50.",  # noqa: RUF001
    ]
    assert widths(chart) == [100, 25, 0, 62.5, 100, 51, 0, 10]
    assert chart.count("map-line") == 4


def test_verdicts_in_words() -> None:
    first, second = unescape(similarity_chart([FACE])).split("Judge")
    assert "used in the editing" in first
    assert "not used" not in first
    assert "✓ no longer finds you" in first
    assert "✓ takes you for the stand-in" in first
    assert "not used in the editing" in second
    assert "✗ still finds you" in second
    assert "doesn't take you for the stand-in" in second


def test_recogniser_without_a_line_gets_no_verdict() -> None:
    chart = similarity_chart([replace(FACE, recognisers=[WITHOUT_LINE])])
    assert "no verdict" in chart
    assert "matches you" not in chart
    assert "map-line" not in chart
    assert widths(chart) == [100, 25, 0, 62.5]


def test_faces_are_numbered_only_where_there_are_several() -> None:
    assert "Face 1" not in similarity_chart([FACE])
    for chart in (similarity_chart([FACE, FACE]), emotion_chart([FACE, FACE])):
        assert "Face 1" in chart
        assert "Face 2" in chart


def test_emotions_and_which_one_was_asked() -> None:
    chart = emotion_chart([FACE])
    assert len(answer(chart)) == len(EMOTIONS)
    assert "Happy, chosen: 25% before, 100% after." in answer(chart)
    assert "Neutral: 75% before, 0% after." in answer(chart)
    assert chart.count("map-asked") == 1
    assert "25% → 100%" in words(chart)


def test_robustness_counts_the_recognisers_that_give_a_verdict() -> None:
    tree = ElementTree.fromstring(robustness_chart([FACE], [STURDINESS]))
    cards = [
        answer(ElementTree.tostring(one, "unicode"))
        for one in tree.iter()
        if one.get("class") == "map-card"
    ]
    assert cards[0][:2] == [
        "No longer find you: 1 of 2 programs.",
        "Take you for the stand-in: 1 of 2 programs.",
    ]
    assert cards[1][:2] == [
        "No longer find you: 1 of 1 programs.",
        "Take you for the stand-in: 1 of 1 programs.",
    ]
    assert cards[1][-1] == "Similarity to the stand-in: 0.62; threshold unknown."
    assert "Half size" in words(ALL_CHARTS["robustness"])


def test_robustness_of_several_faces_says_whose_it_is() -> None:
    chart = words(robustness_chart([FACE, FACE], [STURDINESS, STURDINESS]))
    assert chart.index("Face 1") < chart.index("Face 2")
    assert "Face 1" not in words(ALL_CHARTS["robustness"])


def test_robustness_without_any_verdict() -> None:
    assert "no verdict" in robustness_chart([FACE], [[RobustnessCheck("as it is", [WITHOUT_LINE])]])


def test_comparison_of_two_photos() -> None:
    chart = comparison_chart(ROWS)
    assert "1 of 2 programs see the same person" in chart
    assert "= same person" in chart
    assert "≠ different people" in chart
    assert "no verdict" in chart
    assert answer(chart)[0] == "Similarity of the two photos: 0.95; same person from 0.90."
    assert widths(chart)[0] == 75
    assert "1 of 1 programs sees the same person" in comparison_chart(ROWS[:1])


def test_without_a_target_there_is_nothing_about_one() -> None:
    none = {"target_before": None, "target_after": None, "impersonates": None}
    hidden = replace(FACE, target=None, recognisers=[replace(FOOLED, **none)])
    for chart in (
        similarity_chart([hidden]),
        robustness_chart([hidden], [[RobustnessCheck("half size", hidden.recognisers)]]),
    ):
        assert not any("target" in sentence for sentence in answer(chart))
        assert "takes you for the stand-in" not in words(chart)
    assert "no longer finds you" in words(similarity_chart([hidden]))
