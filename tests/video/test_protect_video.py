import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import EXAMPLES, paste, placed, portrait, read_clip, still, swaying, write_clip
from conftest import exit_code
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.errors import (
    FaceTooSmallError,
    InvalidVideoError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.video.reading import open_clip
from map_pipeline.video.report import PersonReport, VideoReport
from map_pipeline.video.writing import rewrite


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "in.mp4", swaying(portrait(), 8), sound=True
    )


@pytest.fixture
def protect(tiny_pipeline: MAPPipeline) -> Callable[..., VideoReport]:
    def call(source: Path, output: Path, **settings: object) -> VideoReport:
        quick = {"mode": "fast", "refine_steps": 1, "target": "second"}
        generator = torch.Generator().manual_seed(0)
        return tiny_pipeline.protect_video(
            source, output, generator=generator, **{**quick, **settings}
        )

    return call


@pytest.fixture
def command(tiny_checkpoint: Path) -> Callable[..., int]:
    """`map-protect protect` with the tiny checkpoint and one step."""

    def call(*arguments: object) -> int:
        quick = ["--checkpoint", tiny_checkpoint, "--device", "cpu", "--refine-steps", "1"]
        return exit_code(["protect", *map(str, [*arguments, *quick])])

    return call


def two_faces() -> np.ndarray:
    """A large and a small face side by side, `uint8 [256,448,3]`."""
    canvas = placed(portrait(), (448, 256), 0, 0)
    paste(canvas, still("video-call")[:200, :190], 258, 40)
    return canvas


