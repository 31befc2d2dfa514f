"""A short clip on the page and for programs: limits, preview, protection, and what stays of it."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from clips import portrait, read_clip, sound_packets, swaying, write_clip
from conftest import ASTRONAUT
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import gpu_calls

from map_pipeline import MAPPipeline
from map_pipeline.errors import InvalidVideoError, MAPError, UnknownOptionError
from map_pipeline.ui import clip_page, results, texts
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.clip import ClipJob, Clips, clip_gpu_seconds, progress_of, protect_clip
from map_pipeline.ui.models import prepare_models
from map_pipeline.ui.service import Progress, ProtectionService
from map_pipeline.ui.settings import MAX_GPU_SECONDS, Choices, PageSettings
from map_pipeline.video.report import ClipVerdict, PersonReport, Unprotected, VideoReport

CHOICES = Choices(steps=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(folder / "Zeta.mp4", swaying(portrait(), 8), sound=True)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [np.full((96, 128, 3), 90, np.uint8)] * 5
    return write_clip(tmp_path_factory.mktemp("blank") / "blank.mp4", frames)


# Over HTTP


def protect(client: Client, clip: Path, **settings: Any) -> tuple:
    settings = {"steps": 1, **settings}
    return client.predict(clip=handle_file(clip), **settings, api_name="/protect_clip")


def test_clip_is_that_of_the_pipeline_and_nothing_of_it_stays(
    client: Client,
    clip: Path,
    tiny_pipeline: MAPPipeline,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = len(gpu_calls)
    file, text, report, seed = protect(client, clip, seed=5, target="second")
    assert Path(file).name == "protected.mp4"
    alone = tiny_pipeline.protect_video(
        clip,
        tmp_path / "alone.mp4",
        target="second",
        mode="fast",
        margin="normal",
        expression_strength=0.5,
        refine_steps=1,
        generator=torch.Generator().manual_seed(5),
    )
    np.testing.assert_array_equal(read_clip(Path(file))[0], read_clip(tmp_path / "alone.mp4")[0])
    assert sound_packets(Path(file)) == sound_packets(clip)
    assert text.startswith(alone.headline())
    assert (report["frames"], report["people"][0]["target"], seed) == (8, "second", 5)
    # In one stretch of GPU time that is enough for one person.
    [(duration, people, answer)] = gpu_calls[calls:]
    assert (people, answer[0].done) == (1, 0)
    assert 8 < duration < MAX_GPU_SECONDS

    assert "Zeta" not in caplog.text
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert {"protected.mp4", clip.name} <= {path.name for path in folder.rglob("*")}
    for _ in ("files", "folders"):
        sweep(folder, keep_seconds=0)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": "both"}, "faces must be one of largest, all; got 'both'"),
        ({"emotion": "bored"}, "emotion must be one of"),
        ({"random_seed": "false"}, "random_seed must be true or false, got 'false'"),
        ({"action_units": {"grin": 1}}, "grin"),
        ({"own_target": handle_file(ASTRONAUT)}, "confirm that they have agreed"),
    ],
)
def test_wrong_choices_are_told_before_the_gpu_is_asked_for(
    client: Client, clip: Path, change: dict, message: str
) -> None:
    calls = len(gpu_calls)
    with pytest.raises(AppError, match=message):
        protect(client, clip, **change)
    assert len(gpu_calls) == calls


def test_without_a_usable_clip_one_line_says_why(client: Client, blank: Path) -> None:
    with pytest.raises(AppError, match="Choose a clip first"):
        client.predict(clip=None, api_name="/protect_clip")
    with pytest.raises(AppError, match="clip must be a video that can be read"):
        protect(client, ASTRONAUT)
    with pytest.raises(AppError, match="clip must show a face"):
        protect(client, blank)


# The work itself


@pytest.fixture(scope="module")
def service(editing_pipeline: MAPPipeline) -> ProtectionService:
    models = prepare_models(editing_pipeline, "cpu")
    return ProtectionService(lambda: models, background=False)


def clips_of(service: ProtectionService, folder: Path, **options: Any) -> Clips:
    run = options.pop("run", lambda job: protect_clip(service, job))
    return Clips(service, run, PageSettings(**options), str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_seconds": 0.2}, "`clip` must be at most 0.2 s long, got 0.3 s"),
        ({"clip_size": (200, 120)}, "`clip` must have at most 200 x 120 px.*, got 256 x 256"),
        ({"batch_seconds": 5}, "`clip` must take at most 5 s to protect here, got about"),
    ],
)
def test_limits_are_told_with_rule_and_value_before_any_work(
    service: ProtectionService, clip: Path, tmp_path: Path, options: dict, message: str
) -> None:
    def run(_job: ClipJob) -> Iterator[Progress]:
        raise AssertionError
        yield

    clips = clips_of(service, tmp_path, run=run, **options)
    with pytest.raises(MAPError, match=message):
        list(clips.work(str(clip), None, CHOICES, "largest"))


def test_size_may_be_upright_or_on_its_side(service: ProtectionService, tmp_path: Path) -> None:
    upright = write_clip(tmp_path / "a.mp4", [np.full((160, 90, 3), 90, np.uint8)] * 4)
    opened, frames, seconds = clips_of(service, tmp_path, clip_size=(160, 90)).open(str(upright))
    assert (opened.size, frames) == ((90, 160), 4)
    assert seconds == pytest.approx(4 / 25, abs=0.01)
    with pytest.raises(InvalidVideoError, match="got 90 x 160"):
        clips_of(service, tmp_path, clip_size=(160, 89)).open(str(upright))


def test_length_is_that_of_the_frames_whatever_their_times(
    service: ProtectionService, tmp_path: Path
) -> None:
    frames = [np.full((64, 64, 3), 90, np.uint8)] * 3
    slow = write_clip(tmp_path / "slow.mp4", frames, times=[0, 4, 12])
    with pytest.raises(InvalidVideoError, match=r"at most 10 s long, got 1\d\.\d s"):
        clips_of(service, tmp_path).open(str(slow))


def test_without_pyav_the_tab_and_programs_learn_how_to_install_it(
    service: ProtectionService, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidVideoError, match=r"pip install 'map-pipeline\[video\]'"):
        clips_of(service, tmp_path).first_frame(str(clip))
    with gr.Blocks() as demo:
        assert clip_page.clip_tab(PageSettings()) is None
    [answer] = [one.value for one in demo.blocks.values() if isinstance(one, gr.Markdown)]
    assert "pip install 'map-pipeline[video]'" in answer


def test_preview_is_the_first_frame_with_the_expression_and_lips_as_they_are(
    service: ProtectionService, clip: Path, tmp_path: Path
) -> None:
    clips = clips_of(service, tmp_path)
    first = clips.first_frame(str(clip))
    assert first.note == ""
    plain = np.array(Image.open(first.path)).astype(float)
    assert np.abs(plain - swaying(portrait(), 1)[0]).mean() < 4  # but for the compression
    happy, calm, copied = (
        np.array(clips.preview(first.path, choices, "largest")).astype(float)
        for choices in (
            Choices("happy", 1.0),
            Choices("happy", 0.0),
            Choices("happy", 1.0, expression_of={"path": str(ASTRONAUT)}),
        )
    )
    assert np.abs(happy - plain).max() > 20
    assert np.abs(calm - plain).mean() < 0.1 * np.abs(happy - plain).mean()
    assert (happy != copied).any()
    # What a photo's preview paints between the lips isn't there.
    photo = np.array(service.preview(first.path, Choices("happy", 1.0))).astype(float)
    assert (photo != happy).any()


def test_clip_without_a_face_at_first_has_no_preview_and_says_so(
    service: ProtectionService, blank: Path, tmp_path: Path
) -> None:
    assert clips_of(service, tmp_path).first_frame(str(blank)).note == texts.NO_FACE_YET


def test_stopped_work_leaves_no_clip(
    service: ProtectionService, clip: Path, tmp_path: Path
) -> None:
    updates = clips_of(service, tmp_path).work(str(clip), None, CHOICES, "largest")
    shares = []
    for update in updates:
        shares.append(update.done)
        if update.done > 60:
            break
    updates.close()
    assert shares == sorted(shares)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_wink_is_refused_before_anything_is_done(
    service: ProtectionService, clip: Path, tmp_path: Path
) -> None:
    winking = replace(CHOICES, action_units={"wink_left": 1.0})
    with pytest.raises(UnknownOptionError, match="wink_left"):
        next(clips_of(service, tmp_path).work(str(clip), None, winking, "largest"))
    with pytest.raises(UnknownOptionError, match="wink_left"):
        clips_of(service, tmp_path).preview(str(ASTRONAUT), winking, "largest")


def test_minutes_until_deletion_begin_anew_while_it_is_worked_on(
    service: ProtectionService, clip: Path, tmp_path: Path
) -> None:
    upload = tmp_path / "upload.mp4"
    upload.write_bytes(clip.read_bytes())
    os.utime(upload, (0, 0))
    started = time.time() - 1
    *_, (job, report) = clips_of(service, tmp_path).work(str(upload), None, CHOICES, "all")
    assert upload.stat().st_mtime > started
    assert report.frames == len(read_clip(Path(job.output))[0]) == 8


def test_gpu_time_grows_with_frames_people_and_mode_up_to_what_is_lent() -> None:
    job = ClipJob("a", "b", "none", "largest", Choices(), frames=250, seconds=10, people=1)
    times = [
        clip_gpu_seconds(one)
        for one in (
            replace(job, frames=50, seconds=2),
            job,
            replace(job, choices=Choices(mode="strong")),
            replace(job, people=9, frames=600),
        )
    ]
    assert times == sorted(set(times))
    assert times[-1] == MAX_GPU_SECONDS


def test_time_left_is_told_once_it_can_be_estimated() -> None:
    assert progress_of(0.02, 1.0).left == ""
    assert progress_of(0.25, 10.0).left == "about 30 s left"
    shown = results.progress_bar(progress_of(0.25, 10.0))
    assert 'aria-valuenow="25"' in shown
    assert "about 30 s left" in shown
    assert "step" not in shown


def report_of(*dodged: float, left: bool = False) -> VideoReport:
    judges = [
        ClipVerdict(f"n{i}", f"Net {i}", "f", i > 0, 0.5, 10, one, 0.1, one > 0.5, None)
        for i, one in enumerate(dodged)
    ]
    person = PersonReport("happy", {"smile": 0.5}, None, None, 10, [0.0], [(0.0, 0.4)], judges)
    gone = [Unprotected(0.0, 0.4, "too small")] if left else []
    return VideoReport(10, 0.4, 64, 64, 1.0, "bundled", [person], gone, ["its end is lost"])


@pytest.mark.parametrize(
    ("report", "level"),
    [
        (report_of(1.0, 1.0, 1.0), "protected"),
        (report_of(1.0, 1.0, 1.0, left=True), "partly"),
        (report_of(0.2, 1.0, 1.0), "partly"),
        (report_of(0.2, 0.8, 1.0), "not"),
        (report_of(), "partly"),
    ],
)
def test_verdict_names_who_still_finds_you_and_what_was_not_used(
    report: VideoReport, level: str
) -> None:
    assert report.level == level
    shown = results.clip_verdict(report)
    assert f"map-verdict-{level}" in shown
    assert "emotion happy with smile +0.5" in shown
    assert "Its end is lost." in shown
    if report.people[0].recognisers:
        assert "Net 0 was not used in the editing" in shown


def test_faces_are_one_of_two(service: ProtectionService, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="got 'none'"):
        next(clips_of(service, tmp_path).work(str(clip), None, CHOICES, "none"))
