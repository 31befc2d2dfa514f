"""The parts of the page one by one, without a server."""

import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.compare import Comparison, PhotoComparison, PhotoFaces
from map_pipeline.compare import FoundFace as SeenFace
from map_pipeline.config import EMOTIONS, MODES
from map_pipeline.errors import FaceTooSmallError, NoFaceError, UnknownOptionError
from map_pipeline.expression.action_units import ACTION_UNITS
from map_pipeline.images import MAX_BYTES
from map_pipeline.report import (
    ExpressionReport,
    FaceReport,
    PhotoReport,
    RecogniserReport,
    notes_of,
)
from map_pipeline.ui import face_outlines, page, results, style, texts
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.demo import Handlers
from map_pipeline.ui.examples import load_examples
from map_pipeline.ui.jobs import run_in_steps
from map_pipeline.ui.models import expected_seconds, prepare_models
from map_pipeline.ui.rate_limit import RateLimit, RateLimitError
from map_pipeline.ui.result_files import write_files
from map_pipeline.ui.service import (
    Files,
    FoundFace,
    Protected,
    choose_faces,
    read_upload,
)
from map_pipeline.ui.settings import MAX_GPU_SECONDS, Choices, PageSettings
from map_pipeline.ui.visit import MOST_RESULTS, Result, Visit

# Settings


def test_settings_come_from_the_environment() -> None:
    settings = PageSettings.from_environment({"MAP_RATE_LIMIT": "20/day", "MAP_CONCURRENCY": "3"})
    assert (settings.rate_limit, settings.rate_seconds, settings.concurrency) == (20, 86400, 3)
    assert PageSettings.from_environment({}) == PageSettings()
    assert PageSettings.from_environment({"MAP_BATCH_PHOTOS": "25"}).batch_photos == 25
    zero_gpu = PageSettings.from_environment({"SPACES_ZERO_GPU": "1"})
    assert (zero_gpu.concurrency, zero_gpu.batch_seconds) == (8, 80)


@pytest.mark.parametrize("text", ["20", "many/hour", "-1/hour", "20/week", ""])
def test_unreadable_rate_limit_is_told(text: str) -> None:
    with pytest.raises(UnknownOptionError, match="MAP_RATE_LIMIT"):
        PageSettings.from_environment({"MAP_RATE_LIMIT": text})


@pytest.mark.parametrize("name", ["MAP_CONCURRENCY", "MAP_BATCH_PHOTOS"])
@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_unreadable_number_is_told(name: str, text: str) -> None:
    with pytest.raises(UnknownOptionError, match=name):
        PageSettings.from_environment({name: text})


def test_form_has_a_component_for_every_choice() -> None:
    with gr.Blocks():
        form = page.form([])
    defaults = [component.value for component in form.choices]
    assert defaults[4] == []  # no face is ticked before a photo is there
    defaults[4] = ()
    assert Choices(*defaults) == Choices()
    assert list(texts.MOVEMENTS) == list(ACTION_UNITS)
    amounts = [one.value for one in form.movements]
    assert [*form.choices, form.whose, form.own, *form.movements] == form.given

    def read(whose: int = 0, own: dict[str, str] | None = None) -> Choices:
        return form.read([*defaults, whose, own or {}, *amounts])

    assert read() == Choices(action_units={}, emotions={})
    amounts[0], amounts[-1] = 0.5, -1
    assert read().action_units == {"smile": 0.5, list(texts.MOVEMENTS)[-1]: -1}
    # The expression that is shown belongs to the face it's asked for.
    both = read(2, {"0": "sad", "1": "fear", "2": "angry"})
    assert [both.emotion_of(number) for number in (1, 2, 3)] == ["fear", "happy", "sad"]


# Files of a result


def protected_file(
    folder: Path, upload: Path, file_type: str = "auto", max_bytes: int = 10**8
) -> tuple[Files, list[str]]:
    read = read_upload(str(upload))
    report = FaceReport((0, 0, 9, 9), "d", "happy", "t", 0.97, 33.0, 1.0)
    result = Protected(read.photo.picture, [report])
    files, noted = write_files(read, result, str(folder), file_type, max_bytes)
    assert json.loads(Path(files.report).read_text()) == [noted.reports[0].to_dict()]
    return files, notes_of(noted.reports)


def upload_of(folder: Path, name: str, mode: str = "RGB") -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(noise).convert(mode).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "mode", "suffix"),
    [
        ("a.jpg", "RGB", ".jpg"),
        ("a.jpg", "L", ".jpg"),
        ("a.webp", "RGB", ".jpg"),
        ("a.webp", "RGBA", ".png"),
        ("a.avif", "RGB", ".jpg"),
        ("a.png", "RGB", ".png"),
        ("a.png", "RGBA", ".png"),
        ("a.tif", "RGB", ".png"),
        ("a.gif", "L", ".png"),
    ],
)
def test_result_is_written_once_in_the_type_of_the_photo(
    tmp_path: Path, name: str, mode: str, suffix: str
) -> None:
    upload, folder = upload_of(tmp_path, name, mode), tmp_path / "cache"
    folder.mkdir()
    files, notes = protected_file(folder, upload)
    assert Path(files.after).name == f"protected{suffix}"
    assert notes == []
    written = {path.name for path in folder.rglob("*.*")}
    if name.endswith((".tif", ".avif")):  # not every browser shows them
        assert written == {"original.jpg", f"protected{suffix}", "report.json"}
    else:
        assert files.before == str(upload)
        assert written == {f"protected{suffix}", "report.json"}


