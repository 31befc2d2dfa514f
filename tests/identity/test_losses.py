import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor

from map_pipeline.identity import losses


def unit(*rows: list[float]) -> Tensor:
    return F.normalize(torch.tensor(rows))


def images(batch: int = 2, size: int = 24) -> Tensor:
    return torch.rand(batch, 3, size, size)


def test_impersonation_is_the_shortfall_of_the_cosine() -> None:
    embedding = unit([1.0, 0.0], [1.0, 1.0], [-1.0, 0.0])
    target = unit([1.0, 0.0])[0]
    value = losses.impersonation_loss(embedding, target, 1.0)
    torch.testing.assert_close(value, torch.tensor([0.0, 1 - math.sqrt(0.5), 2.0]))
    reached = losses.impersonation_loss(embedding, target, 0.5)
    torch.testing.assert_close(reached, torch.tensor([0.0, 0.0, 1.5]))


def test_dodging_is_the_excess_of_the_cosine() -> None:
    embedding = unit([1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0])
    source = unit([1.0, 0.0])
    value = losses.dodging_loss(embedding, source, 0.25)
    torch.testing.assert_close(value, torch.tensor([0.75, math.sqrt(0.5) - 0.25, 0.0, 0.0]))


def test_expression_is_cross_entropy() -> None:
    even = losses.expression_loss(torch.zeros(2, 7), 3)
    torch.testing.assert_close(even, torch.full((2,), math.log(7)))
    logits = torch.randn(4, 7)
    expected = -logits.softmax(-1)[:, 5].log()
    torch.testing.assert_close(losses.expression_loss(logits, 5), expected)


def test_smoothness_of_one_pixel() -> None:
    change = torch.zeros(1, 3, 8, 8)
    change[0, 1, 4, 4] = 0.5
    # |-4| in the middle and 1 at each of four neighbours, over all values of the picture; a
    # quarter of that at half the size, and a quarter again at a quarter, on a corner of 2 x 2 px.
    fine, half, quarter = 8 * 0.5 / (3 * 64), 8 * 0.125 / (3 * 16), 6 * 0.03125 / (3 * 4)
    expected = torch.tensor([fine + half + quarter])
    torch.testing.assert_close(losses.smoothness_loss(change), expected)


def test_what_is_hidden_counts_less() -> None:
    change = torch.rand(1, 3, 32, 32)
    everywhere, seen = losses.smoothness_loss(change), torch.ones(1, 1, 32, 32)
    torch.testing.assert_close(losses.smoothness_loss(change, seen), everywhere)
    torch.testing.assert_close(losses.smoothness_loss(change, seen / 4), everywhere / 4)
    seen[..., 16:] = 0
    assert losses.smoothness_loss(change, seen) < 0.6 * everywhere


def test_smoothness_is_zero_inside_a_ramp() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    inside = F.pad(torch.ones(1, 1, 16, 16), [8] * 4)  # at the border the padding counts
    assert losses.smoothness_loss(ramp, inside) < 1e-5
    assert losses.smoothness_loss(torch.rand(1, 3, 32, 32), inside) > 0.1


def test_luma_is_the_brightness_that_people_see() -> None:
    colours = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 8, 8)
    expected = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(losses.luma_loss(colours), expected)
    torch.testing.assert_close(losses.luma_loss(-0.3 * colours), 0.3 * expected)
    grey = torch.rand(2, 1, 8, 8)
    expected = grey.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(losses.luma_loss(grey.expand(2, 3, 8, 8)), expected)


@pytest.mark.parametrize("shape", [(7, 7), (16, 33), (64, 48)])
def test_ssim_equals_scikit_image(shape: tuple[int, int]) -> None:
    first = torch.rand(3, 3, *shape)
    for weight in (0.02, 0.3, 1.0):
        second = first.lerp(torch.rand(3, 3, *shape), weight)
        expected = [
            structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1)
            for a, b in zip(first.double(), second.double(), strict=True)
        ]
        np.testing.assert_allclose(losses.ssim(first, second), expected, atol=1e-4)


def test_ssim_of_itself_is_one_and_symmetric() -> None:
    first, second = images(), images()
    torch.testing.assert_close(losses.ssim(first, first), torch.ones(2))
    torch.testing.assert_close(losses.ssim(first, second), losses.ssim(second, first))


def test_visibility_counts_from_the_first_bit() -> None:
    source, other = images(1), images(1)
    costs = [float(losses.visibility_loss(source.lerp(other, w), source)) for w in (0, 0.02, 0.5)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert 1e-4 < costs[1] < costs[2]


def test_several_scales_weigh_blotches_more_and_grain_less() -> None:
    source = torch.full((1, 3, 64, 64), 0.5)
    grain = torch.randn(1, 3, 64, 64)
    blotches = F.interpolate(torch.randn(1, 3, 4, 4), (64, 64), mode="bicubic")
    results = [source + 0.05 * change / change.std() for change in (grain, blotches)]
    grain_cost, blotches_cost = (1 - losses.multiscale_ssim(one, source) for one in results)
    grain_cost_fine, blotches_cost_fine = (1 - losses.ssim(one, source) for one in results)
    assert blotches_cost / grain_cost > blotches_cost_fine / grain_cost_fine


def test_score_matching_is_the_mean_square() -> None:
    predicted, noise = torch.randn(2, 2, 12, 4, 4).unbind(0)
    expected = ((predicted - noise) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses.score_matching_loss(predicted, noise), expected)


def test_no_change_costs_nothing() -> None:
    source, zero = images(), torch.zeros(2, 3, 24, 24)
    assert (losses.smoothness_loss(zero) == 0).all()
    assert (losses.luma_loss(zero) < 1e-5).all()
    torch.testing.assert_close(losses.visibility_loss(source, source), torch.zeros(2))
    assert (losses.score_matching_loss(source, source) == 0).all()


LOSSES = {
    "impersonation": lambda x: losses.impersonation_loss(x.flatten(1), x[0].flatten(), 1.0),
    "dodging": lambda x: losses.dodging_loss(x.flatten(1), x.detach().flatten(1), 0.0),
    "expression": lambda x: losses.expression_loss(x.flatten(1)[:, :7], 2),
    "smoothness": losses.smoothness_loss,
    "luma": losses.luma_loss,
    "visibility": lambda x: losses.visibility_loss(x, x.detach().flip(-1)),
    "visibility of itself": lambda x: losses.visibility_loss(x, x.detach()),
    "score matching": lambda x: losses.score_matching_loss(x, torch.ones_like(x)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_one_value_per_picture_and_finite_gradients(name: str, scale: float) -> None:
    x = (images(size=16) * scale).requires_grad_()
    value = LOSSES[name](x)
    assert value.shape == (2,)
    assert (value >= -1e-6).all()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["smoothness", "luma", "visibility", "expression"])
def test_gradients_point_somewhere(name: str) -> None:
    x = images(size=16).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](x).sum(), x)
    assert gradient.norm() > 0
