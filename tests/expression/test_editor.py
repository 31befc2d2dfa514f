"""The expression edit: where features go, what gets darker, and what stays as it is."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from edits import (
    ALIGNMENT,
    DARK_SKIN,
    LIGHT_SKIN,
    PLACE,
    SIZE,
    face,
    landmarks_after,
    plain,
    texture,
)
from made_up_space import (
    CHEEK,
    CHEEK_SHADING,
    DOWN,
    HAPPY,
    OPEN,
    SAD,
    SMILE,
    SURPRISE,
)
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import smooth
from map_pipeline.expression.editor import (
    FINE,
    GAMMA,
    LOWER_LIP,
    SEEN_LESS,
    UPPER_LIP,
    EditableFace,
    ExpressionEdit,
    ExpressionModel,
    apply_edit,
    copied_change,
    edit_expression,
    fine_alignment,
    lip_gap,
    move_edit,
    no_edit,
)
from map_pipeline.expression.head_turn import about, landmark_depth
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.expression.warp import deform_photo, least_area
from map_pipeline.faces.align import Alignment, apply_affine
from map_pipeline.faces.paste import feather_mask, paste_residual

# Rows and columns of the photo.
CROP = (slice(90, 90 + SIZE), slice(100, 100 + SIZE))
AROUND = (slice(90 - SIZE // 2, 90 + SIZE * 3 // 2), slice(100 - SIZE // 2, 100 + SIZE * 3 // 2))
ANY = pytest.mark.parametrize("emotion", range(len(EMOTIONS)))


def turned(shape: Tensor, degrees: float) -> Tensor:
    """A shape turned about the middle of the crop, of the side."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (shape - 0.5) @ turn.T + 0.5


@ANY
def test_edit_is_finite_and_does_not_fold(
    space: ExpressionSpace, painter: UNet2DModel, emotion: int
) -> None:
    edit = edit_expression(space, painter, face(space.mean + space.moving[OPEN]), emotion, 1.0)
    assert edit.flow.shape == (1, 2, 2 * SIZE, 2 * SIZE)
    assert edit.painting.shape == (1, 3, FINE * SIZE, FINE * SIZE)
    assert edit.painting.isfinite().all()
    assert edit.painting.abs().max() <= 1
    assert least_area(edit.flow) > 0, "its lips are apart from the start"


@ANY
def test_no_strength_no_change_even_with_crossed_lips(
    space: ExpressionSpace, painter: UNet2DModel, emotion: int
) -> None:
    """Landmarks of closed lips may cross, and lips are pulled apart for any expression."""
    crossed = space.mean - 0.3 * space.moving[OPEN]
    assert lip_gap(crossed) < 0
    edit = edit_expression(space, painter, face(crossed), emotion, 0.0)
    assert not edit.flow.any()
    assert not edit.painting.any()


def test_edit_is_deterministic(space: ExpressionSpace, painter: UNet2DModel) -> None:
    one = face(space.mean)
    first, second = (edit_expression(space, painter, one, SURPRISE, 1.0) for _ in range(2))
    assert torch.equal(first.flow, second.flow)
    assert torch.equal(first.painting, second.painting)


def test_features_go_where_the_space_says(space: ExpressionSpace) -> None:
    found = {
        emotion: landmarks_after(
            edit_expression(space, None, face(space.mean), emotion, 1.0), space.mean
        )
        for emotion in (HAPPY, SURPRISE, SAD)
    }
    corners = [48, 54]
    up = {e: float(space.mean[corners, 1].mean() - found[e][corners, 1].mean()) for e in found}
    assert up[HAPPY] == pytest.approx(-1.5 * float(space.moving[SMILE, 48, 1]), rel=0.2)
    assert up[SAD] == pytest.approx(-1.5 * float(space.moving[DOWN, 48, 1]), rel=0.2)
    assert lip_gap(found[SURPRISE]) > lip_gap(space.mean) + 0.01
    assert (found[SURPRISE][17:27, 1] < space.mean[17:27, 1] - 0.003).all()


