"""Properties of the alignment algebra, the differentiable warp and the face region."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    DLIB_TEMPLATE_150,
    Alignment,
    affine_scale,
    apply_affine,
    arcface_template,
    compose_affine,
    extract_region,
    invert_affine,
    similarity_transform,
    warp_affine,
)


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> Tensor:
    a = scale * math.cos(math.radians(degrees))
    b = scale * math.sin(math.radians(degrees))
    return torch.tensor([[a, -b, shift[0]], [b, a, shift[1]]])


def smooth_image(height: int, width: int) -> Tensor:
    """A photo without detail finer than a few pixels: [1,3,H,W] in [0,1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.mark.parametrize(
    ("scale", "degrees", "shift"),
    [(1.0, 0.0, (0.0, 0.0)), (0.2, 30.0, (50.0, -9.0)), (13.0, -170.0, (1e3, 2e3))],
)
def test_similarity_recovers_known_transforms(
    scale: float, degrees: float, shift: tuple[float, float]
) -> None:
    known = similarity(scale, degrees, shift)
    source = torch.stack([ARCFACE_TEMPLATE_112, ARCFACE_TEMPLATE_112.flip(0)])
    found = similarity_transform(source, apply_affine(known, source))
    assert found.shape == (2, 2, 3)
    torch.testing.assert_close(found, known.expand(2, 2, 3), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(affine_scale(found), torch.full((2,), scale), rtol=1e-4, atol=1e-5)


def test_similarity_is_the_least_squares_optimum() -> None:
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(1, 5, 2, generator=generator) * 30
    target = torch.randn(5, 2, generator=generator) * 30
    best = similarity_transform(source, target)

    def error(affine: Tensor) -> float:
        return (apply_affine(affine, source) - target).square().sum().item()

    for _ in range(50):
        change = torch.randn(4, generator=generator) * torch.tensor([0.05, 0.05, 1.0, 1.0])
        a, b, x, y = change.tolist()
        other = best + torch.tensor([[a, -b, x], [b, a, y]])
        assert error(best) <= error(other)


def test_similarity_never_reflects() -> None:
    mirrored = ARCFACE_TEMPLATE_112 * torch.tensor([-1.0, 1.0])
    found = similarity_transform(mirrored, ARCFACE_TEMPLATE_112)
    assert torch.linalg.det(found[:, :2]) > 0


def test_invert_and_compose() -> None:
    first = torch.stack([similarity(2.0, 25.0, (3.0, 4.0)), similarity(0.3, -80.0, (-7.0, 1.0))])
    second = torch.tensor([[1.5, 0.2, -3.0], [0.1, 0.7, 9.0]]).expand(2, 2, 3)
    points = torch.rand(2, 6, 2) * 100
    both = apply_affine(compose_affine(first, second), points)
    torch.testing.assert_close(both, apply_affine(second, apply_affine(first, points)))
    back = apply_affine(invert_affine(first), apply_affine(first, points))
    torch.testing.assert_close(back, points, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_identity_warp_changes_nothing(padding_mode: str) -> None:
    images = torch.rand(2, 3, 9, 13)
    identity = torch.eye(2, 3).expand(2, 2, 3)
    torch.testing.assert_close(warp_affine(images, identity, (9, 13), padding_mode), images)


def test_integer_shift_moves_whole_pixels() -> None:
    images = torch.rand(1, 1, 6, 8)
    shift = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]])
    warped = warp_affine(images, shift, (5, 6))
    torch.testing.assert_close(warped, images[..., 1:6, 2:8])
    beyond = warp_affine(images, shift, (6, 8))
    assert beyond[..., 5, :].abs().max() < 1e-4
    assert beyond[..., :, 6:].abs().max() < 1e-4


def test_warp_samples_where_the_affine_points() -> None:
    """A ramp image holds its own coordinates, so the warp's output can be read off."""
    ys, xs = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    ramp = torch.stack([xs, ys])[None]
    output_to_input = similarity(0.4, 20.0, (12.0, 9.0))[None]
    warped = warp_affine(ramp, output_to_input, (30, 20))[0]
    points = torch.tensor([[0.0, 0.0], [19.0, 29.0], [7.0, 3.0]])
    read = torch.stack([warped[:, int(y), int(x)] for x, y in points])
    torch.testing.assert_close(read, apply_affine(output_to_input[0], points), rtol=1e-4, atol=1e-3)


def test_bfloat16_images_are_sampled_at_float32_positions() -> None:
    images = smooth_image(400, 400)
    output_to_input = similarity(1.0, 5.0, (150.3, 120.7))[None]
    exact = warp_affine(images, output_to_input, (64, 64))
    half = warp_affine(images.bfloat16(), output_to_input.bfloat16().float(), (64, 64))
    assert half.dtype == torch.bfloat16
    same = warp_affine(images, output_to_input.bfloat16().float(), (64, 64))
    assert (half.float() - same).abs().max() < 0.01
    assert exact.dtype == torch.float32


