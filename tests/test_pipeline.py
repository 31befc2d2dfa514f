import fnmatch
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline, tiny_recogniser
from PIL import Image

from map_pipeline import (
    EMOTIONS,
    MAPConfig,
    MAPPipeline,
    MAPPipelineOutput,
    RecogniserEnsemble,
    default_objectives,
    with_weights,
)
from map_pipeline.config import MODES
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.errors import (
    CheckpointError,
    FaceTooSmallError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.expression.warp import REACH
from map_pipeline.faces.align import Alignment, apply_affine
from map_pipeline.faces.face import turn_box
from map_pipeline.identity.objectives import RefineTarget
from map_pipeline.identity.refine import CropGeometry, FaceChange, Networks
from map_pipeline.images import load_image, to_array
from map_pipeline.report import PhotoReport

pytestmark = pytest.mark.usefixtures("cheap_changes")
FACE_BOX = (177, 62, 270, 180)  # of the astronaut, px
MOUTH_BOX = (200, 132, 247, 152)  # of the astronaut, px
QUICK = {"num_inversion_steps": 2, "num_generation_steps": 2, "refine_steps": 1, "target": "first"}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


@pytest.fixture
def protect(tiny_pipeline: MAPPipeline) -> Callable[..., MAPPipelineOutput]:
    """Protect with the tiny pipeline; without an `output_type`, images are `uint8` arrays."""

    def call(image: Any, seed: int = 0, **settings: Any) -> MAPPipelineOutput:
        generator = torch.Generator().manual_seed(seed)
        output = tiny_pipeline(image, **{"generator": generator, **QUICK, **settings})
        if "output_type" not in settings and isinstance(output, MAPPipelineOutput):
            output.images = [np.array(picture) for picture in output.images]
        return output

    return call


def crop_area(
    pipe: MAPPipeline, photo: np.ndarray, landmarks: np.ndarray, margin: float = 0.0
) -> np.ndarray:
    """Which pixels `[H,W]` lie in the score network's crop of a face, and so many sides around."""
    size = crop_size(pipe.unet)
    template = torch.tensor(pipe.config.alignment_template) * size
    affine = Alignment.from_landmarks(torch.tensor(landmarks), template, size).image_to_crop
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    in_crop = np.einsum("ij,jhw->ihw", affine.numpy(), np.stack([x, y, np.ones_like(x)]))
    beyond = margin * size + 1e-3
    return ((in_crop > -beyond) & (in_crop < size - 1 + beyond)).all(0)


def center(box: tuple[float, ...]) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def test_only_the_face_changes(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    # What tiny networks find isn't worth its price, so it's free here.
    free = [one for one in default_objectives() if one.side == "identity"]
    output = protect(photo, objectives=free, refine_steps=4)
    assert isinstance(output, MAPPipelineOutput)
    [result], [[report]] = output.images, output.reports
    assert result.shape == photo.shape
    assert result.dtype == np.uint8
    [face] = tiny_pipeline.face_detector.detect(photo)
    area = crop_area(tiny_pipeline, photo, face.landmarks)
    assert 0.02 < area.mean() < 0.3
    assert (result[~area] == photo[~area]).all()
    assert (result[area] != photo[area]).any()
    assert np.abs(center(report.box) - center(FACE_BOX)).max() < 15
    assert report.target == "first"
    assert report.emotion == "happy"
    assert report.detector == tiny_pipeline.face_detector.name
    assert -1 <= report.ssim <= 1
    assert report.psnr > 0


@pytest.mark.slow
def test_calls_do_not_influence_each_other(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray, couple: np.ndarray
) -> None:
    before = {k: v.clone() for k, v in tiny_pipeline.unet.state_dict().items()}
    first = protect(photo).images[0]
    protect(couple, seed=3, emotion="sad", faces="all", refine_steps=2)
    again = protect(photo).images[0]
    np.testing.assert_array_equal(first, again)
    assert all(torch.equal(v, before[k]) for k, v in tiny_pipeline.unet.state_dict().items())


@pytest.mark.slow
def test_settings_reach_the_optimisation(protect: Callable, photo: np.ndarray) -> None:
    plain = protect(photo, refine_steps=2).images[0]
    for settings in (
        {"seed": 1},
        {"emotion": "angry"},
        {"target": "second"},
        {"surrogates": ["faceres"]},
        {"num_generation_steps": 3},
        {"num_inversion_steps": 5},
        {"objectives": with_weights(default_objectives(), expression=0)},
        {"config": MAPConfig(learning_rate=1e-2)},
    ):
        other = protect(photo, **{"refine_steps": 2, **settings}).images[0]
        assert (other != plain).any(), settings


@pytest.mark.slow
def test_arguments_go_before_the_config(protect: Callable, photo: np.ndarray) -> None:
    config = MAPConfig(num_inversion_steps=2, num_generation_steps=2, refine_steps=3)
    steps: list[int] = []
    protect(
        photo,
        config=config,
        num_inversion_steps=None,
        num_generation_steps=None,
        refine_steps=2,
        callback_on_step_end=lambda _pipe, index, _timestep, _given: steps.append(index),
    )
    assert steps == [0, 1]


@pytest.mark.slow
def test_fast_is_less_work_than_strong(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """Fewer steps, and none of them denoises for L_SM; both look at the expression networks."""
    steps: dict[str, list[dict[str, float]]] = {}
    for mode in ("fast", "strong"):
        seen = steps[mode] = []
        [[report]] = tiny_pipeline(
            photo,
            target="first",
            mode=mode,
            callback_on_step_end=lambda _pipe, _i, _t, given, seen=seen: seen.append(given),
            callback_on_step_end_tensor_inputs=["losses"],
        ).reports
        assert 0 < len(seen) <= MODES[mode].refine_steps  # it may end early
        assert all(one.used_in_optimisation for one in report.expressions)
    assert MODES["fast"].refine_steps < MODES["strong"].refine_steps
    fast, strong = (set(steps[mode][0]["losses"]) for mode in ("fast", "strong"))
    assert "expression" in fast
    assert strong - fast == {"score_matching"}


@pytest.mark.slow
def test_strong_is_the_default(protect: Callable, photo: np.ndarray) -> None:
    plain = protect(photo).images[0]
    np.testing.assert_array_equal(plain, protect(photo, mode="strong").images[0])
    assert (plain != protect(photo, mode="fast").images[0]).any()


@pytest.mark.slow
def test_without_a_generator_torch_manual_seed_decides(
    tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(np.array(tiny_pipeline(photo, **QUICK).images[0]))
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_list_of_photos(protect: Callable, photo: np.ndarray, couple: np.ndarray) -> None:
    photos = [couple, ASTRONAUT, photo[:200, 100:350]]
    output = protect(photos)
    assert [image.shape[:2] for image in output.images] == [(256, 448), (512, 512), (200, 250)]
    assert [len(reports) for reports in output.reports] == [1, 1, 1]
    for index in (0, 2):
        np.testing.assert_array_equal(output.images[index], protect(photos[index]).images[0])


@pytest.mark.slow
def test_all_faces(protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray) -> None:
    output = protect(couple, faces="all")
    [result], [[first, second]] = output.images, output.reports
    assert center(first.box)[0] < 256 < center(second.box)[0]  # biggest first
    area = np.zeros(couple.shape[:2], bool)
    for face in tiny_pipeline.face_detector.detect(couple):
        one = crop_area(tiny_pipeline, couple, face.landmarks)
        assert (result[one] != couple[one]).any()
        area |= one
    assert (result[~area] == couple[~area]).all()


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


@pytest.mark.slow
def test_chosen_face(protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray) -> None:
    large, small = tiny_pipeline.face_detector.detect(couple)
    output = protect(couple, faces=[small.box])
    [result], [[report]] = output.images, output.reports
    assert report.box == pytest.approx(small.box)
    outside = ~crop_area(tiny_pipeline, couple, small.landmarks)
    assert (result[outside] == couple[outside]).all()
    with pytest.raises(NoFaceError):
        protect(couple, faces=[(0, 200, 40, 256)])
    assert large.size > small.size


def test_faces_that_are_left_unprotected_are_counted(
    protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray
) -> None:
    large, small = tiny_pipeline.face_detector.detect(couple)
    for faces, left in ((None, [small.box]), ([small.box], [large.box]), ("all", [])):
        for report in protect(couple, faces=faces, refine_steps=0).reports[0]:
            assert report.photo == PhotoReport(2, left, [])
            assert report.to_dict()["photo"]["faces_unprotected"] == len(left)


def test_face_that_is_too_small_is_left_unprotected(protect: Callable, couple: np.ndarray) -> None:
    tiny = Image.fromarray(couple[32:224, 256:]).resize((60, 60))
    picture = Image.fromarray(couple).crop((0, 0, 360, 256))
    picture.paste((128, 128, 128), (256, 0, 360, 256))
    picture.paste(tiny, (280, 100))
    [report] = protect(np.array(picture), faces="all", refine_steps=0).reports[0]
    assert report.photo.faces_found == 2
    [box] = report.photo.unprotected
    assert 280 <= box[0] < box[2] <= 340


def test_boxes_of_an_array(protect: Callable, couple: np.ndarray) -> None:
    box = [280.0, 60, 370, 190]
    expected = protect(couple, faces=[box], refine_steps=0).reports[0][0].box
    for boxes in (np.array([box]), torch.tensor([box])):
        [report] = protect(couple, faces=boxes, refine_steps=0).reports[0]
        assert report.box == expected
        assert center(report.box)[0] > 256


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photo_is_measured_like_an_upright_one(
    protect: Callable, photo: np.ndarray, turns: int
) -> None:
    """Left as it is, it shows each network the very same face before and after."""
    [report] = protect(np.rot90(photo, turns).copy(), refine_steps=0).reports[0]
    [upright] = protect(photo, refine_steps=0).reports[0]
    assert report.problems == []
    expected = turn_box(upright.box, turns, *photo.shape[1::-1])
    assert np.abs(center(report.box) - center(expected)).max() < 15
    for one, other in zip(report.expressions, upright.expressions, strict=True):
        assert one.before == pytest.approx(other.before, abs=0.02)
    for one, other in zip(report.recognisers, upright.recognisers, strict=True):
        assert one.source_after == pytest.approx(1, abs=1e-3)
        assert one.target_before == pytest.approx(other.target_before, abs=0.02)


@pytest.mark.parametrize("turns", [1, 3])
def test_turned_face_beside_an_upright_one(
    protect: Callable, couple: np.ndarray, turns: int
) -> None:
    mixed = couple.copy()
    mixed[32:224, 256:] = np.rot90(couple[32:224, 256:], turns)
    reports = protect(mixed, faces="all", rotate=True, refine_steps=0).reports[0]
    assert len(reports) == 2
    assert sorted(center(report.box)[0] > 256 for report in reports) == [False, True]


def test_what_may_be_one_more_face_is_told(
    protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray, monkeypatch: Any
) -> None:
    """Here a detector overlooks the smaller face."""
    large, small = tiny_pipeline.face_detector.detect(couple)
    monkeypatch.setattr(tiny_pipeline.face_detector, "detect", lambda _photo: [large])
    [report] = protect(couple, faces="all", refine_steps=0).reports[0]
    assert report.photo.faces_found == 1
    [box] = report.photo.doubtful
    assert np.abs(center(box) - center(small.box)).max() < 15


@pytest.mark.slow
def test_tuple_instead_of_output(protect: Callable, photo: np.ndarray) -> None:
    images, reports = protect(photo, return_dict=False)
    assert isinstance(images[0], Image.Image)
    expected = protect(photo)
    np.testing.assert_array_equal(images[0], expected.images[0])
    assert reports[0][0].ssim == expected.reports[0][0].ssim


@pytest.mark.slow
def test_every_input_type_gives_the_same(protect: Callable, photo: np.ndarray) -> None:
    expected = protect(photo).images[0]
    tensor = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    for source in (
        ASTRONAUT,
        str(ASTRONAUT),
        ASTRONAUT.read_bytes(),
        Image.open(ASTRONAUT),
        tensor,
    ):
        np.testing.assert_array_equal(protect(source).images[0], expected)


def test_no_steps_returns_the_photo(protect: Callable, photo: np.ndarray) -> None:
    output = protect(photo, refine_steps=0)
    np.testing.assert_array_equal(output.images[0], photo)
    report = output.reports[0][0]
    assert report.psnr == math.inf
    assert report.ssim == pytest.approx(1, abs=1e-5)
    assert all(r.source_after == pytest.approx(1, abs=1e-5) for r in report.recognisers)
    assert not any(r.no_longer_matches for r in report.recognisers)


def test_report_is_complete(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    report = protect(photo).reports[0][0]
    by_name = {r.name: r for r in report.recognisers}
    assert list(by_name) == list(tiny_pipeline.recognisers)
    used = {name for name, r in by_name.items() if r.used_in_optimisation}
    assert used == {"dlib_resnet", "mobilefacenet"}
    for name, one in by_name.items():
        net = tiny_pipeline.recognisers[name]
        limit = net.threshold(0.01)
        assert (one.title, one.family) == (net.config.title, net.config.family)
        assert one.thresholds == net.config.thresholds
        assert one.impersonates == (one.target_after >= limit)
        assert one.no_longer_matches == (one.source_after < limit)
        assert -1 <= one.target_before <= 1.001
    for one in report.expressions:
        for probabilities in (one.before, one.after):
            assert tuple(probabilities) == EMOTIONS
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_auto_chooses_a_built_in_target(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    name = protect(photo, target="auto").reports[0][0].target
    assert name in tiny_pipeline.targets.names
    same = protect(photo, target=name).images[0]
    np.testing.assert_array_equal(protect(photo, target="auto").images[0], same)


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


@pytest.mark.slow
def test_saved_pipeline_comes_back(
    editing_pipeline: MAPPipeline, photo: np.ndarray, tmp_path: Path
) -> None:
    editing_pipeline.save_pretrained(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    loaded = MAPPipeline.from_pretrained(tmp_path)
    assert loaded.targets.names == ["first", "second", "third"]
    assert loaded.config.detector == "bundled"
    assert list(loaded.recognisers) == ["dlib_resnet", "mobilefacenet", "faceres"]
    loaded.set_progress_bar_config(disable=True)
    results = [
        np.array(pipe(photo, generator=torch.Generator().manual_seed(0), **QUICK).images[0])
        for pipe in (editing_pipeline, loaded)
    ]
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


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


def test_recogniser_without_thresholds_is_tuned_on_but_gives_no_verdict(photo: np.ndarray) -> None:
    """ArcFace comes without thresholds: it may be a surrogate and a judge all the same."""
    arcface = tiny_recogniser("arcface")
    arcface.register_to_config(thresholds={})
    pipe = build_tiny_pipeline()
    pipe.recognisers["arcface"] = arcface.requires_grad_(False)
    [[face]] = pipe(photo, surrogates=["arcface"], **QUICK).reports
    [report] = [one for one in face.recognisers if one.name == "arcface"]
    assert report.used_in_optimisation
    assert report.impersonates is None
    assert report.no_longer_matches is None


def test_what_was_not_optimised_is_not_called_used(protect: Callable, photo: np.ndarray) -> None:
    objectives = with_weights(default_objectives(), expression=0)
    [[face]] = protect(photo, objectives=objectives).reports
    assert not any(one.used_in_optimisation for one in face.expressions)
    assert any(one.used_in_optimisation for one in face.recognisers)


@pytest.mark.slow
def test_checkpoint_without_targets(photo: np.ndarray) -> None:
    pipe = build_tiny_pipeline()
    pipe.register_modules(targets=None)
    for name in ("auto", "first"):
        with pytest.raises(UnknownOptionError, match="`target` must be an image"):
            pipe(photo, **{**QUICK, "target": name})
    output = pipe(photo, **{**QUICK, "target": photo})
    assert output.reports[0][0].target == "own image"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"emotion": "hungry"}, "`emotion` must be one of angry.*got 'hungry'"),
        ({"emotion": ["sad", "hungry"]}, "`emotion` must be one of angry.*got 'hungry'"),
        ({"emotion": ["sad", "happy"]}, "one for each of the 1 chosen ones, got 2"),
        ({"target": "nobody"}, "`target` must be.*first, second, third.*got 'nobody'"),
        ({"surrogates": ["vgg"]}, r"`surrogates` must name some of dlib_resnet.*got \['vgg'\]"),
        ({"surrogates": []}, "`surrogates` must name some of.*got none"),
        ({"output_type": "gif"}, "`output_type` must be pil, np or pt; got 'gif'"),
        ({"faces": "smallest"}, "`faces` must be"),
        ({"faces": 3}, "`faces` must be.*got 3"),
        ({"faces": np.zeros((1, 4))}, r"`faces` must hold boxes.*got \[0.0, 0.0, 0.0, 0.0\]"),
        ({"mode": "slow"}, "`mode` must be one of fast, strong; got 'slow'"),
    ],
)
def test_unknown_options(protect: Callable, photo: np.ndarray, settings: dict, match: str) -> None:
    with pytest.raises(UnknownOptionError, match=match):
        protect(photo, **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"margin": -1}, r"`margin` must be >= 0, got -1"),
        ({"margin": math.inf}, "`margin`"),
        ({"margin": math.nan}, "`margin`"),
        ({"margin": "huge"}, "`margin` must be normal, high or a number"),
        ({"refine_steps": -1}, "`refine_steps` must be >= 0, got -1"),
        ({"num_inversion_steps": 1}, "`num_inversion_steps` must be >= 2"),
        ({"num_generation_steps": 0}, "`num_generation_steps` must be >= 1"),
        ({"expression_strength": -0.1}, r"`expression_strength` must be in \[0, 1.5\], got -0.1"),
        ({"expression_strength": 1.51}, "`expression_strength`"),
        ({"expression_strength": math.nan}, "`expression_strength`"),
    ],
)
def test_numbers_out_of_range(
    protect: Callable, photo: np.ndarray, settings: dict, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        protect(photo, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"start_timestep": 0},
        {"expression_strength": 2.0},
        {"learning_rate": 0.0},
        {"adam_betas": (0.5, 1.0)},
        {"max_expression_grad_ratio": -0.1},
        {"ema_decay": 1.0},
        {"num_eot_views": -1},
        {"margin": -0.5},
        {"motion_rate": -1.0},
        {"max_motion": 0.0},
        {"max_shift": 0.0},
        {"patience": 0},
        {"objectives": "both"},
        {"autocast": "fp8"},
    ],
    ids=str,
)
def test_config_names_the_field_and_the_value(settings: dict) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got ") as caught:
        MAPConfig(**settings)
    assert repr(value) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [0, 10.0, "high"])