def copied_to(
    space: ExpressionSpace, shape: Tensor, other: EditableFace, strength: float = 1.0
) -> Tensor:
    """Where the landmarks `[68,2]` are when the expression of another photo is copied."""
    model = ExpressionModel(other, same_person=True)
    edit = edit_expression(space, None, face(shape), None, strength, model=model)
    return landmarks_after(edit, shape)


def test_a_copy_goes_as_far_as_networks_must_see(space: ExpressionSpace) -> None:
    shape = space.mean + 0.5 * space.moving[OPEN]
    smile = shape + 0.8 * space.moving[SMILE]
    wanted = (smile - shape)[[48, 54], 1].mean()
    for strength in (0.5, 1.0):
        found = copied_to(space, shape, face(smile), strength)
        up = (found - shape[:POINTS])[[48, 54], 1].mean()
        assert float(up / wanted) == pytest.approx(strength * SEEN_LESS, rel=0.2)


def test_lips_part_as_far_as_in_the_photo(space: ExpressionSpace) -> None:
    """Also where the space's axes know nothing of it."""
    shape = space.mean + 0.5 * space.moving[OPEN]
    parted = shape.clone()
    parted[list(UPPER_LIP), 1] -= 0.007
    parted[list(LOWER_LIP), 1] += 0.007
    space.reading.zero_()
    found = lip_gap(copied_to(space, shape, face(parted))) - lip_gap(shape)
    assert float(found) == pytest.approx(SEEN_LESS * 0.014, rel=0.2)
    closing, _ = copied_change(space, face(parted), ExpressionModel(face(space.mean), True), 1.0)
    assert lip_gap((parted + closing)[:POINTS]) < lip_gap(space.mean)


def test_a_face_shows_its_own_expression_already(space: ExpressionSpace) -> None:
    one = face(space.mean + space.moving[SMILE])
    edit = edit_expression(space, None, one, None, 1.0, model=ExpressionModel(one, True))
    assert not edit.flow.any()
    assert not edit.painting.any()


def test_a_turned_head_is_no_expression(space: ExpressionSpace) -> None:
    """As far as the turn is known, from the depth of both."""
    shape = space.mean * SIZE
    depth = (shape[POINTS:] - shape[30]).square().sum(1) / 80
    turn = about(torch.tensor([0.0, 1.0, 0.0]), 0.5)
    points = torch.cat([shape, torch.cat([landmark_depth(shape, depth), depth])[:, None]], 1)
    seen = (points - points.mean(0)) @ turn.T + points.mean(0)
    one = EditableFace(ALIGNMENT, texture(), shape, depth)
    known = EditableFace(ALIGNMENT, texture(), seen[:, :2], seen[POINTS:, 2])
    unknown = EditableFace(ALIGNMENT, texture(), seen[:, :2])
    moved = [
        copied_change(space, one, ExpressionModel(other, True), 1.0)[0].norm()
        for other in (known, unknown)
    ]
    assert moved[0] < 0.4 * moved[1]


def test_motion_grows_with_strength(space: ExpressionSpace) -> None:
    one = face(space.mean)
    motion = [
        float(edit_expression(space, None, one, HAPPY, strength).flow.abs().mean())
        for strength in (0.25, 0.5, 1.0)
    ]
    assert motion[1] == pytest.approx(2 * motion[0], rel=0.1)
    assert motion[2] == pytest.approx(2 * motion[1], rel=0.1)


@pytest.mark.parametrize("degrees", [-40, 25])
def test_a_turned_face_makes_the_same_motion(space: ExpressionSpace, degrees: float) -> None:
    expected = landmarks_after(
        edit_expression(space, None, face(space.mean), SURPRISE, 1.0), space.mean
    )
    shape = turned(space.mean, degrees)
    found = landmarks_after(edit_expression(space, None, face(shape), SURPRISE, 1.0), shape)
    assert (expected - space.neutral).norm(dim=1).max() > 0.02
    assert (found - turned(expected, degrees)).norm(dim=1).max() < 0.006


