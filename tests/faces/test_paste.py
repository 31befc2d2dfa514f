"""Properties of the feathered paste: where it writes, how well, and its differentiable twin."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    Alignment,
    apply_affine,
    arcface_template,
    invert_affine,
    warp_affine,
)
from map_pipeline.faces.paste import (
    ON_EYES,
    ON_MOUTH,
    ON_NOSE,
    add_residual,
    feather_mask,
    paste_residual,
    quiet_features,
    quiet_mouth,
)

SIZE = 128
TEMPLATE = arcface_template(SIZE, raise_by=0.06)


def alignment_at(scale: float, degrees: float, shift: tuple[float, float]) -> Alignment:
    """A face whose template points lie at this place of the photo."""
    a = scale * math.cos(math.radians(degrees))
    b = scale * math.sin(math.radians(degrees))
    place = torch.tensor([[a, -b, shift[0]], [b, a, shift[1]]])
    return Alignment.from_landmarks(apply_affine(place, ARCFACE_TEMPLATE_112), TEMPLATE, SIZE)


def smooth_residual(amplitude: float = 0.3) -> Tensor:
    """[1,3,s,s] with waves of about 20 px."""
    axis = torch.linspace(0, 2 * math.pi * 6, SIZE)
    wave = torch.sin(axis)[:, None] * torch.cos(axis)[None, :]
    return amplitude * torch.stack([wave, -wave, wave.T])[None]


def random_photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_tensor(photo: np.ndarray) -> Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [64, 128, 255])
def test_mask_is_zero_at_the_border_full_inside_and_smooth(size: int) -> None:
    mask = feather_mask(size)
    assert mask.shape == (1, 1, size, size)
    edge = torch.cat([mask[..., 0, :], mask[..., -1, :], mask[..., :, 0], mask[..., :, -1]])
    assert edge.abs().max() == 0
    assert mask[..., size // 4 : -size // 4, size // 4 : -size // 4].min() == 1
    assert mask.diff(dim=-1).abs().max() < 16 / size
    torch.testing.assert_close(mask, mask.transpose(-1, -2))
    torch.testing.assert_close(mask, mask.flip(-1))


@pytest.mark.parametrize("scale", [0.3, 1.1, 6.0])
def test_zero_residual_changes_nothing(scale: float) -> None:
    photo = random_photo(300, 400)
    alignment = alignment_at(scale, 20.0, (50.0, 30.0))
    pasted = paste_residual(photo, torch.zeros(1, 3, SIZE, SIZE), alignment, feather_mask(SIZE))
    assert pasted is not photo
    assert np.array_equal(pasted, photo)


@pytest.mark.parametrize(
    ("scale", "degrees", "shift"),
    [
        (0.4, 0.0, (60.0, 40.0)),
        (1.5, 30.0, (150.0, 60.0)),
        (3.0, -45.0, (40.0, 300.0)),
        (2.0, 0.0, (-90.0, 200.0)),  # half outside the photo
    ],
)
def test_only_pixels_of_the_crop_change(
    scale: float, degrees: float, shift: tuple[float, float]
) -> None:
    photo = random_photo(400, 500)
    before = photo.copy()
    alignment = alignment_at(scale, degrees, shift)
    ones = torch.full((1, 3, SIZE, SIZE), -0.5)
    pasted = paste_residual(photo, ones, alignment, feather_mask(SIZE))
    ys, xs = np.mgrid[:400, :500]
    points = torch.tensor(np.stack([xs, ys], -1).reshape(-1, 2), dtype=torch.float32)
    in_crop = apply_affine(alignment.image_to_crop, points).numpy().reshape(400, 500, 2)
    outside = ((in_crop < 0) | (in_crop > SIZE - 1)).any(-1)
    assert np.array_equal(photo, before)
    assert np.array_equal(pasted[outside], photo[outside])
    assert not np.array_equal(pasted[~outside], photo[~outside])


def test_face_outside_the_photo_changes_nothing() -> None:
    photo = random_photo(100, 100)
    alignment = alignment_at(1.0, 0.0, (500.0, 500.0))
    residual = torch.ones(1, 3, SIZE, SIZE)
    pasted = paste_residual(photo, residual, alignment, feather_mask(SIZE))
    assert np.array_equal(pasted, photo)


@pytest.mark.parametrize("scale", [1.2, 4.0])
def test_cropping_the_pasted_photo_gives_the_changed_crop(scale: float) -> None:
    photo = np.full((700, 700, 3), 128, np.uint8)
    alignment = alignment_at(scale, 25.0, (250.0, 60.0))
    residual, mask = smooth_residual(), feather_mask(SIZE)
    pasted = paste_residual(photo, residual, alignment, mask)
    crop = warp_affine(as_tensor(pasted), alignment.crop_to_image[None], (SIZE, SIZE), "border")
    expected = 128 / 255 + residual * mask
    assert (crop - expected).abs().mean() < 2 / 255
    assert (crop - expected).abs().max() < 8 / 255


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("scale", [0.35, 0.9, 2.5])
def test_both_pastes_agree(scale: float, degrees: float) -> None:
    photo = random_photo(320, 330)
    alignment = alignment_at(scale, degrees, (110.0, 40.0))
    residual, mask = smooth_residual(), feather_mask(SIZE)
    pasted = as_tensor(paste_residual(photo, residual, alignment, mask))
    twin = add_residual(as_tensor(photo), residual, alignment.image_to_crop[None], mask)
    assert (pasted - twin).abs().max() <= 1 / 255
    assert (pasted - as_tensor(photo)).abs().max() > 0.1


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = random_photo(300, 300)
    alignment = alignment_at(2.0, 10.0, (40.0, 10.0))
    residual, mask = smooth_residual(), feather_mask(SIZE)
    whole = paste_residual(photo, residual, alignment, mask)
    monkeypatch.setattr("map_pipeline.faces.paste.STRIP_PIXELS", 7000)
    strips = paste_residual(photo, residual, alignment, mask)
    # float32 positions differ in the last digit, which may tip the rounding of a few pixels
    assert np.abs(whole.astype(int) - strips).max() <= 1
    assert (whole != strips).mean() < 1e-3


def test_small_faces_get_no_aliases() -> None:
    """Detail finer than the photo's pixels must average out instead of turning into dots."""
    photo = np.full((200, 200, 3), 128, np.uint8)
    board = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)[None]) % 2
    residual = (board.float() - 0.5).expand(1, 3, SIZE, SIZE)
    alignment = alignment_at(0.37, 0.0, (80.0, 80.0))
    pasted = paste_residual(photo, residual, alignment, feather_mask(SIZE))
    assert np.abs(pasted.astype(int) - 128).max() <= 6


