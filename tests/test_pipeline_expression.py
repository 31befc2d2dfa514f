"""The edit of the expression, alone and as what the protection starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_calls import QUICK, crop_area

from map_pipeline import EMOTIONS, MAPConfig, MAPPipeline, default_objectives
from map_pipeline.config import MODES
from map_pipeline.errors import CheckpointError, NoFaceError, UnknownOptionError
from map_pipeline.expression.warp import REACH
from map_pipeline.faces.align import apply_affine
from map_pipeline.identity.objectives import RefineTarget
from map_pipeline.identity.refine import CropGeometry, FaceChange, Networks

pytestmark = pytest.mark.usefixtures("cheap_changes")
MOUTH_BOX = (200, 132, 247, 152)  # of the astronaut, px


@pytest.fixture
def edit(
    editing_pipeline: MAPPipeline, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Edit the expression without any protection after it.

    Returns the photo, and the five landmarks `[5,2]` that the protection works with, crop px.
    """
    seen: list[torch.Tensor] = []

    def no_change(
        _networks: Networks, target: RefineTarget, geometry: CropGeometry, *_settings: Any
    ) -> FaceChange:
        seen.append(apply_affine(geometry.region_to_crop, geometry.landmarks)[0])
        return FaceChange(torch.zeros_like(target.source_crop), torch.zeros(1, 0))

    monkeypatch.setattr("map_pipeline.stages.refine", no_change)

    def call(image: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        output = editing_pipeline(image, **{**QUICK, **settings})
        return np.array(output.images[0]), seen[-1].numpy()

    return call


def test_each_face_has_its_own_expression(
    editing_pipeline: MAPPipeline, edit: Callable, couple: np.ndarray
) -> None:
    large, small = editing_pipeline.face_detector.detect(couple)
    boxes = [small.box, large.box]
    sad, angry, mixed = (
        edit(couple, emotion=emotion, faces=boxes)[0]
        for emotion in ("sad", "angry", ["sad", "angry"])
    )
    left = np.s_[:, :256]
    right = np.s_[:, 256:]
    np.testing.assert_array_equal(mixed[right], sad[right])  # in the order of the boxes
    np.testing.assert_array_equal(mixed[left], angry[left])
    for side in (left, right):
        assert (sad[side] != angry[side]).any()
    output = editing_pipeline(couple, emotion=["sad", "angry"], faces=boxes, **QUICK)
    assert [one.emotion for one in output.reports[0]] == ["sad", "angry"]


def test_expression_changes_before_the_protection(
    edit: Callable, editing_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    edited, _ = edit(photo, emotion="surprise")
    [face] = editing_pipeline.face_detector.detect(photo)
    changed = (edited != photo).any(-1)
    # The chin lies at the crop's border, so what moves it reaches a little beyond.
    assert not changed[~crop_area(editing_pipeline, photo, face.landmarks, REACH)].any()
    x0, y0, x1, y1 = MOUTH_BOX
    assert changed[y0:y1, x0:x1].mean() > 0.9
    # Much more than the forehead, where brows are raised.
    difference = np.abs(edited.astype(int) - photo).mean(-1)
    assert difference[y0:y1, x0:x1].mean() > 2 * difference[62:90, x0:x1].mean()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photo_gets_the_same_edit(edit: Callable, photo: np.ndarray, turns: int) -> None:
    expected, landmarks = edit(photo, emotion="surprise")
    edited, turned_landmarks = edit(np.rot90(photo, turns).copy(), emotion="surprise")
    difference = np.abs(np.rot90(edited, -turns).astype(int) - expected)
    change = np.abs(photo.astype(int) - expected)
    # A network of random weights exaggerates what differs by less than a pixel.
    assert difference.sum() < 0.6 * change.sum()
    assert np.abs(turned_landmarks - landmarks).max() < 1  # crop px: the crop is upright


def test_no_expression_strength_leaves_the_photo_to_the_protection(
    edit: Callable, photo: np.ndarray
) -> None:
    np.testing.assert_array_equal(edit(photo, expression_strength=0)[0], photo)
    config = MAPConfig(expression_strength=0)
    np.testing.assert_array_equal(edit(photo, config=config)[0], photo)


@pytest.mark.slow
def test_both_modes_are_as_strong_by_default(edit: Callable, photo: np.ndarray) -> None:
    usual = edit(photo, expression_strength=MAPConfig.expression_strength)[0]
    for mode in MODES:
        np.testing.assert_array_equal(edit(photo, mode=mode)[0], usual)
    assert (edit(photo, expression_strength=1)[0] != usual).any()


@pytest.mark.slow
def test_mouth_is_found_again_after_the_edit(edit: Callable, photo: np.ndarray) -> None:
    """The recognisers align by its corners, and those move down and inwards."""
    before, after = (
        edit(photo, emotion="surprise", expression_strength=strength)[1] for strength in (0, 1)
    )
    assert np.abs(after[:2] - before[:2]).max() < 1  # eyes
    assert (after[3:, 1] > before[3:, 1] + 2).all()
    assert after[4, 0] - after[3, 0] < before[4, 0] - before[3, 0] - 2


@pytest.mark.parametrize("missing", ["face_mesh", "expression_space"])
def test_old_checkpoints_protect_without_an_edit(
    edit: Callable, editing_pipeline: MAPPipeline, photo: np.ndarray, missing: str
) -> None:
    component = getattr(editing_pipeline, missing)
    editing_pipeline.register_modules(**{missing: None})
    try:
        np.testing.assert_array_equal(edit(photo, expression_strength=1)[0], photo)
    finally:
        editing_pipeline.register_modules(**{missing: component})


def test_hidden_landmarks_mean_no_edit(
    edit: Callable,
    editing_pipeline: MAPPipeline,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        editing_pipeline._landmark_finder, "find_aligned", lambda _photo, _landmarks: None
    )
    edited, landmarks = edit(photo, expression_strength=1)
    np.testing.assert_array_equal(edited, photo)
    assert landmarks.shape == (5, 2)


def test_expression_alone_is_the_one_that_the_protection_starts_from(
    edit: Callable, editing_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    alone = editing_pipeline.edit_expression([photo, photo], "surprise")
    for one in alone:
        np.testing.assert_array_equal(np.array(one), edit(photo, emotion="surprise")[0])
    [still] = editing_pipeline.edit_expression(photo, strength=0)
    np.testing.assert_array_equal(np.array(still), photo)


def test_hidden_face_is_no_model_of_an_expression(
    editing_pipeline: MAPPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the emotion take its place unnoticed."""
    monkeypatch.setattr(
        editing_pipeline._landmark_finder, "find_aligned", lambda _photo, _landmarks: None
    )
    with pytest.raises(NoFaceError, match="`expression_of`"):
        editing_pipeline.edit_expression(photo, expression_of=photo)


def test_copied_expression_is_the_one_that_the_protection_starts_from(
    edit: Callable, editing_pipeline: MAPPipeline, photo: np.ndarray, tmp_path: Path
) -> None:
    """Also by the name of a file, which the report names, or once it's read."""
    [model] = editing_pipeline.edit_expression(photo, "surprise", 1.0)
    model.save(tmp_path / "other.png")
    [copied] = editing_pipeline.edit_expression(photo, strength=1.0, expression_of=model)
    shown = editing_pipeline.read_expression(model)
    for one in (model, shown, tmp_path / "other.png"):
        protected, _ = edit(photo, expression_strength=1.0, expression_of=one)
        np.testing.assert_array_equal(protected, np.array(copied))
    plain, _ = edit(photo, expression_strength=1.0)
    assert (np.array(copied) != plain).any()


def test_report_names_what_was_asked_for(
    editing_pipeline: MAPPipeline, photo: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "other.png")
    units = {"smile": 0.5, "brows_up": 0.0}
    common = {"mode": "fast", "refine_steps": 0, "target": None}
    asked = {"action_units": units, "expression_of": tmp_path / "other.png"}
    [face] = editing_pipeline(photo, **common, **asked).reports[0]
    assert (face.action_units, face.expression_of) == ({"smile": 0.5}, "other.png")
    assert "expression of other.png with smile +0.5" in face.to_table()
    assert face.emotion in EMOTIONS
    [plain] = editing_pipeline(photo, "contempt", **common).reports[0]
    assert (plain.action_units, plain.expression_of) == ({}, None)
    assert "emotion contempt" in plain.to_table()


def test_expression_alone_keeps_what_is_transparent(
    editing_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    cutout = Image.fromarray(photo).convert("RGBA")
    cutout.putpixel((0, 0), (0, 0, 0, 0))
    [edited] = editing_pipeline.edit_expression(cutout)
    assert edited.getpixel((0, 0))[3] == 0
    assert (np.array(edited)[..., :3] != photo)[1:].any()


def test_bad_input_of_the_expression_alone_is_told(
    editing_pipeline: MAPPipeline, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    with pytest.raises(UnknownOptionError, match=r"`emotion` must be one of .*; got 'bored'"):
        editing_pipeline.edit_expression(photo, "bored")
    with pytest.raises(UnknownOptionError, match=r"must be in \[0, 1.5\], got 1.6"):
        editing_pipeline.edit_expression(photo, strength=1.6)
    with pytest.raises(NoFaceError, match=r"image\[1\]"):
        editing_pipeline.edit_expression([photo, np.zeros_like(photo)])
    for other in ({}, {"expression_of": photo}):
        with pytest.raises(CheckpointError, match="must have a face mesh"):
            tiny_pipeline.edit_expression(photo, **other)


@pytest.mark.slow
def test_protection_goes_on_from_the_edit(editing_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """With all components at work: it runs, the seed decides, and without steps it's not empty."""

    def run(**settings: Any) -> np.ndarray:
        # What tiny networks find isn't worth its price, so it's free here.
        free = [one for one in default_objectives() if one.side == "identity"]
        given = {**QUICK, "refine_steps": 4, "objectives": free, **settings}
        given["generator"] = torch.Generator().manual_seed(0)
        return np.array(editing_pipeline(photo, **given).images[0])

    result = run()
    np.testing.assert_array_equal(result, run())
    for other in ({"expression_strength": 0}, {"refine_steps": 0}, {"emotion": "sad"}):
        assert (run(**other) != result).any(), other
    # The network knows the target, so it protects a little even without a step.
    alone = run(refine_steps=0, expression_strength=0)
    [face] = editing_pipeline.face_detector.detect(photo)
    area = crop_area(editing_pipeline, photo, face.landmarks)
    assert (alone[area] != photo[area]).any()
    np.testing.assert_array_equal(alone[~area], photo[~area])
