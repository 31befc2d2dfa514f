from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline import EMOTIONS, MAPPipeline
from map_pipeline.evaluation.data import Pair
from map_pipeline.evaluation.expression_judge import judge_expressions
from map_pipeline.images import load_image, save_image, to_array, to_pil


def test_unchanged_photos_keep_their_score(tiny_pipeline: MAPPipeline, tmp_path: Path) -> None:
    photo = ASTRONAUT.read_bytes()
    judge = next(iter(tiny_pipeline.encoders.values()))
    image = load_image(photo)
    [face, *_] = tiny_pipeline.face_detector.detect(to_array(image))
    view = tiny_pipeline.view(to_array(image), face.landmarks)
    with torch.no_grad():
        expected = judge(view.image, view.landmarks)[0].softmax(-1)
    for left_out in ("one", "two"):
        save_image(image, tmp_path / f"000_without_{left_out}.png")
    top = EMOTIONS[int(expected.argmax())]
    score = judge_expressions(tiny_pipeline, judge, [Pair("000", photo, photo)], tmp_path, top)
    assert score.n == 2
    assert score.hits_before == score.hits_after == 1
    assert score.probability_after == pytest.approx(float(expected.max()), abs=1e-5)


def test_a_lost_face_is_a_miss(tiny_pipeline: MAPPipeline, tmp_path: Path) -> None:
    photo = ASTRONAUT.read_bytes()
    judge = next(iter(tiny_pipeline.encoders.values()))
    save_image(to_pil(np.full((256, 256, 3), 128, np.uint8)), tmp_path / "000_without_one.png")
    pairs = [Pair("000", photo, photo)]
    scores = [judge_expressions(tiny_pipeline, judge, pairs, tmp_path, e) for e in EMOTIONS]
    assert sum(score.hits_before for score in scores) == 1
    assert all(score.hits_after == score.probability_after == 0 for score in scores)
