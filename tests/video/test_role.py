from pathlib import Path

import numpy as np
import pytest
import torch
from clips import portrait, read_clip, still, swaying, write_clip

from map_pipeline import MAPPipeline
from map_pipeline.config import MODES, MAPConfig
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.landmarks import LandmarkFinder, five_points
from map_pipeline.stages import make_plan
from map_pipeline.video.people import Person
from map_pipeline.video.role import IDENTITY_WEIGHT, KEY_EVERY, TOLERANCE, for_clips, key_frames
from map_pipeline.video.tracking import Look, Track

SECONDS = np.arange(100) / 10


def track(start: int, count: int, qualities: dict[int, float]) -> Track:
    looks = [Look(index, torch.ones(1), quality) for index, quality in qualities.items()]
    return Track(start, [np.zeros((68, 2))] * count, looks)


def test_the_clearest_look_of_each_while_is_a_key_frame() -> None:
    first = track(0, 50, {0: 0.2, 5: 0.9, 15: 0.5, 20: 0.1, 30: 0.3, 40: 0.4})
    second = track(60, 10, {60: 0.1, 65: 0.05})
    assert key_frames(Person([first, second]), SECONDS) == [5, 30, 40, 60]


def test_every_while_of_a_long_clip_has_one() -> None:
    looks = dict.fromkeys(range(0, 100, 5), 1.0)
    chosen = key_frames(Person([track(0, 100, looks)]), SECONDS)
    assert len(chosen) == round(SECONDS[-1] / KEY_EVERY)


@pytest.mark.parametrize("mode", MODES)
def test_a_clip_is_protected_more_than_a_photo(mode: str) -> None:
    photo = make_plan("happy", ["one"], None, MODES[mode], None)
    clip = for_clips(photo)
    assert clip.config.margin == photo.config.margin + TOLERANCE
    assert clip.config.max_shift > photo.config.max_shift
    pairs = list(zip(photo.objectives, clip.objectives, strict=True))
    assert any(before.side == "identity" for before, _ in pairs)
    for before, after in pairs:
        more = IDENTITY_WEIGHT if before.side == "identity" else 1
        assert after.weight == more * before.weight


@pytest.mark.slow
def test_a_face_that_hardly_moves_keeps_its_first_change(
    tiny_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "in.mp4", swaying(portrait(), 6, rate=2), rate=2)
    still_source = write_clip(tmp_path / "still.mp4", [portrait()] * 6, rate=2)
    settings = {"mode": "fast", "refine_steps": 1, "target": "second"}
    for clip in (source, still_source):
        generator = torch.Generator().manual_seed(0)
        report = tiny_pipeline.protect_video(
            clip, tmp_path / f"{clip.stem}.out.mp4", generator=generator, **settings
        )
        [person] = report.people
        assert person.key_frames[0] < KEY_EVERY
    assert len(person.key_frames) == 1


def speaker(pipe: MAPPipeline, count: int) -> list[np.ndarray]:
    """A face whose mouth opens and closes twice."""
    photo = still("man-older-dark")
    prepared = pipe.prepare_faces(photo, pipe.find_faces(photo))
    openings = 0.5 - 0.5 * np.cos(4 * np.pi * np.arange(count) / count)
    return [
        pipe.express_faces(photo, prepared, "neutral", 0.0, {"mouth_open": float(one)})
        for one in openings
    ]


def lips(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gap of the lips and height of the mouth's corners over its middle, of the eyes' distance."""
    finder, known = LandmarkFinder(), BundledDetector().detect(frames[0])[0].landmarks
    gaps, corners = [], []
    for frame in frames:
        points = finder.find_aligned(frame, known)
        known = five_points(points)
        unit = np.linalg.norm(known[1] - known[0])
        gaps.append((points[66, 1] - points[62, 1]) / unit)
        corners.append((points[[51, 57], 1].mean() - points[[48, 54], 1].mean()) / unit)
    return np.array(gaps), np.array(corners)


def test_speech_survives_a_smile(bundled_pipeline: MAPPipeline, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", speaker(bundled_pipeline, 12))
    bundled_pipeline.protect_video(
        source,
        tmp_path / "out.mp4",
        emotion="happy",
        # The expression alone: without the network, no step protects.
        config=MAPConfig(expression_strength=0.8, refine_steps=0, use_map_network=False),
        generator=torch.Generator().manual_seed(0),
    )
    (gap, corner), (gap_after, corner_after) = (
        lips(read_clip(tmp_path / name)[0]) for name in ("in.mp4", "out.mp4")
    )
    assert np.ptp(gap) > 0.1
    assert np.corrcoef(gap, gap_after)[0, 1] > 0.95
    assert np.ptp(gap_after) == pytest.approx(np.ptp(gap), rel=0.3)
    assert (corner_after - corner).mean() > 0.01


def shown_teeth(frames: np.ndarray) -> np.ndarray:
    """Share of the first frame's mouth and chin that is bright and nearly grey, in each frame."""
    known = BundledDetector().detect(frames[0])[0].landmarks
    points = LandmarkFinder().find_aligned(frames[0], known)
    x, y = points[60:68].mean(0).round().astype(int)
    reach = round(float(np.linalg.norm(points[48] - points[54])) / 2)
    mouth = frames[:, y - reach // 2 : y + reach, x - reach : x + reach].astype(float)
    grey, bright = mouth.max(-1) - mouth.min(-1) < 40, mouth.mean(-1) > 110
    return (grey & bright).mean((1, 2))


def test_speech_survives_the_protection(bundled_pipeline: MAPPipeline, tmp_path: Path) -> None:
    """Seen by the teeth: landmarks are misled by lips whose shading was changed."""
    source = write_clip(tmp_path / "in.mp4", speaker(bundled_pipeline, 24))
    bundled_pipeline.protect_video(
        source, tmp_path / "out.mp4", mode="fast", generator=torch.Generator().manual_seed(0)
    )
    before, after = (shown_teeth(read_clip(tmp_path / name)[0]) for name in ("in.mp4", "out.mp4"))
    shut = before == 0
    assert shut.sum() >= 8
    assert np.ptp(before) > 0.02
    assert after[shut].max() < 0.1 * np.ptp(before)
    assert np.corrcoef(before, after)[0, 1] > 0.95
    assert np.ptp(after) == pytest.approx(np.ptp(before), rel=0.25)
