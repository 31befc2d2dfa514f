"""Settings of the training commands; stored with the weights.

Nothing here loads torch: the command line is made from these fields.
"""

import math
from dataclasses import dataclass, field

from map_pipeline.config import MAPConfig
from map_pipeline.errors import check_setting

# Settings that shape the networks: those of a network to start from are its own, and those of a run
# that was stopped can't be changed any more.
UNET_SETTINGS = ("patch", "channels", "layers_per_block")
NETWORK_SETTINGS = (*UNET_SETTINGS, "hidden")


@dataclass(frozen=True)
class PriorConfig:
    """Settings of a training run; stored with the weights.

    Attributes:
        patch: side of the pixel patches folded into channels, px.
        channels: of the U-Net's levels, from the finest to the coarsest.
        layers_per_block: residual blocks a level.
        hidden: width of the conditioner's hidden layers.
        levels: noise levels are drawn from [0, levels); beyond, the pipeline never goes.
        batch_size: faces a step, and accumulation: steps an update.
        learning_rate: of AdamW; warmup: updates until it is reached; it falls to 0 in the last
            `cooldown` share of the run.
        min_snr: gamma of the loss weighting.
        ema_decay: of the averaged weights, which are the result.
        drop_emotion, drop_shape, drop_all: probabilities of leaving parts of the condition out.
        balance: 0 draws all faces alike, 1 every emotion equally often.
        minutes, updates: the run ends at whichever comes first.
        validation_faces: kept out of the training.
        report_every: updates between two validations.
        compile: use `torch.compile`, on CUDA only.
        gradient_checkpointing: trade time for memory (113 M networks at 256 px).
        mixed_precision: "bf16", "fp16" or "no".
        seed: of everything random.
    """

    patch: int = 2
    channels: tuple[int, ...] = (64, 96, 144, 192)
    layers_per_block: int = 1
    hidden: int = 256
    levels: int = 700
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 5e-4
    warmup: int = 200
    cooldown: float = 0.3
    min_snr: float = 5.0
    ema_decay: float = 0.999
    drop_emotion: float = 0.3
    drop_shape: float = 0.3
    drop_all: float = 0.1
    balance: float = 0.5
    minutes: float = 120.0
    updates: int = 1_000_000
    validation_faces: int = 256
    report_every: int = 500
    compile: bool = False
    gradient_checkpointing: bool = False
    mixed_precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = all(isinstance(count, int) and count > 0 for count in self.channels)
        check_setting(
            self, "channels", len(self.channels) > 0 and numbers, "positive whole numbers"
        )
        for name in ("patch", "layers_per_block", "hidden", "levels", "batch_size", "accumulation"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("updates", "report_every"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("warmup", "validation_faces", "seed"):
            check_setting(self, name, getattr(self, name) >= 0, ">= 0")
        for name in ("learning_rate", "min_snr", "minutes"):
            check_setting(self, name, 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("cooldown", "drop_emotion", "drop_shape", "drop_all", "balance"):
            check_setting(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        check_setting(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        precisions = ("bf16", "fp16", "no")
        check_setting(
            self, "mixed_precision", self.mixed_precision in precisions, "bf16, fp16 or no"
        )


PRIOR_PRESETS = {
    "cpu": PriorConfig(),
    "gpu": PriorConfig(
        batch_size=256, learning_rate=1e-3, ema_decay=0.9995, minutes=9, compile=True
    ),
}


@dataclass(frozen=True)
class MAPTrainingConfig:
    """Settings of a training run; stored with the weights.

    Attributes:
        surrogates: recognisers that L_A is measured on; the network encodes their embeddings.
        protection: how faces are inverted, generated and gradients combined.
        weights: objective name -> weight, where it differs from `default_objectives`.
        rank: of the change of each layer, see `MAPNetwork`; hidden: width of its hidden layers.
        highest_margin: each face is protected with a margin drawn from 0 to this, so that the
            network knows them all.
        reached: share of the goals of dodging that shall be reached, in (0,1). What the visible
            change costs follows: dearer while more are reached, cheaper while fewer.
        realism: weight of the critic, see `training.critic.Realism`; 0 trains none.
        max_faces: how many to train on, drawn at random; each is inverted before the training.
        batch_size: faces a step.
        learning_rate: of Adam; warmup: updates until it is reached; it falls to 0 in the last
            `cooldown` share of the run.
        average_decay: of the averaged weights, which are the result.
        minutes, updates: the run ends at whichever comes first.
        report_every: updates between two reports, each with the state to resume from.
        compile: use `torch.compile`, on CUDA only.
        mixed_precision: "bf16" or "no".
        seed: of everything random.
    """

    surrogates: tuple[str, ...] = ("dlib_resnet", "mobilefacenet", "faceres")
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
    cooldown: float = 0.3
    average_decay: float = 0.99
    minutes: float = 120.0
    updates: int = 1_000_000
    report_every: int = 25
    compile: bool = False
    mixed_precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "hidden", "max_faces", "batch_size", "updates", "report_every"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("learning_rate", "minutes"):
            check_setting(self, name, 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("warmup", "seed"):
            check_setting(self, name, getattr(self, name) >= 0, ">= 0")
        check_setting(self, "cooldown", 0 <= self.cooldown <= 1, "in [0, 1]")
        for name in ("highest_margin", "realism"):
            check_setting(self, name, 0 <= getattr(self, name) < math.inf, ">= 0")
        check_setting(self, "reached", 0 < self.reached < 1, "in (0, 1)")
        check_setting(self, "average_decay", 0 <= self.average_decay < 1, "in [0, 1)")
        # fp16 would need the loss scaled, and each side's gradient is taken by itself.
        check_setting(self, "mixed_precision", self.mixed_precision in ("bf16", "no"), "bf16 or no")


@dataclass(frozen=True)
class MouthConfig:
    """Settings of a training run; stored with the weights.

    Attributes:
        batch_size: patches an update.
        learning_rate: of AdamW; warmup: updates until it is reached; it falls to 0 like a cosine in
            the last `cooldown` share of the run.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights, which are the result.
        minutes, updates: the run ends at whichever comes first.
        report_every: updates between two validations.
        mixed_precision: "bf16" or "no".
        seed: of everything random.
    """

    batch_size: int = 24
    learning_rate: float = 3e-4
    warmup: int = 200
    cooldown: float = 1.0
    weight_decay: float = 1e-3
    ema_decay: float = 0.999
    minutes: float = 80.0
    updates: int = 1_000_000
    report_every: int = 500
    mixed_precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "updates", "report_every"):
            check_setting(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("learning_rate", "minutes"):
            check_setting(self, name, 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("warmup", "seed"):
            check_setting(self, name, getattr(self, name) >= 0, ">= 0")
        check_setting(self, "weight_decay", 0 <= self.weight_decay < math.inf, ">= 0")
        check_setting(self, "cooldown", 0 <= self.cooldown <= 1, "in [0, 1]")
        check_setting(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        check_setting(self, "mixed_precision", self.mixed_precision in ("bf16", "no"), "bf16 or no")


MAP_PRESETS = {
    "cpu": MAPTrainingConfig(updates=320),
    "gpu": MAPTrainingConfig(
        max_faces=20_000, batch_size=64, minutes=8, average_decay=0.995, report_every=100
    ),
}
