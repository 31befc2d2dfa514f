"""The bundled detector on a public-domain photo, and insightface's error paths."""

import logging
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image, ImageDraw

from map_pipeline.errors import (
    CheckpointError,
    MAPError,
    UnknownOptionError,
)
from map_pipeline.faces import detect
from map_pipeline.faces.boxes import iou
from map_pipeline.faces.detect import (
    INSIGHTFACE_ROOT_VARIABLE,
    BundledDetector,
    Face,
    InsightFaceDetector,
    insightface_pack_present,
    load_detector,
    select_faces,
)
from map_pipeline.faces.landmarks import MIRRORED, five_points

# Read off the picture by eye, px; the detector must come within 6 % of the eyes' distance (42 px).
LANDMARKS = np.array([[204, 101], [247, 103], [224, 127], [201, 140], [245, 142]], np.float32)
EYE_DISTANCE = 42.0


@pytest.fixture(scope="module")
def detector() -> BundledDetector:
    return BundledDetector()


@pytest.fixture
def astronaut() -> Image.Image:
    return Image.open(ASTRONAUT).convert("RGB")


def assert_near(landmarks: np.ndarray, expected: np.ndarray, eye_distance: float) -> None:
    error = np.linalg.norm(landmarks - expected, axis=1) / eye_distance
    assert error.mean() < 0.06, error
    assert error.max() < 0.12, error


def test_one_face(detector: BundledDetector, astronaut: Image.Image) -> None:
    photo = np.asarray(astronaut)
    [face] = detector.detect(photo)
    assert face.landmarks.dtype == face.landmarks68.dtype == np.float32
    assert face.landmarks68.shape == (68, 2)
    assert 0.95 < face.score <= 1
    x0, y0, x1, y1 = face.box
    assert 160 < x0 < 195
    assert 250 < x1 < 290
    assert 45 < y0 < 90
    assert 165 < y1 < 195
    assert_near(face.landmarks, LANDMARKS, EYE_DISTANCE)
    assert np.array_equal(face.landmarks, five_points(face.landmarks68))


