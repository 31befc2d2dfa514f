"""What is painted between parted lips, and where."""

import math

import pytest
import torch
from diffusers import UNet2DModel
from made_up_space import OPEN, tiny_space
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import polygon_mask
from map_pipeline.expression.mouth import (
    CORNERS,
    HEIGHT,
    INNER_MOUTH,
    MIDDLE,
    MOUTH_WIDTH,
    SOFT_EDGE,
    WIDTH,
    fill,
    in_tone,
    paint_mouth,
    patch_affine,
    shows_teeth,
)
from map_pipeline.faces.align import affine_scale, apply_affine, invert_affine

SIDE = 200


def open_mouth(degrees: float = 0.0) -> Tensor:
    """Landmarks `[68,2]` px of a picture, of a face that is turned about its middle."""
    space = tiny_space()
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shape = space.neutral + 2 * space.moving[OPEN, :POINTS]
    return ((shape - 0.5) @ turn.T + 0.5) * SIDE


def mouth_of(lips: tuple[float, ...], between: tuple[float, ...], mouth: Tensor) -> Tensor:
    """A picture `[1,3,S,S]` of lips, and of what lies between them."""
    inside = polygon_mask(mouth[INNER_MOUTH], SIDE)
    colours = (torch.tensor(one).view(1, 3, 1, 1) for one in (lips, between))
    lip, inner = colours
    return lip * (1 - inside) + inner * inside


PINK, DARK_LIPS, TEETH, HIGHLIGHT = (0.7, 0.4, 0.4), (0.2, 0.13, 0.12), (0.8, 0.75, 0.68), 0.15


@pytest.mark.parametrize("degrees", [0, 35])
@pytest.mark.parametrize("lips", [PINK, DARK_LIPS])
def test_teeth_are_told_from_lips_and_from_the_dark(
    lips: tuple[float, ...], degrees: float
) -> None:
    mouth = open_mouth(degrees)
    glossy = tuple(channel + HIGHLIGHT * channel for channel in lips)
    assert shows_teeth(mouth_of(lips, TEETH, mouth), mouth)
    for between in (lips, glossy, (0.05, 0.03, 0.03)):
        assert not shows_teeth(mouth_of(lips, between, mouth), mouth)
    assert not shows_teeth(torch.zeros(1, 3, SIDE, SIDE), mouth)


@pytest.mark.parametrize("degrees", [0, 35, -80, 180])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_corners_of_the_mouth_are_level_and_always_as_far_apart(
    degrees: float, scale: float
) -> None:
    mouth = open_mouth(degrees) * scale
    corners, middle = mouth[list(CORNERS)], mouth[list(MIDDLE)]
    to_patch = invert_affine(patch_affine(corners, middle))
    left, right = apply_affine(to_patch, corners)
    torch.testing.assert_close(right - left, torch.tensor([MOUTH_WIDTH, 0.0]), atol=1e-3, rtol=0)
    centre = apply_affine(to_patch, torch.cat([corners, middle])).mean(0)
    wanted = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    torch.testing.assert_close(centre, wanted, atol=1e-3, rtol=0)
    upper, lower = apply_affine(to_patch, middle)
    assert upper[1] < lower[1], "the upper lip is above"


def test_mouth_fills_what_the_mask_says_and_nothing_else(painter: UNet2DModel) -> None:
    picture = 2 * torch.rand(2, 3, HEIGHT, WIDTH) - 1
    mask = torch.zeros(2, 1, HEIGHT, WIDTH)
    mask[..., 20:30, 20:50] = 1
    filled = fill(painter, picture, mask, steps=3)
    outside = (mask == 0).expand_as(picture)
    assert torch.equal(filled[outside], picture[outside])
    assert filled.abs().max() <= 1
    assert (filled - picture)[~outside].abs().mean() > 0.1


def test_what_was_between_the_lips_is_not_seen(painter: UNet2DModel) -> None:
    """Else a painting would depend on what a warp makes of closed lips."""
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    mask[..., 20:30, 20:50] = 1
    picture = 2 * torch.rand(1, 3, HEIGHT, WIDTH) - 1
    other = torch.where(mask == 1, -picture, picture)
    inside = (mask == 1).expand_as(picture)
    first, second = (fill(painter, one, mask, steps=3)[inside] for one in (picture, other))
    assert torch.equal(first, second)
    brighter = fill(painter, (picture + 0.5).clamp(max=1), mask, steps=3)[inside]
    assert not torch.equal(first, brighter), "but the lips are"


@pytest.mark.parametrize("degrees", [0, 35, 180])
def test_picture_changes_only_between_the_lips(painter: UNet2DModel, degrees: float) -> None:
    mouth = open_mouth(degrees)
    picture = torch.rand(1, 3, SIDE, SIDE) / 2 + 0.25
    painted = paint_mouth(painter, picture, mouth, 1.0)
    change = (painted - picture).abs().amax((0, 1))
    inside = polygon_mask(mouth[INNER_MOUTH], SIDE)[0, 0]
    assert change[inside == 1].mean() > 0.1
    # The soft edge, and a pixel each of the patch for its mask and for interpolation.
    pixel = float(affine_scale(patch_affine(mouth[list(CORNERS)], mouth[list(MIDDLE)])))
    edge = math.ceil((3 * SOFT_EDGE + 3) * pixel)
    near = torch.nn.functional.max_pool2d(inside[None, None], 2 * edge + 1, 1, edge)[0, 0] > 0
    assert not change[~near].any()
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_painting_is_deterministic(painter: UNet2DModel) -> None:
    picture = torch.rand(1, 3, SIDE, SIDE)
    torch.manual_seed(1)
    first = paint_mouth(painter, picture, open_mouth(), 1.0)
    torch.manual_seed(2)
    assert torch.equal(paint_mouth(painter, picture, open_mouth(), 1.0), first)


def test_opacity_is_a_share_of_the_change(painter: UNet2DModel) -> None:
    picture = 0.45 + 0.1 * torch.rand(1, 3, SIDE, SIDE)  # not grey, see `in_tone`
    none, half, full = (
        paint_mouth(painter, picture, open_mouth(), opacity) - picture for opacity in (0, 0.5, 1)
    )
    assert not none.any()
    assert full.abs().max() > 0.1
    free = (full.abs() < 0.4) & (half.abs() < 0.4)  # not at the limits of brightness
    torch.testing.assert_close(half[free], full[free] / 2, atol=1e-4, rtol=0)


def test_closed_lips_leave_nothing_to_paint(painter: UNet2DModel) -> None:
    closed = open_mouth()
    closed[INNER_MOUTH, 1] = closed[INNER_MOUTH, 1].mean()
    picture = torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(paint_mouth(painter, picture, closed, 1.0), picture)


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.08, 0.98, 0.85)], ids=["grey", "sepia"])
def test_a_photo_without_colours_gets_none(tint: tuple[float, ...]) -> None:
    grey = 0.2 + 0.5 * torch.rand(1, 1, 24, 32)
    photo = grey * torch.tensor(tint).view(1, 3, 1, 1)
    painted = photo.clone()
    painted[..., 8:16, 8:16] = torch.tensor([0.5, 0.6, 0.8]).view(1, 3, 1, 1)
    result = in_tone(painted, photo)
    expected = photo / to_grey(photo) * to_grey(painted)
    torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)


def test_a_photo_in_colour_keeps_what_is_painted() -> None:
    photo = torch.rand(1, 3, 24, 32)
    painted = photo.flip(-1)
    assert in_tone(painted, photo) is painted