def test_gradients_reach_image_and_landmarks() -> None:
    images = smooth_image(80, 80).requires_grad_()
    landmarks = (ARCFACE_TEMPLATE_112 * 0.6 + 3)[None].requires_grad_()
    to_crop = similarity_transform(landmarks, ARCFACE_TEMPLATE_112)
    warp_affine(images, invert_affine(to_crop), (112, 112)).square().sum().backward()
    for gradient in (images.grad, landmarks.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("degrees", [0.0, 30.0, -45.0])
def test_alignment_puts_landmarks_on_the_template(degrees: float) -> None:
    landmarks = apply_affine(similarity(1.7, degrees, (200.0, 90.0)), ARCFACE_TEMPLATE_112)
    alignment = Alignment.from_landmarks(landmarks, arcface_template(128, raise_by=0.06), 128)
    in_crop = apply_affine(alignment.image_to_crop, landmarks)
    torch.testing.assert_close(in_crop, arcface_template(128, 0.06), rtol=1e-4, atol=1e-2)
    back = apply_affine(alignment.crop_to_image, in_crop)
    torch.testing.assert_close(back, landmarks, rtol=1e-4, atol=1e-2)
    assert alignment.size == 128


def test_raised_template_matches_its_definition() -> None:
    eyes, mouth = arcface_template(128, 0.06)[:2, 1] / 128, arcface_template(128, 0.06)[3:, 1] / 128
    torch.testing.assert_close(eyes.mean(), torch.tensor(0.40), rtol=0, atol=0.005)
    torch.testing.assert_close(mouth.mean(), torch.tensor(0.764), rtol=0, atol=0.005)


def test_region_mapping_is_pixel_centre_correct() -> None:
    """Resizing a ramp keeps every region pixel's value equal to its photo coordinate."""
    ys, xs = torch.meshgrid(torch.arange(900.0), torch.arange(1000.0), indexing="ij")
    photo = torch.stack([xs, ys, xs])[None]
    landmarks = apply_affine(similarity(4.0, 10.0, (300.0, 200.0)), ARCFACE_TEMPLATE_112)
    region = extract_region(photo, landmarks, max_face_px=72)
    assert max(region.scale) < 1
    points = torch.tensor([[40.0, 50.0], [150.0, 33.0], [100.0, 210.0]])
    read = torch.stack([region.image[0, :2, int(v), int(u)] for u, v in points])
    torch.testing.assert_close(
        apply_affine(region.region_to_photo, points), read, atol=0.02, rtol=0
    )
    u = (landmarks[:, 0] - region.box[0] + 0.5) * region.scale[0] - 0.5
    torch.testing.assert_close(region.landmarks[:, 0], u, atol=1e-3, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0])
@pytest.mark.parametrize(
    ("template", "size"),
    [(ARCFACE_TEMPLATE_112, 112), (DLIB_TEMPLATE_150, 150), (arcface_template(128, 0.06), 128)],
)
def test_region_holds_every_crop(degrees: float, template: Tensor, size: int) -> None:
    landmarks = apply_affine(similarity(3.0, degrees, (600.0, 400.0)), ARCFACE_TEMPLATE_112)
    region = extract_region(torch.zeros(1, 3, 1500, 1500), landmarks)
    alignment = Alignment.from_landmarks(region.landmarks, template, size)
    side = size - 1.0
    corners = torch.tensor([[0.0, 0.0], [side, 0.0], [0.0, side], [side, side]])
    corners = apply_affine(alignment.crop_to_image, corners)
    height, width = region.image.shape[-2:]
    assert corners.min() >= 0
    assert corners[:, 0].max() <= width - 1
    assert corners[:, 1].max() <= height - 1


def test_region_is_never_enlarged_and_is_clipped() -> None:
    photo = torch.rand(1, 3, 70, 80)
    landmarks = ARCFACE_TEMPLATE_112 * 0.5 - 5
    region = extract_region(photo, landmarks)
    assert region.scale == (1.0, 1.0)
    x0, y0, x1, y1 = region.box
    assert (x0, y0) == (0, 0)
    torch.testing.assert_close(region.image, photo[..., y0:y1, x0:x1])


def test_region_limits_eye_distance_and_aliasing() -> None:
    """A one-pixel checkerboard must become flat grey, not a moire pattern."""
    index = torch.arange(1200)
    board = ((index[:, None] + index[None]) % 2).float().expand(1, 3, 1200, 1200)
    landmarks = apply_affine(similarity(7.0, 0.0, (150.0, 150.0)), ARCFACE_TEMPLATE_112)
    region = extract_region(board, landmarks, max_face_px=60)
    eye_distance = (region.landmarks[1] - region.landmarks[0]).norm()
    assert 59 < eye_distance < 61
    assert (region.image[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.05


def test_region_passes_gradients_to_the_photo() -> None:
    photo = smooth_image(400, 400).requires_grad_()
    landmarks = apply_affine(similarity(3.0, 0.0, (20.0, 20.0)), ARCFACE_TEMPLATE_112)
    extract_region(photo, landmarks).image.sum().backward()
    assert photo.grad.abs().max() > 0