def test_crowd_is_searched_for_its_biggest_faces(
    detector: BundledDetector, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of thousands of faces would otherwise take minutes."""
    monkeypatch.setattr(detect, "MAX_FACES", 3)
    face = astronaut.crop((130, 20, 322, 212))
    crowd = Image.new("RGB", (400, 400))
    for side, corners in ((96, [(0, 0), (100, 0), (200, 0)]), (192, [(0, 200), (200, 200)])):
        for corner in corners:
            crowd.paste(face.resize((side, side)), corner)
    faces = detector.detect(np.asarray(crowd))
    assert len(faces) == 3
    assert min(faces[1].size) > 1.5 * min(faces[2].size)


def test_mirror_image_gives_mirrored_landmarks(
    detector: BundledDetector, astronaut: Image.Image
) -> None:
    [plain] = detector.detect(np.asarray(astronaut))
    [mirrored] = detector.detect(np.ascontiguousarray(np.asarray(astronaut)[:, ::-1]))
    expected = plain.landmarks68[MIRRORED] * [-1, 1] + [astronaut.width - 1, 0]
    assert np.linalg.norm(mirrored.landmarks68 - expected, axis=1).mean() < 0.04 * EYE_DISTANCE


@pytest.mark.parametrize("degrees", [-45, -30, 30, 45])
def test_rolled_face(detector: BundledDetector, astronaut: Image.Image, degrees: int) -> None:
    centre = (224, 120)
    turned = astronaut.rotate(degrees, Image.Resampling.BILINEAR, center=centre)
    [face] = detector.detect(np.asarray(turned))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = (LANDMARKS - centre) @ np.array([[cos, -sin], [sin, cos]]) + centre
    assert_near(face.landmarks, expected, EYE_DISTANCE)


@pytest.mark.parametrize("scale", [0.45, 3.0])
def test_other_sizes(detector: BundledDetector, astronaut: Image.Image, scale: float) -> None:
    side = round(512 * scale)
    [face] = detector.detect(np.asarray(astronaut.resize((side, side), Image.Resampling.LANCZOS)))
    assert_near(face.landmarks, (LANDMARKS + 0.5) * scale - 0.5, EYE_DISTANCE * scale)


def test_face_that_fills_the_photo(detector: BundledDetector, astronaut: Image.Image) -> None:
    close = astronaut.crop((177, 80, 272, 182))
    [face] = detector.detect(np.asarray(close))
    assert_near(face.landmarks, LANDMARKS - [177, 80], EYE_DISTANCE)


def test_two_faces_come_biggest_first(detector: BundledDetector, astronaut: Image.Image) -> None:
    canvas = Image.new("RGB", (1300, 800), (90, 120, 150))
    canvas.paste(astronaut.resize((300, 300)), (30, 400))
    canvas.paste(astronaut.resize((700, 700)), (500, 50))
    faces = detector.detect(np.asarray(canvas))
    assert len(faces) == 2
    for face, scale, corner in zip(
        faces, (700 / 512, 300 / 512), ((500, 50), (30, 400)), strict=True
    ):
        assert_near(face.landmarks, (LANDMARKS + 0.5) * scale - 0.5 + corner, EYE_DISTANCE * scale)


@pytest.mark.slow
@pytest.mark.parametrize("corner", [(1890, 1333), (3600, 2500)])
def test_small_face_in_twelve_megapixels(
    detector: BundledDetector, astronaut: Image.Image, corner: tuple[int, int]
) -> None:
    canvas = Image.new("RGB", (4000, 3000), (90, 120, 150))
    scale = 260 / 512  # the face is 47 px wide
    canvas.paste(astronaut.resize((260, 260), Image.Resampling.LANCZOS), corner)
    [face] = detector.detect(np.asarray(canvas))
    assert_near(face.landmarks, (LANDMARKS + 0.5) * scale - 0.5 + corner, EYE_DISTANCE * scale)
    assert select_faces([face]) == [face]


def test_no_face_in_noise_or_in_a_blank_picture(detector: BundledDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 250, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.full((333, 50, 3), 255, np.uint8)) == []


def test_threads_share_a_detector(astronaut: Image.Image) -> None:
    detector, photo = BundledDetector(), np.asarray(astronaut)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(detector.detect(photo)[0].landmarks))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for landmarks in results:
        np.testing.assert_allclose(landmarks, results[0], atol=1e-3)


def head_of(photo: Image.Image, face: Face) -> tuple[Image.Image, Image.Image, np.ndarray]:
    """A head cut out along an ellipse, its mask, and the landmarks' place in it."""
    x0, y0, x1, y1 = face.box
    width, height = face.size
    box = [x0 - 0.25 * width, y0 - 0.35 * height, x1 + 0.25 * width, y1 + 0.12 * height]
    corners = [round(corner) for corner in box]
    head = photo.crop(corners)
    mask = Image.new("L", head.size)
    ImageDraw.Draw(mask).ellipse((4, 2, head.width - 4, head.height - 2), fill=255)
    return head, mask, face.landmarks - np.float32(corners[:2])


def paste_head(
    canvas: Image.Image,
    head: tuple[Image.Image, Image.Image, np.ndarray],
    centre: tuple[float, float],
    scale: float,
) -> np.ndarray:
    """Put a head so that the middle of its landmarks lies at `centre`; return them."""
    picture, mask, landmarks = head
    landmarks = landmarks * scale
    corner = np.rint(np.array(centre) - landmarks.mean(0)).astype(int)
    size = (round(picture.width * scale), round(picture.height * scale))
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), tuple(corner), mask.resize(size))
    return landmarks + corner


@pytest.fixture(scope="module")
def heads(detector: BundledDetector) -> list[tuple[Image.Image, Image.Image, np.ndarray]]:
    """Cut out of two examples and scaled to faces 100 px wide."""
    found = []
    for name in ("astronaut", "woman-young-tan"):
        photo = Image.open(ASTRONAUT.parent / f"{name}.png").convert("RGB")
        [face] = detector.detect(np.asarray(photo))
        scale = 100 / face.size[0]
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        box = tuple(corner * scale for corner in face.box)
        found.append(head_of(photo, Face(box, face.landmarks * scale, 1.0)))
    return found


