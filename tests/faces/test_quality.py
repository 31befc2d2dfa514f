"""Which faces are named as unfit: on the real pictures, as they are and made worse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.face import Face, turn_face
from map_pipeline.faces.quality import quality_issues

EXAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "examples").glob("*.png")
    if not path.stem.endswith(".protected")
)
# The usual generic head of pose estimation, mm/10: eyes, nose tip, mouth corners (x, y, z).
HEAD = np.array(
    [(-165, -170, -135), (165, -170, -135), (0, 0, 0), (-150, 150, -125), (150, 150, -125)]
)


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def detector() -> BundledDetector:
    return BundledDetector()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read(next(path for path in EXAMPLES if path.stem == "woman-young-tan"))


@pytest.fixture(scope="module")
def face(detector: BundledDetector, photo: np.ndarray) -> Face:
    return detector.detect(photo)[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_faces_of_examples_are_clear(detector: BundledDetector, path: Path) -> None:
    photo = read(path)
    faces = detector.detect(photo)
    assert faces
    assert {quality_issues(face, photo) for face in faces} == {()}


@pytest.mark.parametrize("change", ["dark", "grey", "turned 20 degrees", "half size"])
def test_common_weaknesses_are_no_problem(detector: BundledDetector, change: str) -> None:
    [astronaut] = [path for path in EXAMPLES if path.stem == "astronaut"]
    image = Image.open(astronaut).convert("RGB")
    changed = np.array(
        {
            "dark": lambda: image.point(lambda value: value // 3),
            "grey": lambda: image.convert("L").convert("RGB"),
            "turned 20 degrees": lambda: image.rotate(20),
            "half size": lambda: image.reduce(2),
        }[change]()
    )
    assert quality_issues(detector.detect(changed)[0], changed) == ()


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_turned_faces_are_judged_as_if_upright(
    detector: BundledDetector, path: Path, turns: int
) -> None:
    photo = read(path)
    for face in detector.detect(photo):
        for judged in (photo, photo // 10 + 100):  # clear, and hard to make out
            turned = np.rot90(judged, turns)
            expected = quality_issues(face, judged)
            assert quality_issues(turn_face(face, turns, judged), turned) == expected


def looking(degrees: float) -> Face:
    """The generic head turned sideways, 80 px between the eyes, in a photo of 256 x 256 px."""
    angle = np.radians(degrees)
    x = HEAD[:, 0] * np.cos(angle) + HEAD[:, 2] * np.sin(angle)
    points = np.stack([x, HEAD[:, 1]], 1) * (80 / 330) + 128
    return Face((50.0, 50.0, 206.0, 206.0), points.astype(np.float32), 0.99)


@pytest.mark.parametrize("degrees", [-75, -60, 60, 75])
def test_profile_is_named(degrees: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert "turned to the side" in quality_issues(looking(degrees), noise)


@pytest.mark.parametrize("degrees", [-40, -20, 0, 20, 40])
def test_three_quarter_view_is_clear(degrees: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert quality_issues(looking(degrees), noise) == ()


def test_small_face_is_named_with_its_size(detector: BundledDetector, photo: np.ndarray) -> None:
    small = np.array(Image.fromarray(photo).resize((40, 40), Image.Resampling.LANCZOS))
    [problem] = quality_issues(detector.detect(small)[0], small)
    assert problem.startswith("too small: 1")
    assert problem.endswith("px between the eyes")


def test_face_cut_by_the_edge_is_named(photo: np.ndarray, face: Face) -> None:
    nose = int(face.landmarks[2, 0])
    cut = np.ascontiguousarray(photo[:, nose:])
    moved = Face(
        (0.0, *face.box[1:]), face.landmarks - np.float32([nose, 0]), face.score, face.landmarks68
    )
    assert any("cut off by the edge" in problem for problem in quality_issues(moved, cut))


@pytest.mark.parametrize("colour", [(0, 0, 0), (110, 150, 190)], ids=["black", "blue"])
@pytest.mark.parametrize("cover", ["mask", "glasses"])
def test_covered_face_is_named(
    photo: np.ndarray, face: Face, cover: str, colour: tuple[int, int, int]
) -> None:
    left, right, nose = face.landmarks[:3]
    eye_distance = right[0] - left[0]
    covered = photo.copy()
    if cover == "mask":
        covered[int(nose[1]) :, int(face.box[0]) : int(face.box[2])] = colour
    else:
        top, bottom = (int(left[1] + share * eye_distance) for share in (-0.3, 0.35))
        covered[top:bottom, int(face.box[0]) : int(face.box[2])] = colour
    assert "partly hidden or hard to make out" in quality_issues(face, covered)


def test_unsure_bundled_detector_is_told(photo: np.ndarray, face: Face) -> None:
    unsure = Face(face.box, face.landmarks, 0.8, face.landmarks68)
    assert quality_issues(unsure, photo) == ("partly hidden or hard to make out",)


def test_unsure_landmarks_are_told(photo: np.ndarray, face: Face) -> None:
    unsure = replace(face, uncertainty=0.06)
    assert quality_issues(unsure, photo) == ("partly hidden or hard to make out",)
