"""Which faces of a photo are protected, and how those are counted that aren't."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_calls import center, crop_area

from map_pipeline import MAPPipeline
from map_pipeline.errors import NoFaceError
from map_pipeline.faces.face import turn_box
from map_pipeline.report import PhotoReport

pytestmark = pytest.mark.usefixtures("cheap_changes")


@pytest.mark.slow
def test_all_faces(protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray) -> None:
    output = protect(couple, faces="all")
    [result], [[first, second]] = output.images, output.reports
    assert center(first.box)[0] < 256 < center(second.box)[0]  # biggest first
    area = np.zeros(couple.shape[:2], bool)
    for face in tiny_pipeline.face_detector.detect(couple):
        one = crop_area(tiny_pipeline, couple, face.landmarks)
        assert (result[one] != couple[one]).any()
        area |= one
    assert (result[~area] == couple[~area]).all()


@pytest.mark.slow
def test_chosen_face(protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray) -> None:
    large, small = tiny_pipeline.face_detector.detect(couple)
    output = protect(couple, faces=[small.box])
    [result], [[report]] = output.images, output.reports
    assert report.box == pytest.approx(small.box)
    outside = ~crop_area(tiny_pipeline, couple, small.landmarks)
    assert (result[outside] == couple[outside]).all()
    with pytest.raises(NoFaceError):
        protect(couple, faces=[(0, 200, 40, 256)])
    assert large.size > small.size


def test_faces_that_are_left_unprotected_are_counted(
    protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray
) -> None:
    large, small = tiny_pipeline.face_detector.detect(couple)
    for faces, left in ((None, [small.box]), ([small.box], [large.box]), ("all", [])):
        for report in protect(couple, faces=faces, refine_steps=0).reports[0]:
            assert report.photo == PhotoReport(2, left, [])
            assert report.to_dict()["photo"]["faces_unprotected"] == len(left)


def test_face_that_is_too_small_is_left_unprotected(protect: Callable, couple: np.ndarray) -> None:
    tiny = Image.fromarray(couple[32:224, 256:]).resize((60, 60))
    picture = Image.fromarray(couple).crop((0, 0, 360, 256))
    picture.paste((128, 128, 128), (256, 0, 360, 256))
    picture.paste(tiny, (280, 100))
    [report] = protect(np.array(picture), faces="all", refine_steps=0).reports[0]
    assert report.photo.faces_found == 2
    [box] = report.photo.unprotected
    assert 280 <= box[0] < box[2] <= 340


def test_boxes_of_an_array(protect: Callable, couple: np.ndarray) -> None:
    box = [280.0, 60, 370, 190]
    expected = protect(couple, faces=[box], refine_steps=0).reports[0][0].box
    for boxes in (np.array([box]), torch.tensor([box])):
        [report] = protect(couple, faces=boxes, refine_steps=0).reports[0]
        assert report.box == expected
        assert center(report.box)[0] > 256


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photo_is_measured_like_an_upright_one(
    protect: Callable, photo: np.ndarray, turns: int
) -> None:
    """Left as it is, it shows each network the very same face before and after."""
    [report] = protect(np.rot90(photo, turns).copy(), refine_steps=0).reports[0]
    [upright] = protect(photo, refine_steps=0).reports[0]
    assert report.problems == []
    expected = turn_box(upright.box, turns, *photo.shape[1::-1])
    assert np.abs(center(report.box) - center(expected)).max() < 15
    for one, other in zip(report.expressions, upright.expressions, strict=True):
        assert one.before == pytest.approx(other.before, abs=0.02)
    for one, other in zip(report.recognisers, upright.recognisers, strict=True):
        assert one.source_after == pytest.approx(1, abs=1e-3)
        assert one.target_before == pytest.approx(other.target_before, abs=0.02)


@pytest.mark.parametrize("turns", [1, 3])
def test_turned_face_beside_an_upright_one(
    protect: Callable, couple: np.ndarray, turns: int
) -> None:
    mixed = couple.copy()
    mixed[32:224, 256:] = np.rot90(couple[32:224, 256:], turns)
    reports = protect(mixed, faces="all", rotate=True, refine_steps=0).reports[0]
    assert len(reports) == 2
    assert sorted(center(report.box)[0] > 256 for report in reports) == [False, True]


def test_what_may_be_one_more_face_is_told(
    protect: Callable, tiny_pipeline: MAPPipeline, couple: np.ndarray, monkeypatch: Any
) -> None:
    """Here a detector overlooks the smaller face."""
    large, small = tiny_pipeline.face_detector.detect(couple)
    monkeypatch.setattr(tiny_pipeline.face_detector, "detect", lambda _photo: [large])
    [report] = protect(couple, faces="all", refine_steps=0).reports[0]
    assert report.photo.faces_found == 1
    [box] = report.photo.doubtful
    assert np.abs(center(box) - center(small.box)).max() < 15
