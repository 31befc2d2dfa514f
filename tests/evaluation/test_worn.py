"""What is drawn on faces: it covers what it should, and nothing else."""

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline.errors import NoFaceError
from map_pipeline.evaluation import worn
from map_pipeline.evaluation.styles import STYLES, TILT
from map_pipeline.faces.detect import load_detector
from map_pipeline.faces.landmarks import EYES, MOUTH
from map_pipeline.images import load_image, to_array

NAMES = ("glasses", "beard", "made_up", "mask")
NOSE_TIP, CHIN, FOREHEAD = 30, 8, 21


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


@pytest.fixture(scope="module")
def shape(photo: np.ndarray) -> np.ndarray:
    """`[68,2]` px."""
    detector, finder = worn._finders()
    return finder.find(photo, detector.detect(photo)[0].box)[0]


def around(picture: np.ndarray, points: np.ndarray, reach: int = 2) -> np.ndarray:
    """Mean colour near the middle of some landmarks."""
    x, y = points.reshape(-1, 2).mean(0).round().astype(int)
    return picture[y - reach : y + reach + 1, x - reach : x + reach + 1].mean((0, 1))


def test_glasses_frame_the_eyes_and_leave_them_open(photo: np.ndarray, shape: np.ndarray) -> None:
    result = STYLES["glasses"](photo)
    for eye in EYES:
        assert around(result, shape[eye]) == pytest.approx(around(photo, shape[eye]), rel=0.15)
        unit = worn.eye_distance(torch.from_numpy(shape))
        below = shape[eye].mean(0)
        below[1] += (worn.LENS[1] + worn.RIM / 2) * unit
        assert around(result, below, 0).max() < 60
    assert (around(result, shape[CHIN]) == around(photo, shape[CHIN])).all()


def test_a_mask_covers_mouth_and_leaves_eyes_and_nose(photo: np.ndarray, shape: np.ndarray) -> None:
    result = STYLES["mask"](photo)
    red, _, blue = around(result, shape[MOUTH])
    assert blue > red + 30
    for place in (*(shape[eye] for eye in EYES), shape[NOSE_TIP]):
        assert (around(result, place) == around(photo, place)).all()


def test_a_beard_darkens_the_chin_and_leaves_the_lips(photo: np.ndarray, shape: np.ndarray) -> None:
    result = STYLES["beard"](photo)
    chin = (shape[CHIN] + shape[57]) / 2
    assert around(result, chin, 4).mean() < 0.75 * around(photo, chin, 4).mean()
    assert around(result, shape[MOUTH]) == pytest.approx(around(photo, shape[MOUTH]), rel=0.1)
    assert (around(result, shape[FOREHEAD]) == around(photo, shape[FOREHEAD])).all()


def test_make_up_reddens_lips_and_darkens_lids(photo: np.ndarray, shape: np.ndarray) -> None:
    result = STYLES["made_up"](photo)
    before, after = (around(one, shape[57:58], 0) for one in (photo, result))
    assert after[0] - after[1] > before[0] - before[1] + 30
    lid = (shape[37] + shape[19]) / 2
    assert around(result, lid, 0).mean() < around(photo, lid, 0).mean() - 10
    assert (around(result, shape[CHIN], 0) == around(photo, shape[CHIN], 0)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_without_a_face_is_refused(name: str) -> None:
    with pytest.raises(NoFaceError):
        STYLES[name](np.full((90, 70, 3), 120, np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_far_from_the_face(name: str, photo: np.ndarray) -> None:
    result = STYLES[name](photo)
    assert (result != photo).any()
    assert (result[300:] == photo[300:]).all()


def test_a_tilted_face_is_turned_about_the_middle(photo: np.ndarray) -> None:
    detector = load_detector("bundled")
    plain, turned = (detector.detect(one)[0].landmarks for one in (photo, STYLES["tilted"](photo)))

    def roll(landmarks: np.ndarray) -> float:
        x, y = landmarks[1] - landmarks[0]
        return float(np.degrees(np.arctan2(y, x)))

    assert roll(plain) - roll(turned) == pytest.approx(TILT, abs=6)
