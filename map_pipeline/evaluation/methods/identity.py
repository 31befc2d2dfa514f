"""The loss that the noise baselines minimise: MAP's own, of the identity alone."""

import torch
from torch import Tensor

from map_pipeline.config import EMOTIONS, MAPConfig
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods.base import FacePlace, Task
from map_pipeline.evaluation.methods.gradients import Loss
from map_pipeline.identity.objectives import (
    Objective,
    RefineState,
    RefineTarget,
    active,
    default_objectives,
)
from map_pipeline.identity.targets import Target
from map_pipeline.measure import working_threshold
from map_pipeline.pipeline import MAPPipeline


def identity_loss(
    pipe: MAPPipeline,
    task: Task,
    place: FacePlace,
    target: Target,
    objectives: list[Objective] | None = None,
) -> Loss:
    """MAP's identity objectives as a function of the region's picture alone.

    Args:
        objectives: default `guidance.default_objectives()`; only their identity side counts.

    Raises:
        UnknownOptionError: there is no identity objective with a positive weight.
    """
    objectives = active(default_objectives() if objectives is None else objectives, "identity")
    if not objectives:
        raise UnknownOptionError("`objectives` must hold an identity objective, got none.")
    surrogates = {name: pipe.recognisers[name] for name in task.surrogates}
    image = place.region.image.to(pipe.device)
    landmarks = place.region.landmarks[None].to(pipe.device)

    def embed(picture: Tensor) -> dict[str, Tensor]:
        return {name: net(picture, landmarks).float() for name, net in surrogates.items()}

    with torch.no_grad():
        source = embed(image)
    goal = RefineTarget(
        source_region=image,
        source_crop=image,  # the identity side looks at embeddings only
        source_embeddings=source,
        target_embeddings={name: target.embeddings[name] for name in surrogates},
        thresholds={name: working_threshold(net) for name, net in surrogates.items()},
        emotion=EMOTIONS.index(task.emotion),
        ssim_budget=MAPConfig().ssim_budget,
    )

    def loss(picture: Tensor) -> Tensor:
        candidate = RefineState(
            crop=picture,
            region=picture,
            embeddings=embed(picture),
            logits={},
            noise=(picture, picture),
        )
        return torch.stack([o.weight * o.loss(candidate, goal) for o in objectives]).sum()

    return loss
