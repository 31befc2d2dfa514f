"""What a call gives back: the pictures, and the report of each face."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline, tiny_recogniser
from PIL import Image
from pipeline_calls import QUICK, center, crop_area

from map_pipeline import EMOTIONS, MAPPipeline, MAPPipelineOutput, default_objectives, with_weights
from map_pipeline.images import load_image, to_array

pytestmark = pytest.mark.usefixtures("cheap_changes")
FACE_BOX = (177, 62, 270, 180)  # of the astronaut, px


def test_only_the_face_changes(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    # What tiny networks find isn't worth its price, so it's free here.
    free = [one for one in default_objectives() if one.side == "identity"]
    output = protect(photo, objectives=free, refine_steps=4)
    assert isinstance(output, MAPPipelineOutput)
    [result], [[report]] = output.images, output.reports
    assert result.shape == photo.shape
    assert result.dtype == np.uint8
    [face] = tiny_pipeline.face_detector.detect(photo)
    area = crop_area(tiny_pipeline, photo, face.landmarks)
    assert 0.02 < area.mean() < 0.3
    assert (result[~area] == photo[~area]).all()
    assert (result[area] != photo[area]).any()
    assert np.abs(center(report.box) - center(FACE_BOX)).max() < 15
    assert report.target == "first"
    assert report.emotion == "happy"
    assert report.detector == tiny_pipeline.face_detector.name
    assert -1 <= report.ssim <= 1
    assert report.psnr > 0


@pytest.mark.slow
def test_calls_do_not_influence_each_other(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray, couple: np.ndarray
) -> None:
    before = {k: v.clone() for k, v in tiny_pipeline.unet.state_dict().items()}
    first = protect(photo).images[0]
    protect(couple, seed=3, emotion="sad", faces="all", refine_steps=2)
    again = protect(photo).images[0]
    np.testing.assert_array_equal(first, again)
    assert all(torch.equal(v, before[k]) for k, v in tiny_pipeline.unet.state_dict().items())


@pytest.mark.slow
def test_without_a_generator_torch_manual_seed_decides(
    tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(np.array(tiny_pipeline(photo, **QUICK).images[0]))
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_list_of_photos(protect: Callable, photo: np.ndarray, couple: np.ndarray) -> None:
    photos = [couple, ASTRONAUT, photo[:200, 100:350]]
    output = protect(photos)
    assert [image.shape[:2] for image in output.images] == [(256, 448), (512, 512), (200, 250)]
    assert [len(reports) for reports in output.reports] == [1, 1, 1]
    for index in (0, 2):
        np.testing.assert_array_equal(output.images[index], protect(photos[index]).images[0])


@pytest.mark.slow
def test_tuple_instead_of_output(protect: Callable, photo: np.ndarray) -> None:
    images, reports = protect(photo, return_dict=False)
    assert isinstance(images[0], Image.Image)
    expected = protect(photo)
    np.testing.assert_array_equal(images[0], expected.images[0])
    assert reports[0][0].ssim == expected.reports[0][0].ssim


@pytest.mark.slow
def test_every_input_type_gives_the_same(protect: Callable, photo: np.ndarray) -> None:
    expected = protect(photo).images[0]
    tensor = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    for source in (
        ASTRONAUT,
        str(ASTRONAUT),
        ASTRONAUT.read_bytes(),
        Image.open(ASTRONAUT),
        tensor,
    ):
        np.testing.assert_array_equal(protect(source).images[0], expected)


def test_no_steps_returns_the_photo(protect: Callable, photo: np.ndarray) -> None:
    output = protect(photo, refine_steps=0)
    np.testing.assert_array_equal(output.images[0], photo)
    report = output.reports[0][0]
    assert report.psnr == math.inf
    assert report.ssim == pytest.approx(1, abs=1e-5)
    assert all(r.source_after == pytest.approx(1, abs=1e-5) for r in report.recognisers)
    assert not any(r.no_longer_matches for r in report.recognisers)


def test_report_is_complete(
    protect: Callable, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    report = protect(photo).reports[0][0]
    by_name = {r.name: r for r in report.recognisers}
    assert list(by_name) == list(tiny_pipeline.recognisers)
    used = {name for name, r in by_name.items() if r.used_in_optimisation}
    assert used == {"dlib_resnet", "mobilefacenet"}
    for name, one in by_name.items():
        net = tiny_pipeline.recognisers[name]
        limit = net.threshold(0.01)
        assert (one.title, one.family) == (net.config.title, net.config.family)
        assert one.thresholds == net.config.thresholds
        assert one.impersonates == (one.target_after >= limit)
        assert one.no_longer_matches == (one.source_after < limit)
        assert -1 <= one.target_before <= 1.001
    for one in report.expressions:
        for probabilities in (one.before, one.after):
            assert tuple(probabilities) == EMOTIONS
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    json.dumps(report.to_dict(), allow_nan=False)


def test_recogniser_without_thresholds_is_tuned_on_but_gives_no_verdict(photo: np.ndarray) -> None:
    """ArcFace comes without thresholds: it may be a surrogate and a judge all the same."""
    arcface = tiny_recogniser("arcface")
    arcface.register_to_config(thresholds={})
    pipe = build_tiny_pipeline()
    pipe.recognisers["arcface"] = arcface.requires_grad_(False)
    [[face]] = pipe(photo, surrogates=["arcface"], **QUICK).reports
    [report] = [one for one in face.recognisers if one.name == "arcface"]
    assert report.used_in_optimisation
    assert report.impersonates is None
    assert report.no_longer_matches is None


def test_what_was_not_optimised_is_not_called_used(protect: Callable, photo: np.ndarray) -> None:
    objectives = with_weights(default_objectives(), expression=0)
    [[face]] = protect(photo, objectives=objectives).reports
    assert not any(one.used_in_optimisation for one in face.expressions)
    assert any(one.used_in_optimisation for one in face.recognisers)


def test_transparent_photo_stays_transparent(tiny_pipeline: MAPPipeline) -> None:
    alpha = np.full((512, 512), 255, np.uint8)
    alpha[:20] = np.linspace(0, 250, 20).astype(np.uint8)[:, None]
    given = np.dstack([to_array(load_image(ASTRONAUT)), alpha])
    settings = {"refine_steps": 1, "emotion": "happy", "target": "auto"}
    output = tiny_pipeline(given, **settings)
    after = np.array(output.images[0])
    assert output.images[0].mode == "RGBA"
    np.testing.assert_array_equal(after[..., 3], alpha)
    assert (after[1:, :, :3] != given[1:, :, :3]).any(-1).mean() > 0.001  # its face has changed
    np.testing.assert_array_equal(after[1:20], given[1:20])
    plain = tiny_pipeline(given, output_type="np", **settings).images
    assert plain.shape == (1, 512, 512, 3)
