import pytest
import torch
from torch import Tensor

from map_pipeline import MAPConfig, Objective
from map_pipeline.identity.gradients import (
    Gradient,
    GradientCombiner,
    GradientEMA,
    dot_per_layer,
    norm,
    project_out,
    side_gradients,
)

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


def combiner(**settings: object) -> GradientCombiner:
    return GradientCombiner(MAPConfig(**settings), LAYERS)


def length(one: Gradient) -> Tensor:
    return torch.cat([g.flatten() for g in one]).norm()


def test_the_update_serves_both_sides() -> None:
    """Without EMA: in each layer the update opposes neither gradient."""
    conflicts = []
    for _ in range(50):
        identity, expression = gradient(), gradient(100.0)
        # A share of 3: unprojected, the expression would overrule the identity.
        total, conflict = combiner(ema_decay=0.0, max_expression_grad_ratio=3.0)(
            {"identity": identity, "expression": expression, "prior": None}
        )
        conflicts.append(conflict)
        for side in (identity, expression):
            inner = dot_per_layer(total, side, LAYERS)
            assert (inner >= -1e-4 * length(total) * length(side)).all()
    assert 0 < sum(conflicts) / len(conflicts) < 1


def test_each_side_is_projected_onto_the_others_history() -> None:
    """With EMA: a side that falls silent is still respected for what it wanted before."""
    for _ in range(20):
        combine, mean = combiner(ema_decay=0.9, max_expression_grad_ratio=1.0), GradientEMA(0.9)
        reference: Gradient = []
        for _ in range(5):
            identity, expression = gradient(), gradient(100.0)
            scale = length(identity) / length(expression)  # it is shortened to its share of 1
            reference = mean.update([g * scale for g in expression])
            combine({"identity": identity, "expression": expression, "prior": None})
        silent = [torch.zeros_like(g) for g in expression]
        reference = mean.update(silent)
        identity = gradient()
        total, conflict = combine({"identity": identity, "expression": silent, "prior": None})
        inner = dot_per_layer(total, reference, LAYERS)
        assert (inner >= -1e-4 * length(total) * length(reference)).all()
        conflicting = dot_per_layer(identity, reference, LAYERS) < 0
        assert conflict == pytest.approx(conflicting.float().mean().item())


def test_expression_gets_at_most_its_share() -> None:
    """Without a conflict the parts are simply added; a loss of a large scale drowns nothing."""
    identity = gradient()
    for scale in (1e-6, 1.0, 1e6):
        same_way = [g * scale for g in identity]
        total, conflict = combiner(max_expression_grad_ratio=0.25)(
            {"identity": identity, "expression": same_way, "prior": None}
        )
        assert conflict == 0
        added = [t - g for t, g in zip(total, identity, strict=True)]
        assert length(added) <= 0.25 * length(identity) * (1 + 1e-4)
        if scale >= 1:
            torch.testing.assert_close(length(added), 0.25 * length(identity))


def test_prior_is_added_as_it_is() -> None:
    identity, expression, prior = gradient(), gradient(), gradient()
    without, _ = combiner()({"identity": identity, "expression": expression, "prior": None})
    total, _ = combiner()({"identity": identity, "expression": expression, "prior": prior})
    for got, base, added in zip(total, without, prior, strict=True):
        torch.testing.assert_close(got, base + added)


def test_one_side_alone_is_passed_on() -> None:
    for side in ("identity", "expression", "prior"):
        one = gradient()
        gradients = {"identity": None, "expression": None, "prior": None, side: one}
        total, conflict = combiner()(gradients)
        assert conflict == 0
        assert all(torch.equal(a, b) for a, b in zip(total, one, strict=True))


def test_projection_can_be_switched_off() -> None:
    identity = gradient()
    opposed = [-g for g in identity]
    total, conflict = combiner(projection=False, max_expression_grad_ratio=0.5)(
        {"identity": identity, "expression": opposed, "prior": None}
    )
    assert conflict == 1  # reported, though nothing is done about it
    for got, one in zip(total, identity, strict=True):
        torch.testing.assert_close(got, one * 0.5)


def weighted(side: str, weight: float) -> Objective:
    """An objective for `side_gradients`, which only looks at name, side and weight."""
    return Objective(side, "-", side, weight, lambda candidate, _goal: candidate.crop.mean())


def test_each_side_has_its_gradient() -> None:
    point = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    values = {"identity": point[0] ** 2, "expression": point[1] ** 2, "prior": point.sum()}
    objectives = [weighted("identity", 1), weighted("expression", 3), weighted("prior", 2)]
    found = side_gradients(objectives, values, [point])
    expected = {"identity": [2.0, 0.0], "expression": [0.0, -12.0], "prior": [2.0, 2.0]}
    assert {side: gradient[0].tolist() for side, gradient in found.items()} == expected


def test_without_an_expression_one_pass_gives_the_sum() -> None:
    point = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    values = {"identity": point[0] ** 2, "prior": point.sum()}
    objectives = [weighted("identity", 1), weighted("expression", 0), weighted("prior", 2)]
    found = side_gradients(objectives, values, [point])
    assert found["expression"] is None
    assert found["prior"] is None
    assert found["identity"][0].tolist() == [4.0, 2.0]
    nothing = side_gradients([weighted("prior", 0)], {}, [point])
    assert nothing == {"identity": None, "expression": None, "prior": None}
