import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from map_pipeline.evaluation import styles
from map_pipeline.evaluation.styles import STYLES
from map_pipeline.faces.detect import load_detector
from map_pipeline.images import load_image, to_array
from tests.conftest import ASTRONAUT


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


def flat(value: int, side: int = 256) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize("name", STYLES)
def test_every_style_is_repeatable_and_keeps_the_size(name: str, photo: np.ndarray) -> None:
    part = photo[:150, :211]
    before = part.copy()
    result = STYLES[name](part)
    assert (result.dtype, result.shape) == (np.uint8, part.shape)
    np.testing.assert_array_equal(part, before)
    np.testing.assert_array_equal(result, STYLES[name](part))
    assert np.array_equal(result, part) == (name == "plain")


def test_the_face_is_still_found_in_every_style(photo: np.ndarray) -> None:
    detector = load_detector("bundled")
    [plain] = detector.detect(photo)
    for name, style in STYLES.items():
        [face] = detector.detect(style(photo))
        distance = np.linalg.norm(face.landmarks - plain.landmarks, axis=1).max()
        assert distance < 8, name  # px, a quarter of the distance between the eyes


def test_low_light_keeps_its_share_of_the_linear_light_with_shot_noise() -> None:
    encoded = STYLES["low_light"](flat(200)) / 255
    light = encoded**styles.DISPLAY_GAMMA * styles.LOW_LIGHT_PHOTONS
    photons = (200 / 255) ** 2.2 * styles.LOW_LIGHT_EXPOSURE * styles.LOW_LIGHT_PHOTONS
    assert light.mean() == pytest.approx(photons, rel=0.01)
    assert light.var() == pytest.approx(photons, rel=0.05)  # Poisson: the variance is the mean


def test_a_sketch_is_white_where_the_picture_is_flat_and_dark_on_the_dark_side_of_edges() -> None:
    np.testing.assert_array_equal(STYLES["sketch"](flat(90)), flat(255))
    edge = flat(60)
    edge[:, 128:] = 200
    drawn = STYLES["sketch"](edge)
    assert drawn[:, 126].max() < 150
    assert drawn[:, 130].min() == 255
    assert drawn[:, :100].min() == 255


def test_blurred_is_a_gaussian_of_a_share_of_the_shorter_side(photo: np.ndarray) -> None:
    sigma = styles.FOCUS_SIGMA * 256
    part = photo[:256]
    expected = gaussian_filter(part.astype(float), (sigma, sigma, 0), mode="nearest")
    assert np.sqrt(((STYLES["blurred"](part) - expected) ** 2).mean()) < 1
