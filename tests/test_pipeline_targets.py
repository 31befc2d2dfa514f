"""Whom a protected face is taken for: a built-in target, one's own picture, or nobody."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT, build_tiny_pipeline
from PIL import Image
from pipeline_calls import QUICK

from map_pipeline import MAPPipeline
from map_pipeline.errors import (
    FaceTooSmallError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
)

pytestmark = pytest.mark.usefixtures("cheap_changes")


@pytest.mark.slow
def test_auto_chooses_a_built_in_target(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    name = protect(photo, target="auto").reports[0][0].target
    assert name in tiny_pipeline.targets.names
    same = protect(photo, target=name).images[0]
    np.testing.assert_array_equal(protect(photo, target="auto").images[0], same)


def test_the_name_of_a_target_is_no_file(
    protect: Callable, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("none", "auto", "first"):
        (tmp_path / name).write_text("not a picture")
    assert protect(photo, target="none").reports[0][0].target is None
    assert protect(photo, target="first").reports[0][0].target == "first"


@pytest.mark.slow
def test_own_target_picture(protect: Callable, photo: np.ndarray) -> None:
    """Here it's the person herself: she is nearer to that than to any built-in target."""
    built_in = protect(photo).reports[0][0]
    for target in (photo, ASTRONAUT, str(ASTRONAUT)):
        output = protect(photo, target=target)
        [[report]] = output.reports
        assert report.target == "own image"
        for own, other in zip(report.recognisers, built_in.recognisers, strict=True):
            assert max(0.5, other.target_before) < own.target_before <= 1.0001
    assert (output.images[0] != protect(photo).images[0]).any()


def test_what_is_odd_about_an_own_target_is_reported(
    protect: Callable, photo: np.ndarray, tmp_path: Path
) -> None:
    """It shows two faces, of which the largest is cut off by the edge, and is an animation."""
    both = Image.new("RGB", (726, 512), "grey")
    both.paste(Image.fromarray(photo[:256, 96:352]), (0, 0))
    both.paste(Image.fromarray(photo[:256, :235]).resize((470, 512)), (256, 0))
    both.save(tmp_path / "both.png", save_all=True, append_images=[both.rotate(90)])
    [[report]] = protect(photo, target=tmp_path / "both.png").reports
    frames, faces, problems = report.photo.notes
    assert "target picture: only one of several" in frames
    assert "shows 2 faces; the largest" in faces
    assert "face in the target picture is" in problems
    [[clear]] = protect(photo, target=ASTRONAUT).reports
    assert clear.photo.notes == []


def test_own_target_without_a_face(protect: Callable, photo: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(NoFaceError, match="`target` must show a face"):
        protect(photo, target=np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(InvalidImageError, match=r"`target` must be .*missing\.png"):
        protect(photo, target=tmp_path / "missing.png")
    small = np.array(Image.fromarray(photo).resize((180, 180), Image.Resampling.LANCZOS))
    with pytest.raises(FaceTooSmallError, match="`target`"):
        protect(photo, target=small)


@pytest.mark.slow
def test_checkpoint_without_targets(photo: np.ndarray) -> None:
    pipe = build_tiny_pipeline()
    pipe.register_modules(targets=None)
    for name in ("auto", "first"):
        with pytest.raises(UnknownOptionError, match="`target` must be an image"):
            pipe(photo, **{**QUICK, "target": name})
    output = pipe(photo, **{**QUICK, "target": photo})
    assert output.reports[0][0].target == "own image"


@pytest.mark.parametrize("target", [None, "none"])
def test_without_a_target_the_person_is_only_hidden(
    protect: Callable, photo: np.ndarray, target: str | None
) -> None:
    [report] = protect(photo, target=target).reports[0]
    assert report.target is None
    for one in report.recognisers:
        assert one.impersonates is None
        assert one.target_after is None
        assert one.no_longer_matches is not None
    assert "target none" in report.to_table()
    json.dumps(report.to_dict(), allow_nan=False)