@pytest.mark.parametrize("place", [(0.45, 0.5), (-0.4, 0.55), (0.0, -0.55), (0.45, 0.0)])
def test_child_before_an_adult_is_found(
    detector: BundledDetector, heads: list, place: tuple[float, float]
) -> None:
    """The small face lies within the box of the large one."""
    canvas = Image.new("RGB", (640, 520), (90, 120, 150))
    expected = [paste_head(canvas, heads[0], (320, 250), 2.2)]
    at = (320 + 220 * place[0], 250 + 220 * place[1])
    expected.append(paste_head(canvas, heads[1], at, 0.45))
    found = detector.detect(np.asarray(canvas))
    assert len(found) == 2
    for face, landmarks in zip(found, expected, strict=True):
        error = np.linalg.norm(face.landmarks - landmarks, axis=1).mean()
        assert error < 0.2 * np.linalg.norm(landmarks[1] - landmarks[0])


@pytest.mark.parametrize("apart", [45, -45])
@pytest.mark.parametrize("front", [0, 1])
def test_two_equal_heads_that_overlap_are_found(
    detector: BundledDetector, heads: list, front: int, apart: int
) -> None:
    """Faces 60 px wide with their middles 45 px apart: one head covers a part of the other's face.

    At less than some 0.7 widths the one behind has lost an eye, and the detector sees no face.
    """
    canvas = Image.new("RGB", (640, 520), (90, 120, 150))
    expected = [
        paste_head(canvas, heads[1 - front], (300, 250), 0.6),
        paste_head(canvas, heads[front], (300 + apart, 250), 0.6),
    ]
    found = sorted(detector.detect(np.asarray(canvas)), key=lambda face: face.box[0])
    assert len(found) == 2
    expected.sort(key=lambda landmarks: landmarks[0, 0])
    for face, landmarks in zip(found, expected, strict=True):
        error = np.linalg.norm(face.landmarks - landmarks, axis=1).mean()
        assert error < 0.3 * np.linalg.norm(landmarks[1] - landmarks[0])


