import pytest
import torch
import torch.nn.functional as F

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.shading import in_own_colour

TAN, PALE = (0.5, 0.35, 0.27), (0.85, 0.68, 0.6)


def picture(*, colours: int = 3) -> torch.Tensor:
    """A smooth bright one, `[2,3,32,32]`."""
    coarse = torch.rand(2, colours, 3, 3).expand(2, 3, 3, 3) * 0.5 + 0.3
    return F.interpolate(coarse, (32, 32), mode="bilinear")


def flat(colour: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 32, 32)


def saturation(colour: torch.Tensor) -> torch.Tensor:
    return 1 - colour.amin(1) / colour.amax(1)


def test_the_brightness_is_that_of_the_change() -> None:
    change = torch.randn(2, 3, 32, 32) * 0.1
    torch.testing.assert_close(to_grey(in_own_colour(change, picture())), to_grey(change))


def test_a_grey_photo_stays_grey() -> None:
    change = torch.randn(2, 3, 32, 32) * 0.1
    found = in_own_colour(change, picture(colours=1))
    torch.testing.assert_close(found, to_grey(change).expand_as(found))


def test_the_darker_half_of_a_toned_photo_keeps_its_tone() -> None:
    """As a sepia print: the ratio of red, green and blue stays what it was."""
    tone, change = flat((1.0, 0.9, 0.7)), flat((0.1,) * 3)
    source = 0.25 * tone
    plain, own = ((source + one) / tone for one in (change, in_own_colour(change, source)))
    off = [float((one.amax(1) - one.amin(1)).max()) for one in (plain, own)]
    assert off[1] < 0.2 * off[0]


def test_dark_pixels_get_no_more_than_the_change() -> None:
    source = torch.zeros(1, 3, 32, 32)
    source[:, 2, 8] = 0.004  # a noisy blue pixel or two in the dark
    change = torch.full((1, 3, 32, 32), 0.1)
    assert in_own_colour(change, source).abs().max() < 0.12


@pytest.mark.parametrize("skin", [PALE, TAN])
def test_shadows_on_skin_are_no_greyer(skin: tuple[float, ...]) -> None:
    source = flat(skin)
    shade, light = (source + in_own_colour(flat((c,) * 3), source) for c in (-0.15, 0.05))
    assert (saturation(shade) >= saturation(source) - 1e-6).all()
    assert (saturation(light) <= saturation(source) + 1e-6).all()


def test_pale_skin_reddens_more_in_the_shade() -> None:
    """The largest differences of a channel's logarithm from that of the brightness."""
    found = []
    for skin in (PALE, TAN):
        source = flat(skin)
        shade = source + in_own_colour(flat((-0.03,) * 3), source)
        apart = (shade / source).log() / (to_grey(shade) / to_grey(source)).log()
        found.append(float((apart - 1).abs().max()))
    pale, tan = found
    assert 0 < tan < pale - 0.1
