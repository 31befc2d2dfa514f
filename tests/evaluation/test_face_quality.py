import math

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline import MAPPipeline
from map_pipeline.evaluation.face_quality import face_quality, patchy_share
from map_pipeline.expression.warp import deform_photo, displacement
from map_pipeline.faces.detect import select_faces
from map_pipeline.images import load_image, to_array


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))[:280, 60:370].copy()


def test_an_unchanged_face_is_perfect(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    found = face_quality(tiny_pipeline, photo, photo)
    assert found.psnr == math.inf
    assert found.ssim == pytest.approx(1, abs=1e-5)
    assert found.patches == 0


def test_only_the_face_counts(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    away = photo.copy()
    away[-20:] = 255 - away[-20:]
    assert face_quality(tiny_pipeline, photo, away).psnr > 60
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 12, photo.shape), 0, 255)
    found = face_quality(tiny_pipeline, photo, noisy.astype(np.uint8))
    assert 15 < found.psnr < 40
    assert found.ssim < 0.99
    assert found.patches < 0.02  # grain is no patch


def test_a_moved_feature_is_no_paint(bundled_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """Much of the error of a motion is undone; what is left is that of the landmarks."""
    [face] = select_faces(bundled_pipeline.face_detector.detect(photo), "largest")
    stages = bundled_pipeline.stages
    alignment = stages.align(face)
    crop, shape = stages.aligned_crop(photo, alignment)
    moved = shape.clone()
    moved[48:, 1] += 5.0
    result = deform_photo(photo, alignment, displacement(shape, moved, alignment.size)[0])
    after, _ = stages.aligned_crop(result, alignment)
    plain = -10 * math.log10(float((after - crop).square().mean()))
    assert face_quality(bundled_pipeline, photo, result).psnr > plain + 1


def test_no_face_no_quality(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    assert face_quality(tiny_pipeline, photo * 0, photo) is None


def test_patches_are_broad_and_lie_on_skin(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    [face] = select_faces(tiny_pipeline.face_detector.detect(photo), "largest")
    stages = tiny_pipeline.stages
    crop, shape = stages.aligned_crop(photo, stages.align(face))
    lighter, slightly = (crop + 0.06, crop + 0.02)
    assert patchy_share(crop, lighter, shape) > 0.95
    assert patchy_share(crop, slightly, shape) == 0
    half = torch.where(torch.arange(crop.shape[-1]) < crop.shape[-1] // 2, lighter, crop)
    assert 0.2 < patchy_share(crop, half, shape) < 0.8
