import math

import numpy as np
import pytest
from conftest import ASTRONAUT
from skimage.color import lab2rgb

from map_pipeline import MAPPipeline
from map_pipeline.evaluation.methods.base import find_face, find_shape
from map_pipeline.evaluation.skin_tone import CLASSES, skin_angle, skin_tone, typology_angle
from map_pipeline.images import load_image, to_array


def skin(lightness: float, red: float, yellow: float, count: int = 9) -> np.ndarray:
    return np.tile(lab2rgb(np.array([[lightness, red, yellow]], float)), (count, 1))


@pytest.mark.parametrize(
    ("lightness", "yellow", "angle"), [(70, 20, 45), (50, 15, 0), (40, 10, -45), (60, 17.32, 30)]
)
def test_angle_of_known_colours(lightness: float, yellow: float, angle: float) -> None:
    assert typology_angle(skin(lightness, 12, yellow)) == pytest.approx(angle, abs=0.1)


def test_angle_of_an_srgb_colour_by_hand() -> None:
    """(200, 150, 120) through the formulas of IEC 61966-2-1 and CIE 15, white (.9505, 1, 1.089)."""
    linear = ((np.array([200, 150, 120]) / 255 + 0.055) / 1.055) ** 2.4
    y = linear @ [0.2126, 0.7152, 0.0722]
    z = linear @ [0.0193, 0.1192, 0.9505] / 1.0888
    lightness, yellow = 116 * np.cbrt(y) - 16, 200 * (np.cbrt(y) - np.cbrt(z))
    expected = math.degrees(math.atan((lightness - 50) / yellow))
    assert typology_angle(np.array([[200, 150, 120]]) / 255) == pytest.approx(expected, abs=0.1)


def test_single_pixels_do_not_count() -> None:
    spots = np.concatenate([skin(70, 12, 20), np.ones((3, 3)), np.zeros((1, 3))])
    assert typology_angle(spots) == pytest.approx(45, abs=0.1)


def test_a_photo_without_colour_has_no_tone(tiny_pipeline: MAPPipeline) -> None:
    grey = to_array(load_image(ASTRONAUT).convert("L"))
    assert skin_angle(tiny_pipeline, np.repeat(grey[..., :1], 3, -1)) is None
    assert skin_angle(tiny_pipeline, np.full((90, 90, 3), 128, np.uint8)) is None  # no face
    assert typology_angle(np.zeros((0, 3))) is None


@pytest.mark.parametrize(
    ("angle", "name"),
    [
        *((55.1, "very light"), (55, "light"), (41, "intermediate"), (28, "tan"), (10, "brown")),
        *((-29.9, "brown"), (-30, "dark"), (-89, "dark")),
    ],
)
def test_classes(angle: float, name: str) -> None:
    assert skin_tone(angle) == name


def test_it_is_the_cheeks_that_count(tiny_pipeline: MAPPipeline) -> None:
    """Whatever the colour of everything else, and at any size of the photo."""
    photo = to_array(load_image(ASTRONAUT))
    place = find_face(tiny_pipeline, photo)
    shape = find_shape(tiny_pipeline, photo, place).numpy()
    angle = skin_angle(tiny_pipeline, photo)
    assert skin_tone(angle) in ("light", "intermediate", "very light")
    painted = photo.copy()
    x0, y0, _, _ = place.region.box
    assert place.region.scale == (1, 1)
    top = round(y0 + shape[17:27, 1].min()) - 12
    painted[: max(top, 0)] = (90, 60, 40)  # hair and background above the brows
    painted[:, : max(round(x0 + shape[0, 0]) - 20, 0)] = (90, 60, 40)
    assert skin_angle(tiny_pipeline, painted) == pytest.approx(angle, abs=1.5)
    large = np.repeat(np.repeat(photo, 2, 0), 2, 1)
    assert skin_angle(tiny_pipeline, large) == pytest.approx(angle, abs=1.5)
    assert list(CLASSES.values()) == sorted(CLASSES.values(), reverse=True)