def test_report_and_progress(protect: Callable, clip: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    report = protect(clip, tmp_path / "out.mp4", on_progress=shares.append)
    _, times = read_clip(clip)
    _, kept = read_clip(tmp_path / "out.mp4")
    assert kept == pytest.approx(times, abs=1e-3)
    assert (report.frames, report.width, report.height) == (8, 256, 256)
    [person] = report.people
    assert (person.frames, person.target, report.unprotected) == (8, "second", [])
    assert {one.name for one in person.recognisers} == {"dlib_resnet", "mobilefacenet", "faceres"}
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_face_changes_and_the_rest_stays(
    editing_pipeline: MAPPipeline, clip: Path, tmp_path: Path
) -> None:
    rewrite(open_clip(clip), tmp_path / "same.mp4", lambda frame: frame.pixels())
    editing_pipeline.protect_video(
        clip,
        tmp_path / "out.mp4",
        target="second",
        mode="fast",
        refine_steps=0,
        generator=torch.Generator().manual_seed(0),
    )
    same, after = (read_clip(tmp_path / name)[0].astype(float) for name in ("same.mp4", "out.mp4"))
    change = np.abs(after - same).mean((0, 3))
    assert change[70:150, 90:170].mean() > 3 * change[220:, :40].mean()


def test_same_seed_same_clip(protect: Callable, clip: Path, tmp_path: Path) -> None:
    for name in "ab":
        protect(clip, tmp_path / f"{name}.mp4")
    np.testing.assert_array_equal(*(read_clip(tmp_path / f"{name}.mp4")[0] for name in "ab"))


def test_who_was_not_chosen_is_named_by_time(protect: Callable, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", [two_faces()] * 6)
    report = protect(source, tmp_path / "one.mp4")
    assert len(report.people) == 1
    assert {one.reason for one in report.unprotected} == {"not chosen"}
    assert all(one.start == 0 for one in report.unprotected)
    assert "0:00.0 to 0:00.2 (not chosen)" in report.headline()
    everyone = protect(source, tmp_path / "all.mp4", faces="all")
    assert len(everyone.people) == 1 + len(report.unprotected)


def test_a_clip_without_a_usable_face_is_refused(protect: Callable, tmp_path: Path) -> None:
    empty = write_clip(tmp_path / "empty.mp4", [np.full((96, 96, 3), 90, np.uint8)] * 4)
    with pytest.raises(NoFaceError, match="`clip` must show a face"):
        protect(empty, tmp_path / "out.mp4")
    brief = write_clip(tmp_path / "brief.mp4", [np.zeros_like(portrait())] * 3 + [portrait()] * 2)
    with pytest.raises(NoFaceError, match="in 4 frames"):
        protect(brief, tmp_path / "out.mp4")
    small = portrait()[::5, ::5].copy()
    tiny = write_clip(tmp_path / "tiny.mp4", [placed(small, (128, 96), 30, 20)] * 5)
    with pytest.raises((FaceTooSmallError, NoFaceError)):
        protect(tiny, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_a_clip_of_few_frames_is_refused_for_that(
    protect: Callable, tmp_path: Path, count: int
) -> None:
    source = write_clip(tmp_path / "in.mp4", [portrait()] * count)
    with pytest.raises(InvalidVideoError, match=f"`clip` must have 4 frames .* got {count}"):
        protect(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_options_are_checked_before_any_work(protect: Callable, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="`faces`"):
        protect(clip, tmp_path / "out.mp4", faces="both")
    with pytest.raises(UnknownOptionError, match="`target`"):
        protect(clip, tmp_path / "out.mp4", target="nobody")
    with pytest.raises(InvalidVideoError, match="`OUT` must end"):
        protect(clip, tmp_path / "out.png")
    with pytest.raises(UnknownOptionError, match="`OUT` must differ"):
        protect(clip, clip, overwrite=True)
    (tmp_path / "there.mp4").write_bytes(b"precious")
    with pytest.raises(UnknownOptionError, match="must not exist"):
        protect(clip, tmp_path / "there.mp4")
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_expression_is_asked_for_as_for_photos(
    editing_pipeline: MAPPipeline, clip: Path, tmp_path: Path
) -> None:
    Image.fromarray(portrait()).save(tmp_path / "other.png")

    def shown(name: str, **asked: object) -> tuple[np.ndarray, PersonReport]:
        path = tmp_path / f"{name}.mp4"
        quick = {"mode": "fast", "refine_steps": 0, "target": None}
        generator = torch.Generator().manual_seed(0)
        [person] = editing_pipeline.protect_video(
            clip, path, generator=generator, **quick, **asked
        ).people
        return read_clip(path)[0].astype(float), person

    # No emotion, but a movement; and one that is none.
    still, _ = shown("still", expression_strength=0)
    none, _ = shown("none", expression_strength=0, action_units={"smile": 0.0})
    np.testing.assert_array_equal(none, still)
    smile, person = shown("smile", expression_strength=0, action_units={"smile": 1.0})
    assert np.abs(smile - still)[:, 100:170, 90:180].mean() > 0.3
    assert person.action_units == {"smile": 1.0}
    # The clip's own first look copied to it leaves it nearly as it is; the emotion doesn't.
    happy, person = shown("happy", expression_strength=1.0)
    assert (person.emotion, person.action_units, person.expression_of) == ("happy", {}, None)
    own, person = shown("own", expression_strength=1.0, expression_of=tmp_path / "other.png")
    assert person.expression_of == "other.png"
    assert np.abs(own - still).mean() < 0.7 * np.abs(happy - still).mean()


def test_expression_that_cannot_be_made_is_refused_before_any_work(
    editing_pipeline: MAPPipeline, clip: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "empty.png")
    for asked, error, text in (
        ({"action_units": {"grin": 1.0}}, UnknownOptionError, "grin"),
        ({"action_units": {"smile": 2.0}}, UnknownOptionError, "2.0"),
        ({"action_units": {"wink_left": 1.0}}, UnknownOptionError, "wink_left"),
        ({"expression_of": tmp_path / "empty.png"}, NoFaceError, "`expression_of`"),
    ):
        with pytest.raises(error, match=text):
            editing_pipeline.protect_video(clip, tmp_path / "out.mp4", **asked)
    assert {one.name for one in tmp_path.iterdir()} == {"empty.png"}


def test_command_writes_clip_and_report(
    command: Callable, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = tmp_path / "report.json"
    options = ["--mode", "fast", "--report", report, "--action-units", "smile=0.5"]
    assert command(clip, tmp_path / "new", *options) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"in.mp4"}
    answer = capsys.readouterr().out
    assert "8 frames, 0.3 s, 256 x 256 px" in answer
    assert "emotion happy with smile +0.5" in answer
    [person] = json.loads(report.read_text())["in.mp4"]["people"]
    assert (person["emotion"], person["action_units"]) == ("happy", {"smile": 0.5})


def test_sound_that_is_lost_is_named_at_once_and_in_the_report(
    command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, report = tmp_path / "in.mkv", tmp_path / "report.json"
    write_clip(source, swaying(portrait(), 8), sound=True)
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    assert command(source, tmp_path / "out.mp4", "--mode", "fast", "--report", report) == 0
    [note] = json.loads(report.read_text())["in.mkv"]["notes"]
    assert "1 of 1 sound tracks" in note
    assert capsys.readouterr().err.startswith(f"in.mkv: {note}")  # before the networks are loaded


def test_command_refuses_in_one_line(
    command: Callable, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no clip at all")
    there = tmp_path / "there.mp4"
    there.write_bytes(b"precious")
    calls = {
        (bad, tmp_path / "out.mp4"): "must be a video that can be read",
        (tmp_path / "absent.mp4", tmp_path / "out.mp4"): "No such file",
        (clip, tmp_path / "out.png"): "`OUT` must end in .mp4",
        (clip, there): "`OUT` must not exist",
        (clip, clip, "--overwrite"): "`OUT` must differ from `IN`",
        (clip, tmp_path / "out.mp4", "--rotate"): "`--rotate` must not be given for a clip",
        (clip, tmp_path / "out.mp4", "--action-units", "grin=1"): "grin",
        (clip, tmp_path / "out.mp4", "--expression-of", EXAMPLES / "astronaut.png"): "face mesh",
    }
    for arguments, text in calls.items():
        assert command(*arguments) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert text in line
    assert {path.name for path in tmp_path.iterdir()} == {"bad.mp4", "there.mp4"}
    assert there.read_bytes() == b"precious"


def test_requirements_are_of_the_whole_clip(
    command: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_clip(tmp_path / "in.mp4", [two_faces()] * 6)
    out = tmp_path / "out.mp4"
    # Nothing is changed, so every tiny recogniser still finds the person.
    options = ["--expression-strength", "0", "--target", "none", "--margin", "0"]
    still_seen = command(source, out, *options, "--require", "dodging", "--overwrite")
    errors = capsys.readouterr().err
    assert still_seen == 3
    assert "--require: faces are left unprotected, 0:00.0 to 0:00.2 (not chosen)" in errors


def test_without_pyav_one_sentence_says_what_to_install(
    command: Callable,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert command(clip, tmp_path / "out.mp4") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'map-pipeline[video]'" in line
