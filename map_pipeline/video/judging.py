"""What recognisers say of a person in a clip, and how clearly a frame shows a face."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.config import FAR
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.quality import nose_offset
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.video.report import ClipVerdict


@dataclass
class Measured:
    """What recognisers saw of a person in the protected clip."""

    embeddings: list[Tensor] = field(default_factory=list)
    seconds: float = -np.inf


def verdict(
    name: str, net: FaceRecogniser, used: bool, source: Tensor, after: Tensor, target: Tensor | None
) -> ClipVerdict:
    """How one recogniser sees a person in the protected clip.

    Args:
        source: `[1,D]`, its mean embedding of the unprotected clip; after: `[N,D]` of N frames.
        target: `[1,D]` or None.
    """
    limit = net.threshold(FAR) if net.config.thresholds else None
    to_source = after @ source[0]  # [N]
    mean = float(F.normalize(after.mean(0), dim=0) @ source[0])
    to_target = None if target is None else after @ target[0]
    impersonated = None
    if limit is not None and to_target is not None:
        impersonated = float((to_target >= limit).float().mean())
    return ClipVerdict(
        name=name,
        title=net.config.title,
        family=net.config.family,
        used_in_optimisation=used,
        threshold=limit,
        frames=len(after),
        dodged=None if limit is None else float((to_source < limit).float().mean()),
        mean_similarity=mean,
        mean_dodged=None if limit is None else mean < limit,
        impersonated=impersonated,
    )


def sharpness(image: Tensor) -> float:
    """Mean gradient of `[1,3,h,w]` in [0,1]; a frame that is blurred by motion has little."""
    grey = image.mean(1)
    return float(grey.diff(dim=-1).abs().mean() + grey.diff(dim=-2).abs().mean())


def frontality(landmarks68: np.ndarray) -> float:
    """1 for a face that looks at the camera, towards 0 for one that is turned away."""
    return max(1 - nose_offset(five_points(landmarks68)), 0.05)
