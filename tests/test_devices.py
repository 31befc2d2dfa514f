"""Every tensor is where it has to be, on a device that isn't the CPU and in other precisions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline
from other_device import other_device

from map_pipeline import MAPPipeline
from map_pipeline.compare import compare_faces
from map_pipeline.robustness import check_robustness

OTHER = ASTRONAUT.with_name("woman-young-tan.png")
WINK = {"wink_left": 1.0, "smirk": -0.4}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[MAPPipeline]:
    """A pipeline on another device than the CPU."""
    pipe = build_tiny_pipeline(edits=True)
    with other_device() as device:
        yield pipe.to(device)


@pytest.mark.parametrize("mode", ["fast", "strong"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "auto", "action_units": WINK},
        {"emotion": "contempt"},
        {"target": OTHER, "expression_of": OTHER},
    ],
)
def test_photos_are_protected_elsewhere(
    elsewhere: MAPPipeline, photo: np.ndarray, mode: str, options: dict[str, Any]
) -> None:
    output = elsewhere(photo, mode=mode, refine_steps=1, **options)
    assert (np.asarray(output.images[0]) != photo).any()


def test_results_are_judged_elsewhere(elsewhere: MAPPipeline, photo: np.ndarray) -> None:
    output = elsewhere(photo, refine_steps=1)
    after = np.asarray(output.images[0])
    assert compare_faces(elsewhere, photo, after).pairs
    assert check_robustness(elsewhere, photo, after, output.reports[0][0])


@pytest.mark.parametrize("options", [{}, {"action_units": WINK}, {"expression_of": OTHER}])
def test_expressions_are_edited_elsewhere(
    elsewhere: MAPPipeline, photo: np.ndarray, options: dict[str, Any]
) -> None:
    edited = elsewhere.edit_expression(photo, "surprise", 1.0, **options)
    assert (np.asarray(edited) != photo).any()


def test_clips_are_protected_elsewhere(elsewhere: MAPPipeline, tmp_path: Path) -> None:
    pytest.importorskip("av")
    clips.write_clip(tmp_path / "in.mp4", clips.swaying(clips.portrait(), 4))
    elsewhere.protect_video(tmp_path / "in.mp4", tmp_path / "out.mp4", refine_steps=1)
    assert (tmp_path / "out.mp4").is_file()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision(photo: np.ndarray, precision: torch.dtype) -> None:
    pipe = build_tiny_pipeline(edits=True).to(dtype=precision)
    assert {p.dtype for p in pipe.unet.parameters()} == {precision}
    assert pipe.targets.images.dtype == torch.uint8
    output = pipe(photo, refine_steps=1, generator=torch.Generator().manual_seed(0))
    assert (np.asarray(output.images[0]) != photo).any()
    assert output.reports[0][0].to_dict()
