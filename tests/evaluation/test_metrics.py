import math

import numpy as np
import pytest
from conftest import ASTRONAUT
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from map_pipeline.errors import InvalidImageError
from map_pipeline.evaluation.metrics import pair_quality
from map_pipeline.images import load_image, to_array
from map_pipeline.images.transforms import add_noise, blur


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


@pytest.fixture(scope="module")
def worse(photo: np.ndarray) -> np.ndarray:
    return add_noise(blur(photo, 0.003), 6.0, seed=0)


def test_a_photo_is_like_itself(photo: np.ndarray) -> None:
    psnr, ssim = pair_quality(photo, photo)
    assert psnr == math.inf
    assert ssim == pytest.approx(1, abs=1e-6)


def test_psnr_and_ssim_agree_with_scikit_image(photo: np.ndarray, worse: np.ndarray) -> None:
    psnr, ssim = pair_quality(photo, worse)
    assert psnr == pytest.approx(peak_signal_noise_ratio(photo, worse), abs=1e-3)
    # scikit-image leaves out the 5 px of the border that torchmetrics mirrors.
    border = ((5, 5), (5, 5), (0, 0))
    expected = structural_similarity(
        np.pad(photo, border, "reflect"),
        np.pad(worse, border, "reflect"),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=255,
    )
    assert ssim == pytest.approx(expected, abs=1e-4)
    assert 0.5 < expected < 0.95


def test_photos_of_different_sizes_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(
        InvalidImageError, match=r"size of `source` \[512, 512, 3\], got \[512, 511"
    ):
        pair_quality(photo, photo[:, 1:])