def test_any_margin_runs(protect: Callable, photo: np.ndarray, margin: float | str) -> None:
    assert protect(photo, margin=margin).images[0].shape == photo.shape


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


def test_errors_name_the_photo_of_a_list(
    protect: Callable, photo: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("Dear diary")
    small = np.array(Image.fromarray(photo).resize((180, 180), Image.Resampling.LANCZOS))
    grey = np.full((128, 128, 3), 128, np.uint8)
    for bad, error, words in (
        (grey, NoFaceError, "face"),
        (small, FaceTooSmallError, "40"),
        (tmp_path / "text.png", InvalidImageError, r"text\.png"),
        (7, InvalidImageError, "int"),
    ):
        with pytest.raises(error, match=rf"`image\[1\]`.*{words}"):
            protect([photo, bad])
        with pytest.raises(error, match=words) as caught:
            protect(bad)
        assert "[" not in str(caught.value).split("`")[1]
    with pytest.raises(InvalidImageError, match="`image` must be a photo or a list"):
        protect([])


def test_start_beyond_the_noise_schedule(protect: Callable, photo: np.ndarray) -> None:
    config = MAPConfig(start_timestep=1000, num_inversion_steps=2, num_generation_steps=2)
    with pytest.raises(ValueError, match="`start_timestep` must be in"):
        protect(photo, config=config)


def test_settings_can_be_changed_on_loading(tiny_checkpoint: Path) -> None:
    kept = RecogniserEnsemble({"faceres": tiny_recogniser("mobilefacenet")})
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, surrogates=["faceres"], recognisers=kept)
    assert list(pipe.recognisers) == ["faceres"]
    assert pipe.config.surrogates == ["faceres"]


