"""Who may be in a photo beside the faces that were found."""

import numpy as np
import pytest
from conftest import EXAMPLES
from PIL import Image

from map_pipeline.faces import doubts
from map_pipeline.faces.boxes import iou
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.doubts import DoubtFinder
from map_pipeline.faces.face import turn_face


@pytest.fixture(scope="module")
def finder() -> DoubtFinder:
    return DoubtFinder()


@pytest.fixture(scope="module")
def detector() -> BundledDetector:
    return BundledDetector()


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(EXAMPLES / f"{name}.png").convert("RGB"))


@pytest.mark.parametrize("name", ["astronaut", "hopper-grey", "man-older-dark", "video-call"])
def test_nothing_is_doubtful_once_all_are_found(
    finder: DoubtFinder, detector: BundledDetector, name: str
) -> None:
    photo = read(name)
    assert finder.find(photo, detector.detect(photo)) == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_face_that_was_not_found_is_doubtful(
    finder: DoubtFinder, detector: BundledDetector, turns: int
) -> None:
    photo = read("man-older-dark")
    [face] = detector.detect(photo)
    [box] = finder.find(np.ascontiguousarray(np.rot90(photo, turns)), [])
    expected = turn_face(face, turns, photo).box
    assert iou(np.array(box), np.array([expected]))[0] > 0.5


def test_faces_beyond_the_limit_of_a_crowd_are_doubtful(
    finder: DoubtFinder, detector: BundledDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are too small to be seen in the reduced photo."""
    portrait = Image.fromarray(read("astronaut")[20:212, 130:322]).resize((96, 96))
    crowd = Image.new("RGB", (2000, 400))
    for column in range(3):
        crowd.paste(portrait, (700 * column, 150))
    photo = np.asarray(crowd)
    faces = detector.detect(photo)
    assert len(faces) == 3
    assert finder.find(photo, faces[:2]) == []
    monkeypatch.setattr(doubts, "MAX_FACES", 2)
    [box] = finder.find(photo, faces[:2])
    assert iou(np.array(box), np.array([faces[2].box]))[0] > 0.5
