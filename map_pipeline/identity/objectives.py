"""The objectives of MAP as objects: list them, weight them, switch them off, add your own.

An `Objective` names a loss, says to which of the two conflicting sides it belongs and how much it
counts. `default_objectives()` is the method as shipped; pass a changed list to
`MAPPipeline(..., objectives=...)` for an ablation.

The losses of identity have goals, the visible change of the face has none: it costs from its first
bit. So the optimisation looks for the least change that reaches the goals, and stops there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from map_pipeline.config import FAR, MAPConfig
from map_pipeline.errors import UnknownOptionError
from map_pipeline.identity import losses, tone
from map_pipeline.identity.recognisers import FaceRecogniser

Side = Literal["identity", "expression", "prior"]


# For recognisers without measured thresholds, such as ArcFace: near those of the field's
# ArcFace-style networks (.17 to .30 at FAR 1 %). They only scale a loss and never give a verdict.
TYPICAL_THRESHOLD, TYPICAL_STEP = 0.25, 0.1
STRICT_FAR = 0.001


@dataclass(frozen=True)
class Goals:
    """How similar one recogniser shall find the protected face, as cosines.

    Attributes:
        source: to the person's own photo, at most; one for all faces or `[B]`.
        target: to the target, at least; one for all faces or `[B]`.
        unit: what a shortfall is measured in, so that recognisers of other scales count alike.
    """

    source: float | Tensor
    target: float | Tensor
    unit: float

    @classmethod
    def of(cls, net: FaceRecogniser, margin: float | Tensor) -> "Goals":
        """Goals of a recogniser, `margin` steps beyond its threshold at FAR 1 %.

        A step is the way from there to the threshold at FAR 0.1 %, a tenth of the rate. So a target
        that is a step beyond matches at FAR 0.1 %, too. Of strangers, 5 % are more similar to a
        person than one step below the threshold, 14 to 26 % than two and 29 to 62 % than three
        (surrogates on 100 dev pairs). Networks that weren't used see less of a change than those
        that were, which is what the margin is for.
        """
        threshold, step = TYPICAL_THRESHOLD, TYPICAL_STEP
        if net.config.thresholds:
            threshold = net.threshold(FAR)
            if f"{STRICT_FAR:g}" in net.config.thresholds:
                step = net.threshold(STRICT_FAR) - threshold
        beyond = margin * step
        return cls(threshold - beyond, threshold + beyond, 1 - threshold)


@dataclass(frozen=True)
class RefineTarget:
    """What one face is to become; constant during its optimisation.

    Attributes:
        source_region: `[1,3,h,w]` in [0,1], the photo around the face.
        source_crop: `[1,3,s,s]` in [0,1], the aligned face crop.
        source_embeddings: recogniser name -> `[1,D]` of the unprotected face.
        target_embeddings: recogniser name -> `[1,D]` of the target identity; empty without one.
        goals: recogniser name -> how similar it shall find the two.
        emotion: index of the asked emotion in `EMOTIONS`, or one per picture `[V]`.
        source_cond: `[1,width]` condition of the score network for the face as it is, and
        target_cond: for what it is to become; None for a network without conditions.
    """

    source_region: Tensor
    source_crop: Tensor
    source_embeddings: Mapping[str, Tensor]
    target_embeddings: Mapping[str, Tensor]
    goals: Mapping[str, Goals]
    emotion: int | Tensor
    source_cond: Tensor | None = None
    target_cond: Tensor | None = None


@dataclass(frozen=True)
class RefineState:
    """The present state of the protected face, as the losses see it; all tensors carry gradients.

    Attributes:
        moved: `[1,3,s,s]` in [0,1], the source crop with its features moved.
        crop: `[1,3,s,s]` in [0,1], the same with the residual added.
        motion: `[1,K]`, how far features were moved, see `FaceMotions`.
        embeddings: surrogate name -> `[V,D]`, one row per view of the region.
        logits: expression encoder name -> `[V,7]`.
        noise: pair (predicted, true) `[1,C,h,w]` of the score network on the noised source; None
            if no loss asks for it.
    """

    moved: Tensor
    crop: Tensor
    motion: Tensor
    embeddings: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    noise: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Objective:
    """One weighted loss.

    Attributes:
        name: unique, used to select and report it.
        symbol: the paper's symbol, or "-" where the term is ours.
        side: "identity" and "expression" are projected onto each other; "prior" terms are added.
        weight: factor, >= 0; 0 switches the term off (its random views are drawn all the same, so
            that ablations differ in nothing else).
        loss: maps (state, target) to a scalar tensor, lower is better.
        needs: what `RefineState` must hold for the loss beside the pictures and embeddings:
            "logits" of the expression classifiers, or "noise" predicted by the score network. A
            loss of noise judges the network, not the picture, so steps aren't compared by it.
    """

    name: str
    symbol: str
    side: Side
    weight: float
    loss: Callable[[RefineState, RefineTarget], Tensor]
    needs: Literal["logits", "noise"] | None = None

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"`weight` of {self.name!r} must be >= 0, got {self.weight}.")


def impersonation(state: RefineState, target: RefineTarget) -> Tensor:
    """How far the similarity to the target is from its goal; `target` must have one."""
    return _mean_shortfall(
        state,
        target,
        lambda name, embedding: losses.impersonation_loss(
            embedding, target.target_embeddings[name], target.goals[name].target
        ),
    )


def dodging(state: RefineState, target: RefineTarget) -> Tensor:
    """How far the similarity to the person's own photo is from its goal."""
    return _mean_shortfall(
        state,
        target,
        lambda name, embedding: losses.dodging_loss(
            embedding, target.source_embeddings[name], target.goals[name].source
        ),
    )


