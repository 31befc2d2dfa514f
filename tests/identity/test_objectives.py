import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_recogniser

from map_pipeline.config import MODES
from map_pipeline.errors import UnknownOptionError
from map_pipeline.identity.objectives import (
    EXPRESSION_CE_FLOOR,
    TYPICAL_STEP,
    TYPICAL_THRESHOLD,
    Goals,
    Objective,
    RefineState,
    RefineTarget,
    active,
    default_objectives,
    needs,
    objectives_for,
    unsolved_expression,
    with_weights,
)

THRESHOLDS = {"one": 0.3, "two": 0.9}


@pytest.fixture
def goal() -> RefineTarget:
    crop = torch.rand(1, 3, 32, 32)
    return RefineTarget(
        source_region=torch.rand(1, 3, 48, 48),
        source_crop=crop,
        source_embeddings={name: F.normalize(torch.randn(1, 8)) for name in THRESHOLDS},
        target_embeddings={name: F.normalize(torch.randn(1, 8)) for name in THRESHOLDS},
        goals={k: Goals(t - 0.1, t + 0.05, 1 - t) for k, t in THRESHOLDS.items()},
        emotion=3,
    )


@pytest.fixture
def unchanged(goal: RefineTarget) -> RefineState:
    """The face as it is, with a perfect score network and an even guess at the emotion."""
    noise = torch.randn(1, 12, 8, 8)
    return RefineState(
        moved=goal.source_crop,
        crop=goal.source_crop,
        motion=torch.zeros(1, 4),
        embeddings={name: e.expand(2, -1) for name, e in goal.source_embeddings.items()},
        logits={"encoder": torch.zeros(2, 7)},
        noise=(noise, noise),
    )


def value(name: str, candidate: RefineState, goal: RefineTarget) -> float:
    [objective] = [o for o in default_objectives() if o.name == name]
    return objective.loss(candidate, goal).item()


def test_default_objectives_are_listed() -> None:
    objectives = default_objectives()
    names = [o.name for o in objectives]
    assert len(set(names)) == len(names)
    assert {o.side for o in objectives} == {"identity", "expression", "prior"}
    assert {"L_A", "L_E", "L_S", "L_SM"} <= {o.symbol for o in objectives}  # the paper's four
    assert all(o.weight >= 0 for o in objectives)
    assert {"impersonation", "dodging", "expression"} <= {o.name for o in objectives if o.weight}


@pytest.mark.parametrize("name", [o.name for o in default_objectives()])
def test_every_objective_is_a_finite_scalar(
    name: str, unchanged: RefineState, goal: RefineTarget
) -> None:
    [objective] = [o for o in default_objectives() if o.name == name]
    loss = objective.loss(unchanged, goal)
    assert loss.shape == ()
    assert loss.isfinite()


def test_an_unchanged_face_costs_identity_and_nothing_else(
    unchanged: RefineState, goal: RefineTarget
) -> None:
    for name in ("smoothness", "luma", "visibility", "motion", "score_matching"):
        assert value(name, unchanged, goal) == pytest.approx(0, abs=1e-5)
    assert value("dodging", unchanged, goal) > 0
    assert value("impersonation", unchanged, goal) > 0
    assert value("expression", unchanged, goal) == pytest.approx(torch.log(torch.tensor(7.0)))


def test_a_reached_goal_costs_nothing(unchanged: RefineState, goal: RefineTarget) -> None:
    target = {name: e.expand(2, -1) for name, e in goal.target_embeddings.items()}
    there = dataclasses.replace(unchanged, embeddings=target)
    assert value("impersonation", there, goal) == pytest.approx(0, abs=1e-6)
    opposite = {name: -e.expand(2, -1) for name, e in goal.source_embeddings.items()}
    far = dataclasses.replace(unchanged, embeddings=opposite)
    assert value("dodging", far, goal) == 0
    logits = torch.zeros(2, 7)
    logits[:, goal.emotion] = 50
    smiling = dataclasses.replace(unchanged, logits={"encoder": logits})
    assert value("expression", smiling, goal) == pytest.approx(0, abs=1e-6)


def at(cosine: float, embedding: torch.Tensor) -> torch.Tensor:
    """Two embeddings `[2,8]` of this similarity to `[1,8]`."""
    other = torch.randn(8)
    other = F.normalize(other - (other @ embedding[0]) * embedding[0], dim=0)
    return (cosine * embedding[0] + (1 - cosine**2) ** 0.5 * other).expand(2, -1)


@pytest.mark.parametrize("name", list(THRESHOLDS))
def test_losses_end_at_their_goals(name: str, unchanged: RefineState, goal: RefineTarget) -> None:
    """Beyond the threshold, for other recognisers draw the line elsewhere; and no further."""
    goals = goal.goals[name]
    for loss, embedding, wanted, sign in (
        ("dodging", goal.source_embeddings[name], goals.source, 1),
        ("impersonation", goal.target_embeddings[name], goals.target, -1),
    ):
        for excess in (-0.03, 0.03):
            seen = {name: at(wanted + sign * excess, embedding)}
            got = value(loss, dataclasses.replace(unchanged, embeddings=seen), goal)
            assert got == pytest.approx(max(excess, 0) / goals.unit, abs=1e-4)