def turned(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Where points of a photo of this size lie after `np.rot90(photo, turns)`."""
    x, y = points[:, 0], points[:, 1]
    return np.stack(
        {
            1: (y, width - 1 - x),
            2: (width - 1 - x, height - 1 - y),
            3: (height - 1 - y, x),
        }[turns],
        1,
    )


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("name", ["astronaut", "hopper-grey", "man-older-dark"])
def test_turned_photo_shows_the_same_face(detector: BundledDetector, name: str, turns: int) -> None:
    photo = np.asarray(Image.open(ASTRONAUT.parent / f"{name}.png").convert("RGB"))
    height, width = photo.shape[:2]
    [upright] = detector.detect(photo)
    [face] = detector.detect(np.ascontiguousarray(np.rot90(photo, turns)))
    # The person's eyes stay first and second, whatever their sides in the photo are.
    expected = turned(upright.landmarks, turns, width, height)
    assert_near(face.landmarks, expected, upright.eye_distance)
    assert face.turns == 4 - turns
    corners = turned(np.reshape(upright.box, (2, 2)), turns, width + 1, height + 1)
    overlap = iou(np.array(face.box), np.concatenate([corners.min(0), corners.max(0)])[None])
    assert overlap[0] > 0.7


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_faces_beside_upright_ones_are_found_when_asked(
    detector: BundledDetector, turns: int
) -> None:
    names = ("woman-young-tan", "hopper-grey")
    pictures = [Image.open(ASTRONAUT.parent / f"{name}.png").convert("RGB") for name in names]
    upright, other = (picture.resize((256, 256)) for picture in pictures)
    lying = other.rotate(90 * turns)
    mixed = Image.new("RGB", (512, 256))
    mixed.paste(upright, (0, 0))
    mixed.paste(lying, (256, 0))
    faces = detector.detect(np.asarray(mixed), rotate=True)
    assert len(faces) == 2
    left, right = sorted(faces, key=lambda face: face.box[0])
    [expected] = detector.detect(np.asarray(other))
    places = turned(expected.landmarks, turns, 256, 256) + np.array([256, 0])
    assert (left.turns, right.turns) == (0, 4 - turns)
    assert_near(right.landmarks, places, expected.eye_distance)


def enlarged(photo: Image.Image, factor: float) -> Image.Image:
    return photo.resize((round(photo.width * factor), round(photo.height * factor)))


@pytest.mark.parametrize("name", ["astronaut", "woman-young-tan", "hopper-grey", "man-older-dark"])
@pytest.mark.parametrize(
    "change",
    ["inner face", "inner face, 2000 px", "pale", "dark", "pale inner face", "turned inner face"],
)
def test_hard_photos_get_a_second_look(detector: BundledDetector, name: str, change: str) -> None:
    photo = Image.open(ASTRONAUT.parent / f"{name}.png").convert("RGB")
    [face] = detector.detect(np.asarray(photo))
    x0, y0, x1, y1 = face.box
    width, height = face.size
    box = (x0 + width / 5, y0 + height / 5, x1 - width / 5, y1 - height / 5)
    box = [round(corner) for corner in box]
    landmarks = face.landmarks
    if "inner" in change:
        photo, landmarks = photo.crop(box), landmarks - box[:2]
    if "2000" in change:
        factor = 2000 / photo.width
        photo, landmarks = enlarged(photo, factor), (landmarks + 0.5) * factor - 0.5
    if "pale" in change:
        photo = photo.point(lambda value: 190 + value // 12)
    if change == "dark":
        photo = photo.point(lambda value: value // 16)
    if "turned" in change:
        landmarks = turned(landmarks, 1, *photo.size)
        photo = photo.transpose(Image.Transpose.ROTATE_90)
    [found] = detector.detect(np.asarray(photo))
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    assert np.linalg.norm(found.landmarks - landmarks, axis=1).mean() < 0.2 * eye_distance
    left, top, right, bottom = found.box
    assert (left, top) >= (0, 0)
    assert (right, bottom) <= photo.size


def test_found_at_once_means_no_second_look(
    detector: BundledDetector, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[int, ...]] = []
    find = detector._boxes.find
    monkeypatch.setattr(
        detector._boxes, "find", lambda photo: (looks.append(photo.shape), find(photo))[1]
    )
    assert len(detector.detect(np.asarray(astronaut))) == 1
    assert looks == [(512, 512, 3)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where insightface's model packs are looked for."""
    monkeypatch.setenv(INSIGHTFACE_ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("root")
def test_load_detector_by_name() -> None:
    assert load_detector("bundled").name == "RFB-320 + 68 points (bundled)"
    assert isinstance(load_detector(), BundledDetector)
    with pytest.raises(UnknownOptionError, match=r"one of auto, bundled.*; got 'mtcnn'"):
        load_detector("mtcnn")
    with pytest.raises(CheckpointError, match="must have its model pack in"):
        load_detector("insightface")


def test_insightface_without_a_pack(root: Path) -> None:
    assert not insightface_pack_present()
    with pytest.raises(CheckpointError, match=r"buffalo_l, got no \.onnx file"):
        InsightFaceDetector()
    (root / "models" / "buffalo_l").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"buffalo_l, got no \.onnx file"):
        InsightFaceDetector()


@pytest.mark.filterwarnings("ignore")  # insightface's imports warn about their own dependencies
def test_insightface_with_an_empty_folder_in_the_way_of_the_download(root: Path) -> None:
    pytest.importorskip("insightface")
    (root / "models" / "buffalo_l").mkdir(parents=True)
    with pytest.raises(MAPError, match="must find a detection model"):
        InsightFaceDetector(download=True)


@pytest.mark.filterwarnings("ignore")
def test_damaged_pack_is_refused_and_auto_falls_back(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("insightface")
    folder = root / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match="must be loadable from"):
        InsightFaceDetector()
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_detector("auto"), BundledDetector)
    assert "Using the bundled face detector" in caplog.text
