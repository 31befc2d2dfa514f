import numpy as np
import pytest
from conftest import ASTRONAUT
from scipy.ndimage import gaussian_filter

from map_pipeline.evaluation import styles
from map_pipeline.evaluation.styles import STYLES
from map_pipeline.faces.detect import load_detector
from map_pipeline.images import load_image, to_array


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


def flat(value: int, side: int = 256) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize("name", STYLES)
def test_every_style_is_repeatable_and_keeps_the_size(name: str, photo: np.ndarray) -> None:
    part = photo[:256, 96:351]
    before = part.copy()
    result = STYLES[name](part)
    assert (result.dtype, result.shape) == (np.uint8, part.shape)
    np.testing.assert_array_equal(part, before)
    np.testing.assert_array_equal(result, STYLES[name](part))
    assert np.array_equal(result, part) == (name == "plain")


def test_the_face_is_still_found_in_every_style(photo: np.ndarray) -> None:
    detector = load_detector("bundled")
    [plain] = detector.detect(photo)
    for name in sorted(set(STYLES) - {"tilted"}):
        [face] = detector.detect(STYLES[name](photo))
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


def test_sepia_is_brown_and_knows_no_hue() -> None:
    grey = STYLES["sepia"](flat(100))
    np.testing.assert_array_equal(grey[0, 0], np.rint(100 * np.array([1.351, 1.203, 0.937])))
    red, green = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], green[..., 1] = 201, 103  # of one brightness
    seen = [STYLES["sepia"](one)[0, 0].astype(int) for one in (red, green)]
    assert np.abs(seen[0] - seen[1]).max() <= 1


@pytest.mark.parametrize("side", [200, 800])
def test_a_scratched_print_is_an_old_one_with_marks_of_its_size(side: int) -> None:
    plain, scratched = (
        STYLES[name](flat(60, side)).astype(int) for name in ("old_photo", "scratched")
    )
    marked = np.abs(scratched - plain).max(-1) > 30
    assert 0.01 < marked.mean() < 0.05
    assert (scratched[marked].mean(0) > plain[marked].mean(0) + 40).all()
    assert marked.any(0).all()  # by the crease


def test_a_cartoon_has_few_tones_in_their_own_hues_and_dark_outlines() -> None:
    picture = flat(60, 512)
    picture[:, 256:] = (220, 180, 140)
    picture[::7, ::7] += 20  # texture, which goes
    drawn = STYLES["cartoon"](picture).astype(float)
    for part, colour in ((drawn[:, 40:200], (60, 60, 60)), (drawn[:, 300:480], (220, 180, 140))):
        assert np.ptp(part.reshape(-1, 3), axis=0).max() <= 1
        np.testing.assert_allclose(
            part[0, 0] / part[0, 0, 0], np.array(colour) / colour[0], atol=0.02
        )
        luma = float(part[0, 0] @ [0.299, 0.587, 0.114])
        assert luma * styles.CARTOON_TONES / 255 == pytest.approx(round(luma * 6 / 255), abs=0.05)
    assert drawn[:, 245:256].min() < 20