@ANY
def test_photo_changes_only_around_the_face(
    space: ExpressionSpace, painter: UNet2DModel, emotion: int
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (330, 350, 3), dtype=np.uint8)
    shape = space.mean + 0.5 * space.moving[SMILE]
    edit = edit_expression(space, painter, face(shape), emotion, 1.0)
    before = photo.copy()
    result = apply_edit(photo, ALIGNMENT, edit, feather_mask(SIZE))
    np.testing.assert_array_equal(photo, before)
    changed = (result != photo).any(-1)
    assert changed[CROP].any()
    changed[AROUND] = False
    assert not changed.any()


def test_no_edit_keeps_every_bit() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (330, 350, 3), dtype=np.uint8)
    result = apply_edit(photo, ALIGNMENT, no_edit(SIZE), feather_mask(SIZE))
    np.testing.assert_array_equal(result, photo)


# --- shading ---


def darkening(space: ExpressionSpace, crop: Tensor, strength: float, degrees: float) -> Tensor:
    """Factor `[2s,2s]` that a smile multiplies the brightness of a plain picture with."""
    shape = turned(space.mean, degrees)
    edit = edit_expression(space, None, face(shape, crop), HAPPY, strength)
    return (to_grey(crop + edit.painting) / to_grey(crop))[0, 0]