def _mean_shortfall(
    state: RefineState, target: RefineTarget, loss: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """Mean over recognisers and views, in units of the distance between a match and identity."""
    terms = [loss(k, seen).mean() / target.goals[k].unit for k, seen in state.embeddings.items()]
    return torch.stack(terms).mean()


def expression(state: RefineState, target: RefineTarget) -> Tensor:
    """Cross-entropy of the asked emotion, mean over the classifiers and views."""
    return _cross_entropies(state, target).mean()


def unsolved_expression(state: RefineState, target: RefineTarget) -> Tensor:
    """Cross-entropy above `EXPRESSION_CE_FLOOR`, below which nothing is gained."""
    return torch.relu(_cross_entropies(state, target) - EXPRESSION_CE_FLOOR).mean()


def _cross_entropies(state: RefineState, target: RefineTarget) -> Tensor:
    """`[E,V]` nats, of the asked emotion by every encoder in every view."""
    parts = [losses.expression_loss(logits, target.emotion) for logits in state.logits.values()]
    return torch.stack(parts)


def smoothness(state: RefineState, _target: RefineTarget) -> Tensor:
    """Laplacian of the residual, where the face doesn't hide it."""
    return losses.smoothness_loss(state.crop - state.moved, tone.visible(state.moved)).mean()


def luma(state: RefineState, _target: RefineTarget) -> Tensor:
    """Size of the residual."""
    return losses.luma_loss(state.crop - state.moved).mean()


def visibility(state: RefineState, _target: RefineTarget) -> Tensor:
    """Structural change by the residual."""
    return losses.visibility_loss(state.crop, state.moved).mean()


def motion(state: RefineState, _target: RefineTarget) -> Tensor:
    """Squared motion of the features, in the units of `FaceMotions`."""
    return state.motion.square().sum(-1).mean()


def score_matching(state: RefineState, _target: RefineTarget) -> Tensor:
    """Denoising loss of the fine-tuned network on the source."""
    if state.noise is None:
        raise ValueError("`needs` of a loss of noise must be 'noise', got a state without any.")
    return losses.score_matching_loss(*state.noise).mean()


def default_objectives() -> list[Objective]:
    """The objectives as shipped; weights were chosen on dev pairs 24-61."""
    return [
        Objective("impersonation", "L_A", "identity", 3.0, impersonation),
        Objective("dodging", "L_A", "identity", 3.0, dodging),
        Objective("expression", "L_E", "expression", 1.0, expression, needs="logits"),
        Objective("smoothness", "L_S", "prior", 30.0, smoothness),
        Objective("luma", "-", "prior", 18.0, luma),
        Objective("visibility", "-", "prior", 12.0, visibility),
        Objective("motion", "-", "prior", 0.015, motion),
        Objective("score_matching", "L_SM", "prior", 1.0, score_matching, needs="noise"),
    ]


# L_E where it is added to the identity loss instead of being projected: its weight, and the
# cross-entropy (nats; a probability of .67) from which on it is solved. More weight lets networks
# see more of the expression and takes as much from the identity.
FAST_EXPRESSION_WEIGHT, EXPRESSION_CE_FLOOR = 0.05, 0.4


def objectives_for(config: MAPConfig, hide: bool = False) -> list[Objective]:
    """The objectives that `config.objectives` names; impersonation only where there is a target.

    "summed" takes one gradient, of the sum of all: what is unsolved of L_E is a prior term of
    little weight there, so that the change of identity doesn't undo the expression; L_SM is left
    out.
    """
    objectives = default_objectives()
    if hide:
        objectives = with_weights(objectives, impersonation=0)
    if config.objectives == "projected":
        return objectives
    light = with_weights(objectives, expression=FAST_EXPRESSION_WEIGHT, score_matching=0)
    return [
        replace(o, side="prior", loss=unsolved_expression) if o.name == "expression" else o
        for o in light
    ]


def with_weights(objectives: Sequence[Objective], **weights: float) -> list[Objective]:
    """Copy the list with other weights by name, e.g. `with_weights(objectives, dodging=0)`."""
    names = [objective.name for objective in objectives]
    for name in weights:
        if name not in names:
            raise UnknownOptionError(f"`objective` must be one of {names}, got {name!r}.")
    return [replace(o, weight=weights.get(o.name, o.weight)) for o in objectives]


def needs(objectives: Sequence[Objective], part: Literal["logits", "noise"]) -> bool:
    """Whether any of the objectives with a positive weight asks for this part of `RefineState`."""
    return any(o.weight > 0 and o.needs == part for o in objectives)


def active(objectives: Sequence[Objective], side: Side) -> list[Objective]:
    """The objectives of one side with a positive weight."""
    return [o for o in objectives if o.side == side and o.weight > 0]