def test_result_is_never_larger_than_the_page_reads(tmp_path: Path) -> None:
    upload = upload_of(tmp_path, "a.png")
    limit = upload.stat().st_size // 2
    files, notes = protected_file(tmp_path, upload, max_bytes=limit)
    assert Path(files.after).name == "protected.jpg"
    assert len(notes) == 1
    assert not list(tmp_path.rglob("protected.png"))
    files, notes = protected_file(tmp_path, upload, "png", limit)
    assert Path(files.after).name == "protected.png"
    assert len(notes) == 1


def test_uploads_may_be_as_large_as_what_is_read() -> None:
    assert PageSettings().max_upload_bytes == MAX_BYTES


# Rate limit


def test_rate_limit_counts_each_visitor_and_forgets() -> None:
    now = [0.0]
    limit = RateLimit(calls=2, seconds=3600, clock=lambda: now[0])
    for visitor in ("a", "a", "b"):
        limit.count(visitor)
    now[0] = 1800
    with pytest.raises(RateLimitError, match=r"at most 2 photos per visitor in 60 minutes.*30 min"):
        limit.count("a")
    limit.count("b")
    now[0] = 3601
    limit.count("a")


def test_photos_of_a_batch_count_one_by_one_or_not_at_all() -> None:
    now = [0.0]
    limit = RateLimit(3, 3600, lambda: now[0])
    limit.count("a", 2)
    with pytest.raises(RateLimitError, match="1 of your 2 photos can be protected now"):
        limit.count("a", 2)
    limit.count("a", 1)
    with pytest.raises(RateLimitError, match="come back in 60 minutes"):
        limit.count("a", 2)
    now[0] = 3601
    limit.count("a", 3)


def test_no_rate_limit_by_default() -> None:
    settings = PageSettings()
    limit = RateLimit(settings.rate_limit, settings.rate_seconds)
    for _ in range(1000):
        limit.count("a")


# Work in steps


def test_work_tells_its_steps_and_returns_its_result() -> None:
    def work(tell: Callable[[int], None]) -> str:
        for step in range(3):
            tell(step)
        return "done"

    steps = run_in_steps(work)
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "done"


def test_closing_stops_the_work_and_waits_for_its_end() -> None:
    done = []

    def work(tell: Callable[[int], None]) -> None:
        for step in range(1000):
            tell(step)
            done.append(step)
            time.sleep(0.005)

    steps = run_in_steps(work)
    threads = threading.active_count()
    next(steps)
    steps.close()
    assert len(done) < 10
    assert threading.active_count() == threads


def test_errors_of_the_work_arrive() -> None:
    def work(tell: Callable[[int], None]) -> None:
        tell(0)
        raise NoFaceError("nobody there")

    steps = run_in_steps(work)
    next(steps)
    with pytest.raises(NoFaceError, match="nobody"):
        next(steps)


# Faces


def face(number: int, *problems: str, possible: bool = True) -> FoundFace:
    return FoundFace(number, (10.0 * number, 20.0, 10.0 * number + 8, 30.0), problems, possible)


def test_all_clear_faces_are_chosen_by_default() -> None:
    found = [face(1), face(2, "turned to the side"), face(3), face(4, "too small", possible=False)]
    assert [one.number for one in choose_faces(found, [])] == [1, 3]
    assert [one.number for one in choose_faces(found, [2])] == [2]


def test_faces_that_cannot_be_chosen_are_named() -> None:
    found = [face(1, "turned to the side"), face(2, "too small", possible=False)]
    with pytest.raises(NoFaceError, match="face 1 is turned to the side; face 2 is too small"):
        choose_faces(found, [])
    with pytest.raises(FaceTooSmallError, match="Face 2 can't be protected: it's too small"):
        choose_faces(found, [1, 2])
    with pytest.raises(NoFaceError, match=r"from 1 to 2.*\[3\]"):
        choose_faces(found, [3])


def test_a_crowd_is_protected_in_parts() -> None:
    crowd = [face(number) for number in range(1, 13)]
    assert [one.number for one in choose_faces(crowd, [])] == list(range(1, 9))
    with pytest.raises(UnknownOptionError, match="at most 8 at once, got 9"):
        choose_faces(crowd, list(range(1, 10)))


