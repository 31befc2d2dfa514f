from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clips import placed, portrait, still, swaying, write_clip
from conftest import exit_code

from map_pipeline import MAPPipeline
from map_pipeline.errors import InvalidVideoError, NoFaceError
from map_pipeline.evaluation.video import compare_clips, longest_run

JUDGES = ["dlib_resnet", "faceres"]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return swaying(portrait(), 12)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[np.ndarray]], Path]:
    return lambda name, frames: write_clip(tmp_path / f"{name}.mp4", frames)


def with_noise(frames: list[np.ndarray], changing: bool) -> list[np.ndarray]:
    """Coarse noise on all frames, the same or new in each."""
    rng = np.random.default_rng(0)
    result, noise = [], None
    for frame in frames:
        if noise is None or changing:
            noise = rng.normal(0, 14, (64, 64, 3)).repeat(4, 0).repeat(4, 1)
        result.append((frame + noise).clip(0, 255).astype(np.uint8))
    return result


def test_the_same_clip_matches_in_all_frames_and_is_as_calm(
    tiny_pipeline: MAPPipeline, write: Callable, frames: list[np.ndarray]
) -> None:
    path = write("in", frames)
    scores, calm = compare_clips(tiny_pipeline, path, path, JUDGES)
    assert [score.judge for score in scores] == JUDGES
    for score in scores:
        assert (score.frames, score.dodged, score.longest_match) == (12, 0, 12)
        assert score.mean_similarity == pytest.approx(1, abs=1e-4)
        assert not score.mean_dodged
    assert calm.flicker == pytest.approx(1)
    assert calm.residual_flicker == pytest.approx(0, abs=1e-6)


def test_what_changes_from_frame_to_frame_flickers(
    tiny_pipeline: MAPPipeline, write: Callable, frames: list[np.ndarray]
) -> None:
    path = write("in", frames)
    steady = write("steady", with_noise([frames[0]] * 12, changing=False))
    restless = write("restless", with_noise([frames[0]] * 12, changing=True))
    quiet = write("quiet", [frames[0]] * 12)
    _, calm = compare_clips(tiny_pipeline, quiet, steady, JUDGES)
    _, wild = compare_clips(tiny_pipeline, quiet, restless, JUDGES)
    assert wild.residual > 5 * calm.residual
    assert wild.protected > 5 * calm.protected
    _, moving = compare_clips(tiny_pipeline, path, write("noisy", with_noise(frames, True)), JUDGES)
    assert moving.flicker > 1.3


def test_another_photo_may_be_what_the_person_is_known_by(
    tiny_pipeline: MAPPipeline, write: Callable, frames: list[np.ndarray]
) -> None:
    path = write("in", frames[:4])
    [own] = compare_clips(tiny_pipeline, path, path, ["faceres"])[0]
    [other] = compare_clips(tiny_pipeline, path, path, ["faceres"], still("video-call"))[0]
    assert other.mean_similarity < own.mean_similarity
    assert other.dodged == other.dodged_before


def test_frames_without_a_face_do_not_count(
    tiny_pipeline: MAPPipeline, write: Callable, frames: list[np.ndarray]
) -> None:
    grey = placed(frames[0][:1, :1], (256, 256), 0, 0)
    path = write("in", [*frames[:4], grey, *frames[4:7]])
    [score] = compare_clips(tiny_pipeline, path, path, ["faceres"])[0]
    assert (score.frames, score.longest_match) == (7, 4)
    empty = write("empty", [grey] * 3)
    with pytest.raises(NoFaceError, match=r"'empty\.mp4'"):
        compare_clips(tiny_pipeline, empty, empty, JUDGES)


def test_clips_of_other_lengths_are_refused(
    tiny_pipeline: MAPPipeline, write: Callable, frames: list[np.ndarray]
) -> None:
    with pytest.raises(InvalidVideoError, match="as many frames"):
        compare_clips(tiny_pipeline, write("a", frames), write("b", frames[:-2]), JUDGES)


@pytest.mark.parametrize(
    ("matches", "longest"), [([], 0), ([False], 0), ([True, False, True, True], 2)]
)
def test_longest_run(matches: list[bool], longest: int) -> None:
    assert longest_run(matches) == longest


def test_command_keeps_clips_and_writes_a_table(
    tiny_checkpoint: Path, write: Callable, frames: list[np.ndarray], tmp_path: Path
) -> None:
    clip, out = write("in", frames[:6]), tmp_path / "results"
    call = ["evaluate", "video", str(clip), "--out", str(out), "--mode", "fast"]
    call += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--target", "second"]
    assert exit_code(call) == 0
    table = pd.read_csv(out / "video.csv")
    assert table["judge"].tolist() == ["dlib_resnet", "mobilefacenet"]
    assert (table["frames"] == 6).all()
    assert {path.name for path in out.glob("*.mp4")} == {
        "in.without_dlib_resnet.mp4",
        "in.without_mobilefacenet.mp4",
    }


def test_one_reference_for_each_clip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call = ["evaluate", "video", "a.mp4", "b.mp4", "--out", str(tmp_path)]
    assert exit_code([*call, "--references", "a.jpg"]) == 2
    assert "`references` must be none or one for each of 2 clips" in capsys.readouterr().err