def test_gradients_reach_region_and_residual() -> None:
    alignment = alignment_at(0.7, 15.0, (60.0, 20.0))
    region = torch.full((2, 3, 150, 160), 0.5, requires_grad=True)
    residual = torch.zeros(2, 3, SIZE, SIZE, requires_grad=True)
    to_crop = alignment.image_to_crop.expand(2, 2, 3)
    changed = add_residual(region, residual, to_crop, feather_mask(SIZE))
    assert changed.shape == region.shape
    changed.square().sum().backward()
    for gradient in (region.grad, residual.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    assert residual.grad[..., 0, :].abs().max() == 0


def test_twin_clamps() -> None:
    region = torch.ones(1, 3, 80, 80)
    to_crop = invert_affine(torch.eye(2, 3))[None]
    for sign, limit in ((1, 1.0), (-2, 0.0)):
        residual = torch.full((1, 3, 80, 80), float(sign))
        changed = add_residual(region, residual, to_crop, feather_mask(80))
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert (changed[..., 30:50, 30:50] == limit).all()


@pytest.mark.parametrize(
    "residual",
    [torch.zeros(1, 3, 64, 64), torch.zeros(3, SIZE, SIZE), torch.full((1, 3, SIZE, SIZE), np.nan)],
)
def test_unusable_residuals_are_refused(residual: Tensor) -> None:
    with pytest.raises(ValueError, match="`residual` must be finite and of shape"):
        paste_residual(
            random_photo(50, 50), residual, alignment_at(0.4, 0, (0, 0)), feather_mask(SIZE)
        )


@pytest.mark.slow
def test_fifty_megapixels() -> None:
    """A face that fills a very large photo is pasted strip by strip."""
    photo = np.full((6000, 8300, 3), 100, np.uint8)
    alignment = alignment_at(50.0, 0.0, (1200.0, 200.0))
    residual = torch.full((1, 3, SIZE, SIZE), 0.1)
    pasted = paste_residual(photo, residual, alignment, feather_mask(SIZE))
    assert tuple(pasted[3000, 4000]) == (126, 126, 126)  # 100 + 25.5, rounded to even
    assert np.array_equal(pasted[:, :1000], photo[:, :1000])


@pytest.mark.parametrize("turn", [False, True])
def test_features_keep_little_of_a_residual(turn: bool) -> None:
    points = ARCFACE_TEMPLATE_112.clone()
    if turn:
        points = torch.stack([111 - points[:, 1], points[:, 0]], 1)
    kept = quiet_features(points[None], 112)
    assert kept.shape == (1, 1, 112, 112)
    at = lambda point: float(kept[0, 0, round(float(point[1])), round(float(point[0]))])  # noqa: E731
    left, right, tip = points[:3]
    middle = (left + right) / 2
    brows = torch.lerp(middle, tip, -0.5)
    assert at(tip) == at((tip + middle) / 2) == at(brows) == pytest.approx(ON_NOSE)
    unit = right - left
    assert at(left - 0.3 * unit) == at(right + 0.3 * unit) == pytest.approx(ON_EYES)
    assert ON_NOSE < min(at(left), at(right)) <= ON_EYES
    # Wings painted beside the nose would widen it.
    assert max(at(tip - 0.5 * unit), at(tip + 0.5 * unit)) < ON_NOSE + 0.1
    assert min(at(tip - unit), at(tip + unit)) > 0.8
    for share in (0.0, 0.5, 1.0):
        assert at(torch.lerp(points[3], points[4], share)) <= ON_MOUTH + 1e-6
    outwards = points[4] - points[3]
    assert min(at(points[3] - 0.5 * outwards), at(points[4] + 0.5 * outwards)) > 0.8
    beyond = torch.stack([points[4] + share * outwards for share in (0.0, 0.1, 0.4, 4.0)])
    near = quiet_mouth(points[None], beyond)[0]
    assert (near.diff() >= 0).all()
    assert near[-1] == 1
