"""The loss that the noise baselines minimise: MAP's own, of the identity alone."""

import torch
from torch import Tensor

from map_pipeline.config import EMOTIONS, MARGINS
from map_pipeline.evaluation.methods.base import FacePlace, Task
from map_pipeline.evaluation.methods.gradients import Loss
from map_pipeline.identity.objectives import (
    Goals,
    RefineState,
    RefineTarget,
    active,
    default_objectives,
)
from map_pipeline.identity.targets import Target
from map_pipeline.pipeline import MAPPipeline


def identity_loss(
    pipe: MAPPipeline,
    task: Task,
    place: FacePlace,
    target: Target | None,
) -> Loss:
    """MAP's identity objectives as a function of the region's picture alone.

    Noise is free within its budget, so it gets the high margin.

    Args:
        target: None to dodge only.
    """
    objectives = active(default_objectives(), "identity")
    if target is None:
        objectives = [one for one in objectives if one.name != "impersonation"]
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
        target_embeddings=(
            {} if target is None else {name: target.embeddings[name] for name in surrogates}
        ),
        goals={name: Goals.of(net, MARGINS["high"]) for name, net in surrogates.items()},
        emotion=EMOTIONS.index(task.emotion),
    )

    def loss(picture: Tensor) -> Tensor:
        candidate = RefineState(
            moved=image,
            crop=picture,
            motion=picture.new_zeros(1, 0),
            embeddings=embed(picture),
            logits={},
            noise=(picture, picture),
        )
        return torch.stack([o.weight * o.loss(candidate, goal) for o in objectives]).sum()

    return loss
