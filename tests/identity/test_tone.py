import pytest
import torch
import torch.nn.functional as F

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.identity.tone import (
    MOST_BROAD,
    MOST_FINE,
    MOST_HIDDEN,
    in_own_colour,
    visible,
    within_contrast,
)


def picture(*, colours: int = 3) -> torch.Tensor:
    """A smooth bright one, `[2,3,32,32]`."""
    coarse = torch.rand(2, colours, 3, 3).expand(2, 3, 3, 3) * 0.5 + 0.3
    return F.interpolate(coarse, (32, 32), mode="bilinear")


def test_the_brightness_is_that_of_the_change() -> None:
    change = torch.randn(2, 3, 32, 32) * 0.1
    torch.testing.assert_close(to_grey(in_own_colour(change, picture())), to_grey(change))


def test_a_grey_photo_stays_grey() -> None:
    change = torch.randn(2, 3, 32, 32) * 0.1
    found = in_own_colour(change, picture(colours=1))
    torch.testing.assert_close(found, to_grey(change).expand_as(found))


@pytest.mark.parametrize("tint", [(1.0, 0.95, 0.85), (0.9, 0.6, 0.4)])
def test_a_toned_photo_keeps_its_tone(tint: tuple[float, ...]) -> None:
    """As a sepia print, or skin: the ratio of red, green and blue stays what it was."""
    colour = torch.tensor(tint).view(1, 3, 1, 1)
    source = picture(colours=1) * colour
    found = source + in_own_colour(torch.randn(2, 3, 32, 32) * 0.02, source)
    torch.testing.assert_close(found / colour, (found / colour)[:, :1].expand_as(found))


def test_dark_pixels_get_no_more_than_the_change() -> None:
    source = torch.zeros(1, 3, 32, 32)
    source[:, 2, 8] = 0.004  # a noisy blue pixel or two in the dark
    change = torch.full((1, 3, 32, 32), 0.1)
    assert in_own_colour(change, source).abs().max() < 0.12


def test_a_shadow_gets_the_colour_of_the_faces_own_shadows() -> None:
    """Skin that is pale in the light and red in the shade."""
    luma = torch.linspace(0.3, 0.9, 32).expand(1, 1, 32, 32)
    redness = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1) * (0.9 - luma) * 0.5
    source = luma + redness - to_grey(redness)
    shaded = source + in_own_colour(torch.full((1, 3, 32, 32), -0.2), source)
    lit, shade = shaded[0, :, 16, 24], source[0, :, 16, 24 - 11]  # .2 darker than column 24
    assert lit[0] - lit[1] == pytest.approx(float(shade[0] - shade[1]), abs=0.04)


@pytest.mark.parametrize("size", [0.3, -0.3])
def test_a_line_on_smooth_skin_is_faint(size: float) -> None:
    change = torch.zeros(1, 3, 128, 128)
    change[..., 64:66] = size
    smooth_skin = torch.full((1, 3, 128, 128), 0.6)
    assert within_contrast(change, smooth_skin).abs().max() < MOST_FINE + 0.95 * MOST_BROAD
    textured = smooth_skin + 0.2 * torch.rand(1, 1, 128, 128)
    hidden = within_contrast(change, textured).abs().max()
    assert MOST_FINE + 0.01 < hidden < MOST_HIDDEN + 0.95 * MOST_BROAD


def test_lines_are_seen_on_smooth_skin_and_hidden_in_hair() -> None:
    face = torch.full((1, 3, 64, 64), 0.6)
    face[..., 32:] += 0.3 * torch.rand(1, 1, 64, 32) - 0.15
    seen = visible(face)
    assert seen.shape == (1, 1, 64, 64)
    assert seen[..., :24].min() > 0.95
    assert 0 < seen[..., 40:].max() < 0.5


def test_broad_light_is_limited_and_small_changes_stay() -> None:
    source = torch.rand(1, 3, 64, 64)
    assert within_contrast(torch.full((1, 3, 64, 64), 0.9), source).abs().max() <= MOST_BROAD
    little = torch.full((1, 3, 64, 64), 0.01)
    torch.testing.assert_close(within_contrast(little, source), little, rtol=0.03, atol=0)
