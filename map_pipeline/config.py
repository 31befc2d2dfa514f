"""Settings of one protection run, validated once; defaults are what a user should get."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from map_pipeline.errors import UnknownOptionError, check_setting

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# What people can ask for besides: no network knows it, see `expression.composed`.
EXPRESSIONS = (*EMOTIONS, "contempt", "closed_smile")
FAR = 0.01  # false accept rate of the field's verification protocol
# What `faces.detect.load_detector` knows; here so that the command line needn't load it.
DETECTORS = ("auto", "bundled", "insightface", "insightface-download")
HIDE = "none"  # the `target` of a face that is only to be hidden
# A composite draws the face towards itself: more of it changes, and fewer recognisers lose it.
DEFAULT_TARGET = HIDE
# How sure the protection shall be, see `MAPConfig.margin`.
MARGINS = {"normal": 1.2, "high": 2.0}
DEFAULT_MARGIN = "normal"
MOST_STRENGTH = 1.5  # of an expression; beyond 1 it is exaggerated


@dataclass(frozen=True)
class MAPConfig:
    """How a face is inverted, generated and optimised.

    Attributes:
        start_timestep: t_0, noise level up to which a face is inverted, in [1, T).
        num_inversion_steps: network calls of the DDIM inversion, >= 2.
        num_generation_steps: network calls of one generation, >= 1.
        use_map_network: start from a trained `MAPNetwork`, where the checkpoint has one that fits,
            not from the prior.
        steps_saved: how many of the `refine_steps` such a start makes needless where faces are only
            to be hidden, in [0, refine_steps]; half as many with a target, which is harder.
        refine_steps: fine-tuning steps on the photo, >= 0; 0 takes what a `MAPNetwork` makes in one
            pass.
        expression_strength: how far the expression is changed before the protection: 0 not at all,
            1 as far as people do; at most `MOST_STRENGTH`.
        objectives: "projected" weighs L_SM and projects the gradients of L_A and L_E onto each
            other; "summed" takes one gradient of the sum of all losses, without L_SM and with
            little weight on L_E. See `identity.objectives.objectives_for`.
        learning_rate: of the score network's weights with Adam, > 0.
        motion_rate: of the features' motion, units a step, >= 0; 0 moves nothing. The units are
            those of `expression.motion.FaceMotions`.
        max_motion: how far each motion may go, in its unit, > 0.
        max_shift: how far anything in the face is moved by all of them, as a share of the side of
            the aligned crop, > 0.
        adam_betas: decay of Adam's two moments, each in [0,1).
        max_expression_grad_ratio: greatest length of the expression gradient relative to the
            identity gradient, >= 0.
        projection: project conflicting gradients onto each other, per layer.
        ema_decay: decay of the gradients' EMA used as projection reference, in [0,1); 0 is no EMA.
        num_eot_views: random views of the picture per step, >= 0; 0 looks at the picture as it is,
            which protects less from recognisers that weren't used.
        margin: how far beyond a recogniser's match threshold the protection goes, >= 0, in units of
            the way between its thresholds at FAR 1 % and 0.1 %; see `identity.objectives.Goals`.
        patience: steps without progress after which the optimisation ends, >= 1.
        autocast: arithmetic of the score network: "bf16" or "fp32".
        compile: use `torch.compile` for the fine-tuned copy, on CUDA only. The first face takes a
            minute or more longer, so this is for many photos.
    """

    start_timestep: int = 300
    num_inversion_steps: int = 12
    num_generation_steps: int = 1
    use_map_network: bool = True
    steps_saved: int = 0
    refine_steps: int = 20
    expression_strength: float = 0.6
    objectives: Literal["projected", "summed"] = "projected"
    learning_rate: float = 3e-4
    motion_rate: float = 0.25
    max_motion: float = 0.8
    max_shift: float = 0.0175  # 2.2 of 128 px
    adam_betas: tuple[float, float] = (0.5, 0.9)
    max_expression_grad_ratio: float = 0.25
    projection: bool = True
    ema_decay: float = 0.7
    num_eot_views: int = 2
    margin: float = MARGINS[DEFAULT_MARGIN]
    patience: int = 6
    autocast: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False

    def __post_init__(self) -> None:
        check_setting(self, "start_timestep", self.start_timestep >= 1, ">= 1")
        check_setting(self, "num_inversion_steps", self.num_inversion_steps >= 2, ">= 2")
        check_setting(self, "num_generation_steps", self.num_generation_steps >= 1, ">= 1")
        check_setting(self, "refine_steps", self.refine_steps >= 0, ">= 0")
        saved = 0 <= self.steps_saved <= self.refine_steps
        check_setting(self, "steps_saved", saved, f"in [0, {self.refine_steps}]")
        strong = 0 <= self.expression_strength <= MOST_STRENGTH
        check_setting(self, "expression_strength", strong, f"in [0, {MOST_STRENGTH}]")
        known = self.objectives in ("projected", "summed")
        check_setting(self, "objectives", known, "'projected' or 'summed'")
        check_setting(self, "learning_rate", self.learning_rate > 0, "> 0")
        check_setting(
            self, "adam_betas", all(0 <= b < 1 for b in self.adam_betas), "two values in [0, 1)"
        )
        check_setting(
            self, "max_expression_grad_ratio", self.max_expression_grad_ratio >= 0, ">= 0"
        )
        check_setting(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        check_setting(self, "num_eot_views", self.num_eot_views >= 0, ">= 0")
        check_setting(self, "motion_rate", self.motion_rate >= 0, ">= 0")
        check_setting(self, "max_motion", self.max_motion > 0, "> 0")
        check_setting(self, "max_shift", self.max_shift > 0, "> 0")
        check_setting(self, "margin", 0 <= self.margin < math.inf, ">= 0")
        check_setting(self, "patience", self.patience >= 1, ">= 1")
        check_setting(self, "autocast", self.autocast in ("bf16", "fp32"), "'bf16' or 'fp32'")


# Settings of a call's `mode`. "fast" takes few, larger steps, each with one view and one gradient.
MODES = {
    "fast": MAPConfig(
        num_inversion_steps=6,
        objectives="summed",
        refine_steps=14,
        steps_saved=6,
        learning_rate=5e-4,
        motion_rate=0.35,
        num_eot_views=1,
        max_expression_grad_ratio=0.0,
    ),
    "strong": MAPConfig(steps_saved=6, motion_rate=0.4),
}
DEFAULT_MODE = "strong"


def check_emotion(emotion: str | Sequence[str]) -> None:
    """Raise `UnknownOptionError` for an emotion, or any of several, out of the choices."""
    for one in emotion if isinstance(emotion, list | tuple) else [emotion]:
        if one not in EXPRESSIONS:
            raise UnknownOptionError(
                f"`emotion` must be one of {', '.join(EXPRESSIONS)}; got {one!r}."
            )


def margin_of(margin: str | float) -> float:
    """The number behind "normal", "high" or a number.

    Raises:
        UnknownOptionError: it is none of these.
    """
    if margin in MARGINS:
        return MARGINS[str(margin)]
    try:
        return float(margin)
    except (TypeError, ValueError):
        known = ", ".join(MARGINS)
        raise UnknownOptionError(
            f"`margin` must be {known} or a number >= 0; got {margin!r}."
        ) from None


def resolve_config(config: MAPConfig | None, mode: str, levels: int, **given: Any) -> MAPConfig:
    """The settings of a call: `given` where they aren't None, else `config`, else those of `mode`.

    Args:
        levels: noise levels of the scheduler, T.

    Raises:
        UnknownOptionError: there is no such mode, or a setting is out of its range.
    """
    if mode not in MODES:
        raise UnknownOptionError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r}.")
    chosen = {name: value for name, value in given.items() if value is not None}
    if "margin" in chosen:
        chosen["margin"] = margin_of(chosen["margin"])
    if "refine_steps" in chosen:
        chosen["steps_saved"] = 0
    resolved = replace(MODES[mode] if config is None else config, **chosen)
    rule = f"in [1, {levels})"
    check_setting(resolved, "start_timestep", resolved.start_timestep < levels, rule)
    return resolved
