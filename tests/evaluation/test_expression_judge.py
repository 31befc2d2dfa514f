import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline import EMOTIONS, MAPPipeline
from map_pipeline.evaluation.expression_judge import expression_summary, judge_expression
from map_pipeline.evaluation.gallery import embed_largest_face
from map_pipeline.evaluation.results import PhotoRow
from map_pipeline.evaluation.verification import wilson
from map_pipeline.images import load_image, to_array

ROW = PhotoRow(
    photo="001",
    method="map",
    left_out="",
    style="plain",
    status="ok",
    psnr=30.0,
    ssim=0.9,
    ms_ssim=0.9,
    lpips=None,
    naturalness_before=None,
    naturalness_after=None,
    seconds=1.0,
    peak_memory_mb=1.0,
    unet_calls=1,
    recogniser_calls=1,
    emotion="happy",
    emotion_before=json.dumps({"happy": 0.1, "neutral": 0.9}),
    emotion_after=json.dumps({"happy": 0.7, "neutral": 0.3}),
)


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


def test_without_a_face_or_a_judge(tiny_pipeline: MAPPipeline) -> None:
    judge = next(iter(tiny_pipeline.expression_classifiers.values()))
    assert embed_largest_face(tiny_pipeline, np.full((256, 256, 3), 128, np.uint8)) is None
    assert judge_expression(judge, None) == "{}"
    assert judge_expression(None, None) == ""


def test_hits_probabilities_and_confusion() -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, emotion_before=ROW.emotion_after),
        dataclasses.replace(ROW, emotion_after="{}"),  # the face is gone: a miss
        dataclasses.replace(ROW, emotion="sad", emotion_after=ROW.emotion_before),
    ]
    found = expression_summary(rows, "the judge", "all")
    assert (found["judge"], found["emotion"]) == ("the judge", "all")
    low, high = wilson(2, 4)
    assert found["hits_after"] == {"rate": 0.5, "low": low, "high": high, "n": 4}
    assert found["hits_before"]["rate"] == 0.25
    assert found["probability_before"] == pytest.approx((0.1 + 0.7 + 0.1 + 0) / 4)
    assert found["probability_after"] == pytest.approx((0.7 + 0.7 + 0 + 0) / 4)
    assert found["confusion"] == {
        "happy": {"happy": 2, "no face": 1},
        "sad": {"neutral": 1},
    }


def test_failed_photos_are_misses() -> None:
    failed = dataclasses.replace(ROW, status="no face", ssim=math.nan, emotion_after="{}")
    found = expression_summary([failed], "the judge", "happy")
    assert found["hits_after"]["rate"] == found["probability_after"] == 0
