"""The objectives of MAP as objects: list them, weight them, switch them off, add your own.

An `Objective` names a loss, says to which of the two conflicting sides it belongs and how much it
counts. `default_objectives()` is the method as shipped; pass a changed list to
`MAPPipeline(..., objectives=...)` for an ablation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from map_pipeline.config import MAPConfig
from map_pipeline.errors import UnknownOptionError
from map_pipeline.identity import losses

Side = Literal["identity", "expression", "prior"]


@dataclass(frozen=True)
class RefineTarget:
    """What one face is to become; constant during its optimisation.

    Attributes:
        source_region: `[1,3,h,w]` in [0,1], the photo around the face.
        source_crop: `[1,3,s,s]` in [0,1], the aligned face crop.
        source_embeddings: recogniser name -> `[1,D]` of the unprotected face.
        target_embeddings: recogniser name -> `[1,D]` of the target identity.
        thresholds: recogniser name -> cosine similarity at FAR 1 % above which two faces match.
        emotion: index of the asked emotion in `EMOTIONS`, or one per picture `[V]`.
        ssim_budget: structural similarity down to which the face crop may change, in (0,1).
        source_cond: `[1,width]` condition of the score network for the face as it is, and
        target_cond: for what it is to become; None for a network without conditions.
    """

    source_region: Tensor
    source_crop: Tensor
    source_embeddings: dict[str, Tensor]
    target_embeddings: dict[str, Tensor]
    thresholds: dict[str, float]
    emotion: int | Tensor
    ssim_budget: float
    source_cond: Tensor | None = None
    target_cond: Tensor | None = None


@dataclass(frozen=True)
class RefineState:
    """The present state of the protected face, as the losses see it; all tensors carry gradients.

    Attributes:
        crop: `[1,3,s,s]` in [0,1], the source crop with the change added.
        region: `[1,3,h,w]` in [0,1], the photo around the face with the change pasted in.
        embeddings: surrogate name -> `[V,D]`, one row per view of the region.
        logits: expression encoder name -> `[V,7]`.
        noise: pair (predicted, true) `[1,C,h,w]` of the score network on the noised source; None
            if no loss asks for it.
    """

    crop: Tensor
    region: Tensor
    embeddings: dict[str, Tensor]
    logits: dict[str, Tensor]
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
    """1 - cos to the target, in units of the distance between a match and identity."""
    terms = [
        losses.impersonation_loss(embedding, target.target_embeddings[name], goal=1.0).mean()
        / (1 - target.thresholds[name])
        for name, embedding in state.embeddings.items()
    ]
    return torch.stack(terms).mean()


def dodging(state: RefineState, target: RefineTarget) -> Tensor:
    """Similarity to the person's own photo above a floor well below the match threshold."""
    terms = []
    for name, embedding in state.embeddings.items():
        unit = 1 - target.thresholds[name]
        floor = target.thresholds[name] - DODGING_MARGIN * unit
        excess = losses.dodging_loss(embedding, target.source_embeddings[name], floor)
        terms.append(excess.mean() / unit)
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


def smoothness(state: RefineState, target: RefineTarget) -> Tensor:
    """Laplacian of the change."""
    return losses.smoothness_loss(state.crop - target.source_crop).mean()


def chroma(state: RefineState, target: RefineTarget) -> Tensor:
    """Colour part of the change."""
    return losses.chroma_loss(state.crop - target.source_crop).mean()


def luma(state: RefineState, target: RefineTarget) -> Tensor:
    """Brightness part of the change."""
    return losses.luma_loss(state.crop - target.source_crop).mean()


def visibility(state: RefineState, target: RefineTarget) -> Tensor:
    """Structural change of the crop beyond the budget."""
    return losses.visibility_loss(state.crop, target.source_crop, target.ssim_budget).mean()


def score_matching(state: RefineState, _target: RefineTarget) -> Tensor:
    """Denoising loss of the fine-tuned network on the source."""
    if state.noise is None:
        raise ValueError("`needs` of a loss of noise must be 'noise', got a state without any.")
    return losses.score_matching_loss(*state.noise).mean()


# In units of (1 - threshold): how far below the match threshold the similarity to the source is
# pushed, so that unseen recognisers and JPEG leave it below. Set once, not tuned.
DODGING_MARGIN = 0.5


def default_objectives() -> list[Objective]:
    """The objectives as shipped.

    The weights of chroma, dodging and smoothness were tried by leave-one-out on dev pairs 24-61,
    that of luma on 24-35 and 40-51; the others were set once. The figures in README are measured
    on others.
    """
    return [
        Objective("impersonation", "L_A", "identity", 1.0, impersonation),
        Objective("dodging", "L_A", "identity", 0.5, dodging),
        Objective("expression", "L_E", "expression", 1.0, expression, needs="logits"),
        Objective("smoothness", "L_S", "prior", 10.0, smoothness),
        Objective("chroma", "-", "prior", 12.0, chroma),
        Objective("luma", "-", "prior", 5.0, luma),
        Objective("visibility", "-", "prior", 10.0, visibility),
        Objective("score_matching", "L_SM", "prior", 1.0, score_matching, needs="noise"),
    ]


# L_E where it is added to the identity loss instead of being projected: its weight, and the
# cross-entropy (nats; a probability of .67) from which on it is solved. More weight lets networks
# see more of the expression and takes as much from the identity.
FAST_EXPRESSION_WEIGHT, EXPRESSION_CE_FLOOR = 0.05, 0.4


def objectives_for(config: MAPConfig) -> list[Objective]:
    """The objectives that `config.objectives` names.

    "summed" takes one gradient, of the sum of all: what is unsolved of L_E is a prior term of
    little weight there, so that the change of identity doesn't undo the expression; L_SM is left
    out.
    """
    objectives = default_objectives()
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
