import pytest
import torch

from map_pipeline.identity.gradients import Gradient, GradientEMA, dot_per_layer, norm, project_out

# Two layers with weight and bias, one with a weight alone.
SHAPES = [(4, 3), (4,), (6, 2, 3), (5, 5), (5,)]
LAYERS = [0, 0, 1, 2, 2]


def gradient(scale: float = 1.0) -> Gradient:
    return [torch.randn(shape) * scale for shape in SHAPES]


def length_per_layer(one: Gradient) -> torch.Tensor:
    return dot_per_layer(one, one, LAYERS).sqrt()


def test_dot_per_layer_joins_the_parameters_of_a_layer() -> None:
    first, second = gradient(), gradient()
    dots = dot_per_layer(first, second, LAYERS)
    expected = [
        sum((first[i] * second[i]).sum() for i, layer in enumerate(LAYERS) if layer == wanted)
        for wanted in range(3)
    ]
    torch.testing.assert_close(dots, torch.stack(expected))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("reference_scale", [1e-6, 1.0, 1e4])
def test_nothing_opposes_the_reference_any_more(scale: float, reference_scale: float) -> None:
    conflicts = 0
    for _ in range(50):
        one, reference = gradient(scale), gradient(reference_scale)
        before = dot_per_layer(one, reference, LAYERS)
        projected, share = project_out(one, reference, LAYERS)
        after = dot_per_layer(projected, reference, LAYERS)
        rounding = 1e-5 * length_per_layer(one) * length_per_layer(reference)
        assert (after >= -rounding).all()
        assert share == pytest.approx((before < 0).float().mean().item())
        for index, layer in enumerate(LAYERS):
            if before[layer] >= 0:
                assert torch.equal(projected[index], one[index])
        # A projection never lengthens.
        assert (length_per_layer(projected) <= length_per_layer(one) * (1 + 1e-5)).all()
        conflicts += int((before < 0).sum())
    assert 30 < conflicts < 120  # of 150: random directions do conflict about half of the time


def test_opposites_cancel_and_one_layer_leaves_the_others_alone() -> None:
    one = gradient()
    reference = [-g if layer == 1 else g for g, layer in zip(one, LAYERS, strict=True)]
    projected, share = project_out(one, reference, LAYERS)
    assert share == pytest.approx(1 / 3)
    assert projected[2].abs().max() < 1e-6
    assert all(torch.equal(projected[i], one[i]) for i in (0, 1, 3, 4))


def test_only_the_opposing_part_is_removed() -> None:
    one, reference = [torch.tensor([-3.0, 4.0])], [torch.tensor([2.0, 0.0])]
    (projected,), share = project_out(one, reference, [0])
    torch.testing.assert_close(projected, torch.tensor([0.0, 4.0]))
    assert share == 1


def test_zero_reference_changes_nothing() -> None:
    one = gradient()
    projected, share = project_out(one, [torch.zeros_like(g) for g in one], LAYERS)
    assert share == 0
    assert all(torch.equal(a, b) for a, b in zip(projected, one, strict=True))


def test_inputs_are_left_alone() -> None:
    one, reference = gradient(), gradient()
    copies = [[g.clone() for g in part] for part in (one, reference)]
    project_out(one, reference, LAYERS)
    ema = GradientEMA(0.5)
    ema.update(one)
    ema.update(reference)
    for part, copy in zip((one, reference), copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, copy, strict=True))


def test_ema_without_memory_is_the_last_gradient() -> None:
    ema = GradientEMA(0.0)
    for _ in range(3):
        last = gradient()
        mean = ema.update(last)
        assert all(torch.equal(a, b) for a, b in zip(mean, last, strict=True))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_ema_is_the_weighted_mean_from_the_first_step_on(decay: float) -> None:
    ema, history = GradientEMA(decay), []
    for _ in range(4):
        history.append(gradient())
        mean = ema.update(history[-1])
        weights = [decay**age for age in reversed(range(len(history)))]
        for index in range(len(SHAPES)):
            expected = sum(w * g[index] for w, g in zip(weights, history, strict=True))
            torch.testing.assert_close(mean[index], expected / sum(weights), rtol=1e-4, atol=1e-5)


def test_ema_results_are_not_changed_by_later_steps() -> None:
    ema = GradientEMA(0.7)
    first = ema.update(gradient())
    copy = [g.clone() for g in first]
    ema.update(gradient())
    assert all(torch.equal(a, b) for a, b in zip(first, copy, strict=True))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"`decay` must be in \[0, 1\), got"):
        GradientEMA(decay)


def test_norm_is_that_of_all_values_together() -> None:
    one = gradient()
    expected = torch.cat([g.flatten() for g in one]).norm()
    torch.testing.assert_close(norm(one), expected)