def test_goals_lie_beyond_the_threshold() -> None:
    net = tiny_recogniser("one")
    net.register_to_config(thresholds={"0.01": 0.5, "0.001": 0.6})
    assert Goals.of(net, 0) == Goals(0.5, 0.5, 0.5)
    assert dataclasses.astuple(Goals.of(net, 2)) == pytest.approx((0.3, 0.7, 0.5))
    net.register_to_config(thresholds={})
    assert Goals.of(net, 1).source == TYPICAL_THRESHOLD - TYPICAL_STEP


def test_without_a_target_nothing_is_impersonated() -> None:
    for mode in MODES.values():
        weights = {o.name: o.weight for o in objectives_for(mode, hide=True)}
        assert weights.pop("impersonation") == 0
        rest = {o.name: o.weight for o in objectives_for(mode)}
        assert weights == {name: rest[name] for name in weights}


def test_changes_are_seen_by_the_prior_terms(unchanged: RefineState, goal: RefineTarget) -> None:
    noisy = (goal.source_crop + 0.3 * torch.randn(1, 3, 32, 32)).clamp(0, 1)
    changed = dataclasses.replace(unchanged, crop=noisy)
    for name in ("smoothness", "luma", "visibility"):
        assert value(name, changed, goal) > 0.01
    moved = dataclasses.replace(unchanged, motion=torch.tensor([[1.0, 2.0, 0.0, 0.0]]))
    assert value("motion", moved, goal) == 5


def test_a_moved_face_is_compared_with_itself(unchanged: RefineState, goal: RefineTarget) -> None:
    """A motion isn't charged as if every pixel had been painted anew."""
    elsewhere = torch.rand(1, 3, 32, 32)
    moved = dataclasses.replace(unchanged, moved=elsewhere, crop=elsewhere)
    for name in ("smoothness", "luma", "visibility"):
        assert value(name, moved, goal) == pytest.approx(0, abs=1e-5)


def test_with_weights_copies() -> None:
    objectives = default_objectives()
    changed = with_weights(objectives, dodging=0, expression=3.5)
    weights = {o.name: o.weight for o in changed}
    assert weights["dodging"] == 0
    assert weights["expression"] == 3.5
    for before, after in zip(objectives, changed, strict=True):
        assert before == dataclasses.replace(after, weight=before.weight)
        if before.name not in ("dodging", "expression"):
            assert before == after
    assert objectives == default_objectives()


def test_fast_takes_one_gradient_and_leaves_out_what_costs_much() -> None:
    """L_E is added and no side of its own, L_SM is left out; all the rest is the same."""
    assert objectives_for(MODES["strong"]) == default_objectives()
    fast = {o.name: o for o in objectives_for(MODES["fast"])}
    assert active(list(fast.values()), "expression") == []
    assert fast["expression"].side == "prior"
    assert 0 < fast["expression"].weight < 1
    assert fast["score_matching"].weight == 0
    for objective in default_objectives():
        if objective.name not in ("expression", "score_matching"):
            assert fast[objective.name] == objective


def test_a_solved_expression_asks_for_no_more(unchanged: RefineState, goal: RefineTarget) -> None:
    def value_of(logit: float) -> float:
        logits = torch.zeros(2, 7)
        logits[:, goal.emotion] = logit
        return float(
            unsolved_expression(dataclasses.replace(unchanged, logits={"e": logits}), goal)
        )

    assert value_of(3.0) == 0  # a probability of .77
    assert value_of(0.0) == pytest.approx(float(torch.log(torch.tensor(7.0))) - EXPRESSION_CE_FLOOR)


def test_the_expression_is_looked_at_where_it_counts() -> None:
    assert needs(objectives_for(MODES["strong"]), "logits")
    assert needs(objectives_for(MODES["fast"]), "logits")
    for mode in ("strong", "fast"):
        assert not needs(with_weights(objectives_for(MODES[mode]), expression=0), "logits")


def test_unknown_objective() -> None:
    with pytest.raises(UnknownOptionError, match=r"`objective` must be one of .*got 'beauty'"):
        with_weights(default_objectives(), beauty=1.0)


def test_negative_weight() -> None:
    with pytest.raises(ValueError, match="`weight` of 'dodging' must be >= 0, got -1"):
        with_weights(default_objectives(), dodging=-1)


def test_active_selects_by_side_and_weight() -> None:
    objectives = with_weights(default_objectives(), dodging=0, impersonation=2)
    assert [o.name for o in active(objectives, "identity")] == ["impersonation"]
    own = Objective("mine", "-", "identity", 1.0, lambda candidate, _goal: candidate.crop.mean())
    assert active([*objectives, own], "identity")[-1] is own
    assert not active(with_weights(objectives, expression=0), "expression")