def test_faces_are_outlined_numbered_and_named() -> None:
    found = [face(1), face(2, "turned to the side"), face(3, "too small", possible=False)]
    drawn = face_outlines.outlines((400, 200), found)
    assert 'viewBox="0 0 400 200"' in drawn
    assert drawn.count("map-face-clear") == 1
    assert drawn.count("map-face-unclear") == 2
    assert all(f">{number}</text>" in drawn for number in (1, 2, 3))
    assert face_outlines.choices(found) == [("Face 1", 1), ("Face 2 (turned to the side)", 2)]
    assert "Face 3 can't be protected: too small." in face_outlines.summary(found)
    assert "Face 3 can't be protected: too small." in face_outlines.note(found)
    assert "Face 2 may not be protected well: turned to the side." in face_outlines.note(found)
    assert face_outlines.note([face(1)]) == ""


def test_outlines_tell_who_is_picked_and_with_which_expression() -> None:
    found = [face(1), face(2, "too small", possible=False), face(3)]
    first, second, third = re.findall(
        r'<g class="map-face-(?:un)?clear.*?</g></g>',
        face_outlines.outlines((400, 200), found, picked=[3], own={3: "sad"}, whose=3),
    )
    assert "map-face-left" in first
    assert "map-face-left" in second
    assert "map-face-left" not in third
    # Places are those among the checkboxes, which only faces have that can be protected.
    assert 'data-place="0"' in first
    assert "data-place" not in second
    assert 'data-place="1"' in third
    assert "map-face-turn" in third
    assert ">3 sad</text>" in third
    assert "data-place" not in face_outlines.outlines((400, 200), [face(1)], [1])
    assert face_outlines.turns(found, own=False) == [("All", 0), ("1", 1), ("3", 3)]


def test_progress_names_the_face() -> None:
    reply = [texts.step(done, 6, faces=3) for done in range(7)]
    first, second, third = (f"Protecting face {number} of 3" for number in (1, 2, 3))
    assert reply == [first, first, second, second, third, third, "Checking the result"]


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


# Time


@pytest.mark.parametrize("faces", [1, 2, 50])
def test_gpu_seconds_grow_with_work_and_stay_below_the_limit(faces: int) -> None:
    for mode in MODES:
        asked = [Choices(mode=mode, steps=n).gpu_seconds(faces) for n in (1, 10, 25, 60)]
        assert asked == sorted(asked)
        assert all(isinstance(s, int) and 1 <= s <= MAX_GPU_SECONDS for s in asked)
        own = Choices(mode=mode, steps=MODES[mode].refine_steps)
        assert Choices(mode=mode).gpu_seconds(faces) == own.gpu_seconds(faces)
        # Nobody asks for less than it takes, but for the most that is lent.
        wanted = own.gpu_seconds_wanted(faces, photos=1)
        assert own.gpu_seconds(faces) >= min(wanted, MAX_GPU_SECONDS)
    assert Choices(mode="strong").gpu_seconds(1) <= 20  # a visitor's quota is two minutes a day


def test_expected_seconds_are_told_once_they_are_known() -> None:
    assert texts.expected(None) == ""
    reply = texts.expected({"fast": 12.6, "strong": 43.0})
    assert "about 13 s" in reply
    assert "about 45 s" in reply


def test_strong_mode_is_expected_to_take_longer(tiny_pipeline: MAPPipeline) -> None:
    seconds = expected_seconds(tiny_pipeline, "cpu")
    assert 0 < seconds["fast"] < seconds["strong"]


def test_detectors_share_their_networks(tiny_pipeline: MAPPipeline) -> None:
    models = prepare_models(tiny_pipeline, "cpu")
    assert set(models.protecting) == {"auto", "bundled"}
    assert models.judging is models.protecting  # on the CPU nothing needs to be copied
    assert models.protecting["bundled"].unet is tiny_pipeline.unet


# Looks and files


def test_built_in_targets_are_those_of_the_checkpoint(
    tiny_pipeline: MAPPipeline, tiny_checkpoint: Path
) -> None:
    cards = style.built_in_targets(tiny_checkpoint)
    bank = tiny_pipeline.targets
    assert [one.name for one in cards] == bank.names
    for one in cards:
        np.testing.assert_array_equal(np.array(one.picture), np.array(bank.picture(one.name)))


def test_every_emotion_target_and_example_has_its_picture() -> None:
    targets = [one.picture for one in style.built_in_targets(PageSettings().checkpoint)]
    css = style.page_css(targets, targets[:2])
    for tiles, count in ((".map-emotions label", len(EMOTIONS)), ("#examples button", 2)):
        assert all(f"{tiles}:nth-of-type({n + 1})" in css for n in range(count))
    # "Nobody" and "Auto" have no picture.
    numbers = re.findall(r"#target label:nth-of-type\((\d+)\)::before { background-image", css)
    assert numbers == [str(n) for n in range(3, len(targets) + 3)]


def test_sweeping_goes_by_age(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old.png", tmp_path / "b" / "new.png"
    for path in (old, new):
        path.parent.mkdir()
        path.touch()
    os.utime(old, (0, 0))
    sweep(tmp_path, keep_seconds=600)
    assert not old.exists()
    assert new.exists()
    os.utime(old.parent, (0, 0))
    sweep(tmp_path, keep_seconds=600)
    assert not old.parent.exists()
