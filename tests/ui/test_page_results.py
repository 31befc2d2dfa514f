"""What the page says of results, and what it remembers of them, without a server."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from map_pipeline.compare import Comparison, PhotoComparison, PhotoFaces
from map_pipeline.compare import FoundFace as SeenFace
from map_pipeline.config import EMOTIONS
from map_pipeline.report import ExpressionReport, FaceReport, PhotoReport, RecogniserReport
from map_pipeline.ui import results, texts
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.demo import Handlers
from map_pipeline.ui.examples import load_examples
from map_pipeline.ui.service import Files
from map_pipeline.ui.settings import PageSettings
from map_pipeline.ui.visit import MOST_RESULTS, Result, Visit

# Results


def report(*matches: tuple[bool | None, bool | None, bool]) -> FaceReport:
    """A face report with (no_longer_matches, impersonates, used) per recogniser R1, R2 ..."""
    recognisers = [
        RecogniserReport(f"r{n}", f"R{n}", "f", used, {}, 0.0, 0.5, 0.2, impersonates, unmatched)
        for n, (unmatched, impersonates, used) in enumerate(matches, 1)
    ]
    return FaceReport((0, 0, 9, 9), "d", "happy", "t", 0.97, 33.0, 1.0, recognisers)


@pytest.mark.parametrize(
    ("found", "level", "start"),
    [
        (0, "protected", "Protected: none of 4 recognition programs"),
        (1, "partly", "Partly protected: 1 of 4 recognition programs still finds you (R1)."),
        (2, "partly", "Partly protected: 2 of 4"),
        (3, "not", "Not protected: 3 of 4"),
    ],
)
def test_verdict_counts_all_programs_with_a_threshold(found: int, level: str, start: str) -> None:
    faces = [report(*[(n >= found, True, n > 0) for n in range(4)], (None, None, False))]
    text = results.verdict(faces, "fast")
    assert f"map-verdict-{level}" in text
    assert f"<b>{start}" in text
    assert "R1 and R5 were not used in the editing" in text
    assert results.plain_verdict(faces).startswith(start)


def test_verdict_tells_what_was_compared_and_what_could_help() -> None:
    failed = [report((True, True, True), (False, False, False))]
    fast, strong = (results.verdict(failed, mode) for mode in ("fast", "strong"))
    assert texts.SAME_PHOTO in fast
    assert fast.count("People see") == 1
    assert texts.ADVICE in strong
    assert texts.ADVICE not in fast  # there it's a button
    assert texts.ADVICE not in results.verdict([report((True, True, True))], "strong")


def compared(*matches: bool | None) -> list[Comparison]:
    return [
        Comparison(f"r{n}", f"R{n}", "f", 0.5, 0.5, answer) for n, answer in enumerate(matches, 1)
    ]


@pytest.mark.parametrize(
    ("before", "after", "level", "reply"),
    [
        ((True, True), (False, False), "protected", "none of 2 recognition programs still finds"),
        ((True, True), (False, True), "partly", "1 of 2 recognition programs still finds you (R2)"),
        # Who didn't find the visitor before says nothing about the protection.
        ((True, False), (True, True), "not", "1 of 1 recognition program still finds you."),
        ((True, None), (False, None), "protected", "in which 1 of 1 found you before"),
        ((False, False), (False, False), "partly", texts.STRANGER.replace("'", "&#x27;")),
    ],
)
def test_verdict_by_another_photo(before: tuple, after: tuple, level: str, reply: str) -> None:
    faces = [report((True, True, True), (False, False, False))]
    text = results.verdict_by_other(faces, compared(*before), compared(*after))
    assert f"map-verdict-{level}" in text
    assert reply in text
    assert texts.SAME_PHOTO not in text


def test_verdict_tells_what_people_see() -> None:
    seen = dict.fromkeys(EMOTIONS, 0.0)

    def reply(after: str, **asked: str) -> str:
        networks = [ExpressionReport("e", "E", True, seen, {**seen, after: 1.0})]
        face = replace(report((True, True, True)), expressions=networks, **asked)
        return results.verdict([face], "fast")

    assert "People see a happy face; 3% of the face&#x27;s look has changed." in reply("happy")
    assert "Meant to be a happy face, looks more like a calm one; 3%" in reply("neutral")
    assert "People see a happy face; 3%" in reply("happy", emotion="sad", expression_of="own image")
    assert "Meant to be a contemptuous face; 3%" in reply("neutral", emotion="contempt")


def test_unprotected_and_doubtful_faces_are_no_success() -> None:
    good = report((True, True, True))
    left = replace(good, photo=PhotoReport(3, [(0.0, 0.0, 9.0, 9.0)] * 2))
    assert "map-verdict-protected" in results.verdict([good], "fast")
    assert "map-verdict-partly" in results.verdict([left], "fast")
    for text in (results.verdict([left], "fast"), results.plain_verdict([left])):
        assert "1 of 3 faces protected; " in text
    doubt = replace(good, photo=PhotoReport(1, [], [(0.0, 0.0, 9.0, 9.0)] * 2))
    assert "map-verdict-partly" in results.verdict([doubt], "fast")
    for text in (results.verdict([doubt], "fast"), results.plain_verdict([doubt])):
        assert "2 more faces" in text


def test_verdict_has_a_line_per_face() -> None:
    faces = [report((True, True, True)), report((False, False, True))]
    headline, first, second, _ = results.plain_verdict(faces).splitlines()
    assert headline == "Not protected: 1 of 1 recognition program still finds you."
    assert first.startswith("Face 1: Found by 0 of 1.")
    assert second.startswith("Face 2: Found by 1 of 1.")


# What was done in a tab


def result(emotion: str) -> Result:
    return Result(Files("a", "b", "c"), [report((False, True, True))], emotion, "fast", 0)


def test_visit_remembers_the_last_results() -> None:
    visit = Visit()
    for number in range(MOST_RESULTS + 3):
        visit = visit.add(result(str(number)))
    assert [one.emotion for one in visit.results] == [str(n) for n in range(3, MOST_RESULTS + 3)]
    assert visit.shown is visit.results[-1]
    tested = visit.tested("chart")
    assert tested.shown is tested.results[-1]
    assert [one.robustness for one in tested.results] == [""] * (MOST_RESULTS - 1) + ["chart"]
    example = result("an example")
    assert tested.show(example).shown is example
    assert tested.show(example).results == tested.results
    assert "found by 1 of 1" in example.caption


def test_a_hidden_face_has_no_target() -> None:
    hidden = replace(report((True, None, True)), target=None)
    assert "target" not in results.verdict([hidden], "fast")
    assert "take it for" not in results.verdict([hidden], "fast")
    assert "Stand-in: nobody" in results.details([hidden], 0)


def test_texts_in_html_are_escaped() -> None:
    odd = replace(report((True, True, True)), target="<script>", detector="<b>")
    assert "<script>" not in results.details([odd], seed=0)
    assert "<b>" not in results.details([odd], seed=0)


def seen(faces: int, problems: tuple[str, ...] = (), doubtful: int = 0) -> PhotoFaces:
    box = (10.2, 20.0, 90.0, 110.0)
    found = [SeenFace(n, box, problems if n == 1 else (), n == 1) for n in range(1, faces + 1)]
    return PhotoFaces(found, [box] * doubtful)


def test_compared_faces_are_counted_and_their_problems_told() -> None:
    text = results.compared_faces(PhotoComparison(seen(3), seen(1, ("<dark>",), 2), []))
    warning, first, second = re.findall(r"<div><p>.*?</div>|<p class=.map-note.>.*?</p>", text)
    assert "Second photo: the face is &lt;dark&gt;." in warning
    assert "First photo" not in warning
    assert "3 faces found, and the largest compared, at 10,20 - 90,110 px" in first
    assert "1 face found; there may be 2 more" in second
    assert "map-verdict" not in results.compared_faces(PhotoComparison(seen(1), seen(2), []))


@pytest.mark.parametrize("visit", [Visit(), Visit().add(result("happy"))], ids=["both", "files"])
def test_results_that_are_gone_are_told(visit: Visit) -> None:
    """The server forgets the list after ten minutes, too."""
    page = Handlers(None, None, [], SimpleNamespace())
    with pytest.raises(gr.Error, match="expired"):
        page.show_again(visit, SimpleNamespace(index=0))
    with pytest.raises(gr.Error, match="expired"):
        page.find_in_other(visit, {"path": str(PageSettings().examples / "astronaut.png")})


def test_the_report_of_an_example_can_be_downloaded_as_long_as_any_other(tmp_path: Path) -> None:
    """Files of the package are old, and what is old is deleted from the cache."""
    names = ("visit", "results", "empty", "area", "verdict", "stronger", "slider", "download")
    names += ("download_report", "recognisers", "expressions", "robustness", "numbers", "other")
    parts = SimpleNamespace(
        out=SimpleNamespace(**{name: name for name in names}),
        form=SimpleNamespace(emotion=0, mode=1, seed=2, whose=3, own=4),
        top=SimpleNamespace(photo=5),
    )
    examples = load_examples(PageSettings().examples)
    page = Handlers(None, SimpleNamespace(folder=str(tmp_path)), examples, parts)
    file = Path(page.show_example(0, Visit())["download_report"].value["path"])
    sweep(tmp_path, keep_seconds=60)
    assert file.read_bytes() == examples[0].report.read_bytes()
