"""Settings of the training commands; stored with the weights.

Nothing here loads torch: the command line is made from these fields.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from map_pipeline.config import MAPConfig
from map_pipeline.errors import check_setting

# Settings that shape the networks: those of a network to start from are its own, and those of a run
# that was stopped can't be changed any more.
UNET_SETTINGS = ("patch", "channels", "layers_per_block")
NETWORK_SETTINGS = (*UNET_SETTINGS, "hidden")


@dataclass(frozen=True)
class RunConfig:
    """What all training runs can set; stored with the weights.

    Attributes:
        batch_size: examples a step.
        learning_rate: of Adam.
        warmup: updates until the learning rate is reached.
        cooldown: share of the run, at its end, in which the learning rate falls to 0.
        minutes: the run ends after these, or after `updates`, whichever comes first.
        updates: at most.
        report_every: updates between two reports, each with the state to resume from.
        mixed_precision: "bf16", or "no".
        seed: of everything random.
    """

    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup: int = 200
    cooldown: float = 0.3
    minutes: float = 120.0
    updates: int = 1_000_000
    report_every: int = 500
    mixed_precision: str = "bf16"
    seed: int = 0

    # What `mixed_precision` may be; fp16 needs the loss scaled.
    precisions: ClassVar[tuple[str, ...]] = ("bf16", "no")

    def __post_init__(self) -> None:
        self.check(">= 1", "batch_size", "updates", "report_every")
        self.check("> 0", "learning_rate", "minutes")
        self.check(">= 0", "warmup", "seed")
        self.check("in [0, 1]", "cooldown")
        known = self.mixed_precision in self.precisions
        check_setting(self, "mixed_precision", known, f"one of {', '.join(self.precisions)}")

    def check(self, rule: str, *names: str) -> None:
        """Raise `UnknownOptionError` for the first setting that breaks a rule of `RULES`."""
        for name in names:
            check_setting(self, name, RULES[rule](getattr(self, name)), rule)


# Finite numbers are meant.
RULES: dict[str, Callable[[float], bool]] = {
    ">= 1": lambda value: 1 <= value < math.inf,
    "> 0": lambda value: 0 < value < math.inf,
    ">= 0": lambda value: 0 <= value < math.inf,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1)": lambda value: 0 < value < 1,
}


@dataclass(frozen=True)
class PriorConfig(RunConfig):
    """Settings of the training of a score network.

    Attributes:
        patch: side of the pixel patches folded into channels, px.
        channels: of the U-Net's levels, from the finest to the coarsest.
        layers_per_block: residual blocks a level.
        hidden: width of the conditioner's hidden layers.
        levels: noise levels are drawn from [0, levels); beyond, the pipeline never goes.
        accumulation: steps an update.
        min_snr: gamma of the loss weighting.
        ema_decay: of the averaged weights, which are the result.
        drop_emotion: probability of leaving the emotion out of the condition.
        drop_shape: probability of leaving the shape out of the condition.
        drop_all: probability of leaving out the whole condition.
        balance: 0 draws all faces alike, 1 every emotion equally often.
        validation_faces: kept out of the training.
        compile: use `torch.compile`, on CUDA only.
        gradient_checkpointing: trade time for memory (113 M networks at 256 px).
        mixed_precision: "bf16", "fp16" or "no".
    """

    patch: int = 2
    channels: tuple[int, ...] = (64, 96, 144, 192)
    layers_per_block: int = 1
    hidden: int = 256
    levels: int = 700
    accumulation: int = 1
    min_snr: float = 5.0
    ema_decay: float = 0.999
    drop_emotion: float = 0.3
    drop_shape: float = 0.3
    drop_all: float = 0.1
    balance: float = 0.5
    validation_faces: int = 256
    compile: bool = False
    gradient_checkpointing: bool = False
    mixed_precision: str = "bf16"

    precisions: ClassVar[tuple[str, ...]] = ("bf16", "fp16", "no")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = all(isinstance(count, int) and count > 0 for count in self.channels)
        check_setting(self, "channels", len(self.channels) > 0 and whole, "positive whole numbers")
        self.check(">= 1", "patch", "layers_per_block", "hidden", "levels", "accumulation")
        self.check(">= 0", "validation_faces")
        self.check("> 0", "min_snr")
        self.check("in [0, 1]", "drop_emotion", "drop_shape", "drop_all", "balance")
        self.check("in [0, 1)", "ema_decay")


PRIOR_PRESETS = {
    "cpu": PriorConfig(),
    "gpu": PriorConfig(
        batch_size=256, learning_rate=1e-3, ema_decay=0.9995, minutes=9, compile=True
    ),
}


@dataclass(frozen=True)
class MAPTrainingConfig(RunConfig):
    """Settings of the training of a MAP network.

    Attributes:
        surrogates: recognisers that L_A is measured on; the network encodes their embeddings.
        protection: how faces are inverted, generated and gradients combined.
        weights: objective name -> weight, where it differs from `default_objectives`.
        rank: of the change of each layer, see `MAPNetwork`.
        hidden: width of its hidden layers.
        highest_margin: each face is protected with a margin drawn from 0 to this, so that the
            network knows them all.
        reached: share of the goals of dodging that should be reached, in (0,1). What the visible
            change costs follows: dearer while more are reached, cheaper while fewer.
        realism: weight of the critic, see `training.critic.Realism`; 0 trains none.
        max_faces: how many to train on, drawn at random; each is inverted before the training.
        average_decay: of the averaged weights, which are the result.
        compile: use `torch.compile`, on CUDA only.
    """

    surrogates: tuple[str, ...] = ("dlib_resnet", "mobilefacenet", "faceres", "sface")
    protection: MAPConfig = field(
        default_factory=lambda: MAPConfig(num_inversion_steps=6, objectives="summed")
    )
    weights: dict[str, float] = field(default_factory=dict)
    rank: int = 16
    hidden: int = 128
    highest_margin: float = 4.0
    reached: float = 0.7
    realism: float = 0.4
    max_faces: int = 400
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: int = 20
    average_decay: float = 0.99
    report_every: int = 25
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(">= 1", "rank", "hidden", "max_faces")
        self.check(">= 0", "highest_margin", "realism")
        self.check("in (0, 1)", "reached")
        self.check("in [0, 1)", "average_decay")


@dataclass(frozen=True)
class MouthConfig(RunConfig):
    """Settings of the training of a mouth painter.

    Attributes:
        weight_decay: of AdamW.
        ema_decay: of the averaged weights, which are the result.
    """

    batch_size: int = 24
    learning_rate: float = 3e-4
    cooldown: float = 1.0
    weight_decay: float = 1e-3
    ema_decay: float = 0.999
    minutes: float = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(">= 0", "weight_decay")
        self.check("in [0, 1)", "ema_decay")


MAP_PRESETS = {
    "cpu": MAPTrainingConfig(updates=320),
    "gpu": MAPTrainingConfig(
        max_faces=20_000, batch_size=64, minutes=8, average_decay=0.995, report_every=100
    ),
}
