import pytest
import torch
import torch.nn.functional as F

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.identity.tone import in_own_colour


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
    assert in_own_colour(change, source).abs().max() < 0.1
