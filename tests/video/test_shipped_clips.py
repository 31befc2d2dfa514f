"""Clips with the shipped networks: two people who cross, each with one target and expression."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import paste, placed, portrait, read_clip, still, write_clip
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.config import FAR

FRAMES, STEP, SIDE = 44, 14, 224


def picture(face: np.ndarray) -> np.ndarray:
    """An example at the size at which it crosses the clip, `uint8 [SIDE,SIDE,3]`."""
    return np.array(Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def crossing() -> list[np.ndarray]:
    """Frames `uint8 [260,840,3]`: one goes right, in front of another who goes left."""
    front, behind = picture(portrait()), picture(still("woman-young-tan"))
    frames = []
    for index in range(FRAMES):
        frame = placed(behind, (840, 260), 612 - STEP * index, 30)
        paste(frame, front, 4 + STEP * index, 16)
        frames.append(frame)
    return frames


def seen(pipe: MAPPipeline, frame: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """What recognisers see of the two largest faces, from left to right: name -> `[1,D]`."""
    faces = sorted(pipe.find_faces(frame)[:2], key=lambda one: one.box[0])
    return [pipe.embed(pipe.view(frame, one.landmarks)) for one in faces]


@pytest.mark.slow
def test_two_who_cross_keep_their_target_and_expression(
    bundled_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    pipe, output = bundled_pipeline, tmp_path / "out.mp4"
    source = write_clip(tmp_path / "in.mp4", crossing())
    generator = torch.Generator().manual_seed(0)
    report = pipe.protect_video(
        source, output, target="auto", faces="all", mode="fast", generator=generator
    )
    assert report.unprotected == []
    front, behind = sorted(report.people, key=lambda one: -one.frames)
    assert front.frames == FRAMES
    assert FRAMES // 2 < behind.frames < FRAMES
    assert front.target != behind.target

    before, after = read_clip(source)[0], read_clip(output)[0]
    first, last = 2, FRAMES - 3
    was = seen(pipe, before[first])
    shown, ended = seen(pipe, after[first]), seen(pipe, after[last])[::-1]  # they changed sides
    hidden = dict.fromkeys((0, 1), 0)
    for name in pipe.surrogates:
        limit = pipe.recognisers[name].threshold(FAR)
        known = dict(zip(pipe.targets.names, pipe.targets.embeddings(name), strict=True))
        for number, (person, other) in enumerate(((front, behind), (behind, front))):
            then, now = shown[number][name][0], ended[number][name][0]
            hidden[number] += all(face @ was[number][name][0] < limit for face in (then, now))
            for face in (then, now):
                assert face @ known[person.target] > face @ known[other.target]
            assert then @ now > 0.95  # the same expression, too
    # Some may match a single frame; how near they come depends on the number of threads.
    assert all(2 * count >= len(pipe.surrogates) for count in hidden.values())
