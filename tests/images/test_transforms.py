import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from map_pipeline.images import load_image, to_array
from map_pipeline.images.transforms import TRANSFORMS, add_noise, jpeg, resize, squeeze


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """`uint8 [201,300,3]`, of odd and even sides."""
    return to_array(load_image(ASTRONAUT))[:201, :300]


def flat(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_the_names_are_those_of_the_report() -> None:
    assert set(TRANSFORMS) == {
        *("none", "jpeg90", "jpeg75", "jpeg50", "resize50", "resize25", "share"),
        *("screenshot", "phone_filter", "blur", "noise", "squeeze4", "grey"),
    }


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transformation_is_repeatable_and_leaves_its_input_alone(
    name: str, photo: np.ndarray
) -> None:
    before = photo.copy()
    result = TRANSFORMS[name](photo, 3)
    assert result.dtype == np.uint8
    assert result.ndim == 3
    assert result.shape[2] == 3
    assert result.flags.writeable
    assert not np.shares_memory(result, photo)
    np.testing.assert_array_equal(photo, before)
    np.testing.assert_array_equal(result, TRANSFORMS[name](photo, 3))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_only_noise_depends_on_the_seed(name: str, photo: np.ndarray) -> None:
    same = np.array_equal(TRANSFORMS[name](photo, 0), TRANSFORMS[name](photo, 1))
    assert same == (name != "noise")


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n not in ("noise", "phone_filter")])
def test_a_flat_grey_photo_stays_flat(name: str) -> None:
    result = TRANSFORMS[name](flat(119), 0)  # 119 = 7 * 17 is a level of "squeeze4" as well
    assert np.ptp(result) == 0
    assert abs(int(result[0, 0, 0]) - 119) <= 1  # JPEG 50 stores the mean of a block in steps of 2


def test_none_is_the_photo(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(TRANSFORMS["none"](photo, 0), photo)


def test_a_lower_jpeg_quality_loses_more(photo: np.ndarray) -> None:
    psnr = [
        peak_signal_noise_ratio(photo, TRANSFORMS[name](photo, 0))
        for name in ("jpeg90", "jpeg75", "jpeg50")
    ]
    assert 45 > psnr[0] > psnr[1] + 1 > psnr[2] + 2 > 25


@pytest.mark.parametrize("quality", [90, 75, 50])
def test_the_name_tells_the_jpeg_quality(quality: int, photo: np.ndarray) -> None:
    result = TRANSFORMS[f"jpeg{quality}"](photo, 0)
    np.testing.assert_array_equal(result, jpeg(photo, quality))
    # Another encoder and decoder (OpenCV's) with the same tables
    content = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    other = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
    assert abs(result.astype(int) - other).mean() < 0.1


@pytest.mark.parametrize(("name", "size"), [("resize50", (100, 150)), ("resize25", (50, 75))])
def test_resizing_rounds_the_sides(name: str, size: tuple[int, int], photo: np.ndarray) -> None:
    assert TRANSFORMS[name](photo, 0).shape == (*size, 3)


def test_a_side_never_vanishes() -> None:
    assert resize(np.zeros((1, 40, 3), np.uint8), 0.25).shape == (1, 10, 3)


def test_resizing_filters_before_it_samples() -> None:
    stripes = flat(0)
    stripes[:, ::2] = 255
    halved = resize(stripes, 0.5)[:, 4:-4]
    assert abs(halved.astype(int) - 127.5).max() < 1  # without a filter: all 0 or all 255


def test_sharing_is_half_size_and_then_jpeg_75(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(TRANSFORMS["share"](photo, 0), jpeg(resize(photo, 0.5), 75))


def test_a_screenshot_is_smaller_and_its_edges_are_steeper() -> None:
    edge = flat(60, 300)
    edge[:, 150:] = 190
    shown, plain = TRANSFORMS["screenshot"](edge, 0), resize(edge, 0.62)
    assert shown.shape == plain.shape == (186, 186, 3)
    assert shown.min() < plain.min() - 2
    assert shown.max() > plain.max() + 2
    assert (shown[:, :80] == 60).all()


def test_a_phone_filter_adds_contrast_warmth_and_dark_corners() -> None:
    bright, dark = (TRANSFORMS["phone_filter"](flat(v, 65), 0)[32, 32] for v in (190, 60))
    red, green, blue = bright.astype(int)
    assert red > green > 190 > blue
    assert dark[1] < 60
    corner = TRANSFORMS["phone_filter"](flat(190, 65), 0)[0, 0]
    np.testing.assert_allclose(corner, bright * 0.65, atol=1)


@pytest.mark.parametrize("side", [512, 256])
def test_blur_is_gaussian_with_a_sigma_that_grows_with_the_photo(side: int) -> None:
    part = to_array(load_image(ASTRONAUT))[:side]
    blurred = TRANSFORMS["blur"](part, 0)

    def distance(share: float) -> float:
        sigma = share * side
        expected = gaussian_filter(part.astype(float), (sigma, sigma, 0), mode="nearest")
        return float(np.sqrt(((blurred - expected) ** 2).mean()))

    assert distance(0.006) < 0.7
    assert distance(0.006) < min(distance(0.0055), distance(0.0065))


def test_noise_has_its_standard_deviation_and_no_bias() -> None:
    noise = TRANSFORMS["noise"](flat(128, 200), 1) - 128.0
    assert noise.std() == pytest.approx(10, rel=0.01)
    assert abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02


def test_noise_is_clipped() -> None:
    half = 10 / np.sqrt(2 * np.pi)  # mean of what clipping leaves of the noise
    assert add_noise(flat(0), 10.0, seed=1).mean() == pytest.approx(half, rel=0.05)
    assert 255 - add_noise(flat(255), 10.0, seed=1).mean() == pytest.approx(half, rel=0.05)


def test_squeezing_to_four_bits_keeps_the_nearest_of_sixteen_levels() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    levels = np.arange(16) * 17
    nearest = levels[abs(ramp[..., None].astype(int) - levels).argmin(-1)]
    np.testing.assert_array_equal(squeeze(ramp, 4), nearest)


def test_grey_is_bt_601_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    luma = TRANSFORMS["grey"](colours, 0)
    np.testing.assert_array_equal(luma[..., 0], luma[..., 1])
    np.testing.assert_array_equal(luma[..., 0], luma[..., 2])
    assert luma[0, :, 0].tolist() == [76, 150, 29, 255]  # .299, .587 and .114 of 255