def test_components_are_frozen(tiny_checkpoint: Path) -> None:
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            assert not component.training
            assert not any(p.requires_grad for p in component.parameters())


def test_from_the_hub(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub itself is out of reach of a test; what is asked of it isn't."""
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(tiny_checkpoint)

    monkeypatch.setattr("map_pipeline.hub.snapshot_download", snapshot_download)
    pipe = MAPPipeline.from_pretrained("user/repo", revision="v1", token="secret")
    assert asked["name"] == "user/repo"
    assert asked["revision"] == "v1"
    assert asked["token"] == "secret"
    patterns = asked["allow_patterns"]
    wanted = ["model_index.json", "unet/config.json", "targets/diffusion_pytorch_model.safetensors"]
    unwanted = ["pipeline.py", "unet/model.py", "unet/diffusion_pytorch_model.bin", "unet/a.pt"]
    for file in (*wanted, *unwanted, "unet/a.pickle", "model.ckpt", "a.h5", "unet/model.onnx"):
        matched = any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
        assert matched == (file in wanted), file
    assert pipe.targets.names == ["first", "second", "third"]


def test_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        MAPPipeline.from_pretrained(tmp_path)


def test_folder_that_does_not_exist() -> None:
    with pytest.raises(CheckpointError, match="got no/such/folder"):
        MAPPipeline.from_pretrained("no/such/folder")


def test_missing_weights_are_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for path in tiny_checkpoint.rglob("*"):
        if path.is_file() and path.parent.name != "unet":
            copy = tmp_path / path.relative_to(tiny_checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with pytest.raises((OSError, ValueError)):
        MAPPipeline.from_pretrained(tmp_path)


def test_bundled_checkpoint(bundled_pipeline: MAPPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = {"mode": "fast", "refine_steps": 2, "target": "auto"}
    output = bundled_pipeline(ASTRONAUT, generator=generator, **settings)
    [result], [[report]] = output.images, output.reports
    assert bundled_pipeline.dtype == torch.float32
    for component in bundled_pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            floating = {t.dtype for t in component.state_dict().values() if t.is_floating_point()}
            assert floating == {torch.float32}
    parts = ("conditioner", "face_mesh", "expression_space", "mouth_painter")
    assert all(getattr(bundled_pipeline, name) is not None for name in parts)
    assert result.size == (512, 512)
    assert report.target in bundled_pipeline.targets.names
    assert {r.name for r in report.recognisers} == set(bundled_pipeline.recognisers)
    used = {r.name for r in report.recognisers if r.used_in_optimisation}
    assert used == set(bundled_pipeline.surrogates)
    assert all(r.thresholds for r in report.recognisers)
    assert {e.name for e in report.expressions} == set(bundled_pipeline.expression_classifiers)
    assert 0.5 < report.ssim < 1
    # Two steps already move every recogniser that is tuned on, away from her and to the target.
    for one in report.recognisers:
        assert one.source_after < 1
        if one.used_in_optimisation:
            assert one.target_after > one.target_before
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_table()


def test_transparent_photo_stays_transparent(tiny_pipeline: MAPPipeline) -> None:
    alpha = np.full((512, 512), 255, np.uint8)
    alpha[:20] = np.linspace(0, 250, 20).astype(np.uint8)[:, None]
    given = np.dstack([to_array(load_image(ASTRONAUT)), alpha])
    settings = {"refine_steps": 1, "emotion": "happy", "target": "auto"}
    output = tiny_pipeline(given, **settings)
    after = np.array(output.images[0])
    assert output.images[0].mode == "RGBA"
    np.testing.assert_array_equal(after[..., 3], alpha)
    assert (after[1:, :, :3] != given[1:, :, :3]).any(-1).mean() > 0.001  # its face has changed
    np.testing.assert_array_equal(after[1:20], given[1:20])
    plain = tiny_pipeline(given, output_type="np", **settings).images
    assert plain.shape == (1, 512, 512, 3)
