import json

import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline import EMOTIONS, MAPPipeline
from map_pipeline.evaluation.expression_judge import judge_expression
from map_pipeline.evaluation.gallery import embed_largest_face
from map_pipeline.images import load_image, to_array


def test_probabilities_are_the_networks(tiny_pipeline: MAPPipeline) -> None:
    photo = to_array(load_image(ASTRONAUT))
    judge = next(iter(tiny_pipeline.expression_classifiers.values()))
    [face, *_] = tiny_pipeline.face_detector.detect(photo)
    view = tiny_pipeline.view(photo, face.landmarks)
    with torch.no_grad():
        expected = judge(view.image, view.landmarks)[0].softmax(-1).tolist()
    found = json.loads(judge_expression(judge, embed_largest_face(tiny_pipeline, photo)))
    assert list(found) == list(EMOTIONS)
    assert list(found.values()) == pytest.approx(expected, abs=1e-5)