@pytest.mark.parametrize("colour", [LIGHT_SKIN, DARK_SKIN], ids=["light", "dark"])
@pytest.mark.parametrize("degrees", [0, 30, -75])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_skin_darkens_where_the_map_says_and_in_proportion(
    space: ExpressionSpace, colour: tuple[float, float, float], degrees: float, strength: float
) -> None:
    factor = darkening(space, plain(colour), strength, degrees)
    asked = strength * float(space.emotions[HAPPY, SMILE]) * CHEEK_SHADING
    assert float(factor.min()) == pytest.approx(math.exp(asked / GAMMA), rel=0.03)
    darkest = int(factor.argmin())
    side = FINE * SIZE
    found = torch.tensor([darkest % side, darkest // side]) / side
    # The cheek goes along with the smile.
    assert (found - turned(torch.tensor([CHEEK]), degrees)[0]).norm() < 0.05
    far = turned(torch.tensor([[1 - CHEEK[0], CHEEK[1]]]), degrees)[0] * side
    assert factor[int(far[1]), int(far[0])] == pytest.approx(1, abs=0.01)


def test_shading_is_the_same_factor_for_light_and_dark_skin(space: ExpressionSpace) -> None:
    light, dark = (darkening(space, plain(c), 1.0, 0) for c in (LIGHT_SKIN, DARK_SKIN))
    torch.testing.assert_close(light, dark, atol=1e-4, rtol=0)


def test_a_fold_on_light_skin_is_redder_than_the_skin(space: ExpressionSpace) -> None:
    crop = plain(LIGHT_SKIN)
    edit = edit_expression(space, None, face(space.mean, crop), HAPPY, 1.0)
    factor = ((crop + edit.painting) / crop)[0].flatten(1)
    red, green, blue = factor[:, factor[1].argmin()].tolist()
    assert blue + 0.02 < green < red - 0.02


def test_shading_keeps_the_pores(space: ExpressionSpace) -> None:
    """It multiplies: what was lighter than its neighbour by a share still is by that share."""
    pores = plain(LIGHT_SKIN) * (1 + 0.1 * (torch.arange(FINE * SIZE) % 2))
    torch.testing.assert_close(pores[..., 1] / pores[..., 0], torch.full((1, 3, FINE * SIZE), 1.1))
    space.moving.zero_()
    space.moving[SMILE, 0, 1] = 1e-3  # the outline of the jaw, which stays
    shown = pores + edit_expression(space, None, face(space.mean, pores), HAPPY, 1.0).painting
    ratio = shown[..., 1::2] / shown[..., 0::2]
    assert (ratio - 1.1).abs().max() < 0.05
    assert (shown / pores).min() < 0.85


# --- action units ---


def test_action_units_move_their_landmarks_alone(space: ExpressionSpace) -> None:
    edit = edit_expression(space, None, face(space.mean), None, 1.0, {"brows_up": 1.0})
    moved = landmarks_after(edit, space.mean) - space.neutral
    assert (moved[17:27, 1] < -0.01).all()
    assert moved[48:68].norm(dim=1).max() < 0.002
    assert moved[:17].norm(dim=1).max() < 0.002


def test_action_units_are_added_to_the_emotion(space: ExpressionSpace) -> None:
    one = face(space.mean)
    smile, both = (
        landmarks_after(edit_expression(space, None, one, HAPPY, 1.0, units), space.mean)
        for units in (None, {"brows_up": 0.8})
    )
    assert (both[48:68] - smile[48:68]).norm(dim=1).max() < 0.002
    assert (both[17:27, 1] < smile[17:27, 1] - 0.005).all()


def test_one_sided_movements_shade_and_move_one_half(space: ExpressionSpace) -> None:
    """The made-up smile darkens one cheek of the image's left half."""
    one = face(space.mean, plain(LIGHT_SKIN))
    x, y = (round(FINE * SIZE * place) for place in CHEEK)
    dark = {}
    for amount in (1.0, -1.0):
        edit = edit_expression(space, None, one, None, 1.0, {"smirk": amount})
        moved = (landmarks_after(edit, space.mean) - space.neutral).norm(dim=1)
        corners = moved[[48, 54]] if amount > 0 else moved[[54, 48]]
        assert corners[0] > 0.01 > 5 * corners[1]
        dark[amount] = float(edit.painting[0, :, y, x].mean())
    assert dark[1.0] < -0.01 < 10 * dark[-1.0]


@pytest.mark.parametrize("units", [None, {}, {"smile": 0.0}])
def test_without_emotion_and_units_nothing_changes(
    space: ExpressionSpace, painter: UNet2DModel, units: dict | None
) -> None:
    edit = edit_expression(space, painter, face(space.mean), None, 1.0, units)
    assert not edit.flow.any()
    assert not edit.painting.any()


# --- one more deformation ---


def test_painting_is_deformed_along() -> None:
    """A flow of 5 crop px to the right shows what is 10 px of the finer painting away."""
    painting = smooth(torch.randn(1, 3, FINE * SIZE, FINE * SIZE), 2.0).clamp(-1, 1)
    flow = torch.zeros(1, 2, 2 * SIZE, 2 * SIZE)
    flow[:, 0] = 5
    moved = move_edit(ExpressionEdit(torch.zeros_like(flow), painting), flow)
    torch.testing.assert_close(moved.painting[..., :-20], painting[..., 10:-10], atol=2e-3, rtol=0)
    torch.testing.assert_close(moved.flow, flow)


def test_moving_an_edit_deforms_its_result(space: ExpressionSpace) -> None:
    photo = (255 * smooth(torch.rand(1, 3, 330, 350), 4.0)[0]).permute(1, 2, 0).byte().numpy()
    edit = edit_expression(space, None, face(space.mean), HAPPY, 1.0)
    flow = torch.zeros(1, 2, 2 * SIZE, 2 * SIZE)
    flow[:, 1] = 3
    flow *= feather_mask(2 * SIZE)
    full = torch.ones(1, 1, SIZE, SIZE)
    moved = apply_edit(photo, ALIGNMENT, move_edit(edit, flow), full).astype(int)
    twice = deform_photo(apply_edit(photo, ALIGNMENT, edit, full), ALIGNMENT, flow)
    inner = (slice(96, 90 + SIZE - 6), slice(106, 100 + SIZE - 6))
    assert np.abs(moved - photo)[inner].mean() > 2
    assert np.abs(moved - twice)[inner].mean() < 0.5


def test_crop_of_a_face_at_another_place_gets_the_same_edit(space: ExpressionSpace) -> None:
    """All of an edit is in the crop's own coordinates; `apply_affine` brings it to the photo."""
    photo = (255 * smooth(torch.rand(1, 3, 330, 350), 4.0)[0]).permute(1, 2, 0).byte().numpy()
    edit = edit_expression(space, None, face(space.mean), SURPRISE, 1.0)
    upside_down = torch.tensor([[-1.0, 0.0, 349.0], [0.0, -1.0, 329.0]])
    place = torch.cat(
        [upside_down[:, :2] @ PLACE[:, :2], apply_affine(upside_down, PLACE[None, :, 2]).T], 1
    )
    back = torch.tensor([[-1.0, 0.0, 249.0], [0.0, -1.0, 239.0]])
    torch.testing.assert_close(apply_affine(back, apply_affine(place, space.mean)), space.mean)
    mask = feather_mask(SIZE)
    upright = apply_edit(photo, ALIGNMENT, edit, mask).astype(int)
    other = apply_edit(photo[::-1, ::-1].copy(), Alignment(back, place, SIZE), edit, mask)
    assert (upright != photo).any()
    assert np.abs(other[::-1, ::-1] - upright).max() <= 1


def eyes_in(shape: Tensor) -> list[tuple[slice, slice]]:
    """Rows and columns of the pupils' surroundings in a fine crop, left and right."""
    boxes = []
    for eye in (range(36, 42), range(42, 48)):
        x, y = (shape[list(eye)].mean(0) * SIZE * FINE).int().tolist()
        boxes.append((slice(y - 4, y + 5), slice(x - 4, x + 5)))
    return boxes


def test_a_wink_hides_one_eye_and_leaves_the_other(space: ExpressionSpace) -> None:
    """Eyes are white here, and skin is not."""
    crop = plain(DARK_SKIN)
    eyes = eyes_in(space.mean)
    for rows, columns in eyes:
        crop[..., rows, columns] = 1.0
    one = face(space.mean, crop)
    photo = np.full((360, 360, 3), 90, np.uint8)
    photo = paste_residual(
        photo,
        crop - 90 / 255,
        fine_alignment(ALIGNMENT),
        torch.ones(1, 1, FINE * SIZE, FINE * SIZE),
    )
    for name, (hidden, seen) in (("wink_left", eyes), ("wink_right", eyes[::-1])):
        edit = edit_expression(space, None, one, None, 1.0, {name: 1.0})
        after = apply_edit(photo, ALIGNMENT, edit, feather_mask(SIZE))[CROP]
        shown = [
            after[tuple(slice(part.start // FINE, part.stop // FINE) for part in box)]
            for box in (hidden, seen)
        ]
        assert shown[0].max() < 130, "nothing white is left"
        assert shown[1].max() == 255


def test_a_wink_below_zero_covers_nothing(space: ExpressionSpace) -> None:
    edit = edit_expression(space, None, face(space.mean), None, 1.0, {"wink_left": -1.0})
    assert edit.covering is None
    after = landmarks_after(edit, space.mean)
    assert (after[[37, 38], 1] < space.mean[[37, 38], 1] - 0.003).all()
    torch.testing.assert_close(after[42:48], space.mean[42:48], atol=2e-3, rtol=0)


def test_eyes_that_another_photo_shows_shut_close(space: ExpressionSpace) -> None:
    shape = space.mean.clone()
    shape[[37, 38], 1] = shape[[41, 40], 1] - 0.003
    other, one = face(shape), face(space.mean)
    copy = lambda to, model: edit_expression(  # noqa: E731
        space, None, to, None, 1.0, model=ExpressionModel(model, True)
    )
    assert copy(one, other).covering[..., : FINE * SIZE // 2].any()
    assert not copy(one, other).covering[..., FINE * SIZE // 2 :].any()
    assert copy(other, one).covering is None
    again = edit_expression(space, None, other, None, 1.0, {"wink_left": 1.0})
    assert again.covering is None, "it's shut already"
