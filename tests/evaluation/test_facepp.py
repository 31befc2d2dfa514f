"""The client of Face++, against a service that answers within the process."""

import io
from email.parser import BytesParser
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from map_pipeline.errors import NoFaceError, UnknownOptionError
from map_pipeline.evaluation import facepp
from map_pipeline.evaluation.facepp import ENDPOINT, FacePlusPlus, ServiceError, encode
from map_pipeline.images import load_image, to_array

KEY, SECRET = "key-of-nobody", "secret-of-nobody"
BUSY = (403, {"error_message": "CONCURRENCY_LIMIT_EXCEEDED"})


class FakeService:
    """Answers in the order of `answers` (status, JSON or text) and keeps what it was sent.

    The client's clock only moves when it sleeps.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict | list | str]] = []
        self.requests: list[tuple[str, dict[str, tuple[str | None, bytes]]]] = []
        self.now = 1000.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def answer(self, request: httpx.Request) -> httpx.Response:
        kind = b"Content-Type: " + request.headers["Content-Type"].encode()
        form = BytesParser().parsebytes(kind + b"\r\n\r\n" + request.read())
        fields = {
            part.get_param("name", header="content-disposition"): (
                part.get_filename(),
                part.get_payload(decode=True),
            )
            for part in form.get_payload()
        }
        self.requests.append((str(request.url), fields))
        if not self.answers:
            raise httpx.ConnectError("nobody there")
        status, content = self.answers.pop(0)
        if isinstance(content, str):
            return httpx.Response(status, text=content)
        return httpx.Response(status, json=content)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    fake = FakeService()
    client = httpx.Client(transport=httpx.MockTransport(fake.answer))
    monkeypatch.setattr(facepp.httpx, "post", client.post)
    return fake


@pytest.fixture
def client(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FacePlusPlus:
    clock = SimpleNamespace(monotonic=lambda: service.now, sleep=service.sleep)
    monkeypatch.setattr(facepp, "time", clock)
    return FacePlusPlus(KEY, SECRET)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


def test_the_request_is_what_the_service_documents(
    service: FakeService, client: FacePlusPlus, photo: np.ndarray
) -> None:
    service.answers = [(200, {"confidence": 71.8, "faces1": [{}], "faces2": [{}]})]
    other = photo[:, ::-1]
    assert client.compare(photo, other) == 71.8
    [(path, fields)] = service.requests
    assert path == ENDPOINT
    assert set(fields) == {"api_key", "api_secret", "image_file1", "image_file2"}
    assert fields["api_key"] == (None, KEY.encode())
    assert fields["api_secret"] == (None, SECRET.encode())
    for name, sent in (("image_file1", photo), ("image_file2", other)):
        filename, content = fields[name]
        assert filename == f"{name}.jpg"  # says nothing about the user's file
        image = Image.open(io.BytesIO(content))
        assert image.format == "JPEG"
        assert not image.getexif()
        assert peak_signal_noise_ratio(sent, to_array(image)) > 38


def test_requests_keep_their_distance(
    service: FakeService, client: FacePlusPlus, photo: np.ndarray
) -> None:
    service.answers = [(200, {"confidence": 1})] * 4
    client.compare(photo, photo)  # the first may go at once
    client.compare(photo, photo)
    service.now += 0.4  # the caller worked for a while
    client.compare(photo, photo)
    service.now += 5
    client.compare(photo, photo)
    assert service.sleeps == pytest.approx([0, 1, 0.6, 0])


def test_a_busy_service_is_asked_again_ever_more_patiently(
    service: FakeService, client: FacePlusPlus, photo: np.ndarray
) -> None:
    broken = (500, {"error_message": "INTERNAL_ERROR"})
    service.answers = [BUSY, BUSY, broken, (200, {"confidence": 12.5}), *[BUSY] * 20]
    assert client.compare(photo, photo) == 12.5
    assert service.sleeps == pytest.approx([0, 2, 4, 8])
    first, *others = service.requests
    assert all(one == first for one in others)
    with pytest.raises(ServiceError, match="within 6 tries, got CONCURRENCY_LIMIT_EXCEEDED"):
        client.compare(photo, photo)
    assert len(service.requests) == 4 + 6


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {"error_message": "AUTHENTICATION_ERROR"}), "HTTP 401 AUTHENTICATION_ERROR"),
        ((400, {"error_message": "INVALID_IMAGE_SIZE:image_file1"}), "INVALID_IMAGE_SIZE:image_f"),
        ((413, "Request Entity Too Large"), "HTTP 413 Request Entity Too Large"),
        ((502, ""), "HTTP 502 Bad Gateway"),
        ((404, {"oops": 1}), "HTTP 404 without an error message"),
        ((200, ["a", "list"]), "HTTP 200"),
        ((200, {"faces1": [{}], "faces2": [{}]}), "must answer with a confidence"),
    ],
)
def test_a_refusal_is_told_at_once_in_one_line_and_without_the_key(
    answer: tuple, text: str, service: FakeService, client: FacePlusPlus, photo: np.ndarray
) -> None:
    service.answers = [answer]
    with pytest.raises(ServiceError, match=text) as caught:
        client.compare(photo, photo)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("first", "second", "text"), [(0, 1, "photo 1"), (1, 0, "photo 2"), (0, 0, "photo 1 and 2")]
)
def test_a_missing_face_is_told(
    first: int,
    second: int,
    text: str,
    service: FakeService,
    client: FacePlusPlus,
    photo: np.ndarray,
) -> None:
    service.answers = [(200, {"faces1": [{}] * first, "faces2": [{}] * second})]
    with pytest.raises(NoFaceError, match=rf"got none in {text}\."):
        client.compare(photo, photo)


@pytest.mark.usefixtures("service")
def test_an_unreachable_service_is_told(client: FacePlusPlus, photo: np.ndarray) -> None:
    with pytest.raises(ServiceError, match=r"must be reachable at https://api.*got ConnectError"):
        client.compare(photo, photo)


def test_the_key_comes_from_the_environment(
    service: FakeService, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACEPP_API_SECRET", raising=False)
    monkeypatch.setenv("FACEPP_API_KEY", KEY)
    with pytest.raises(UnknownOptionError, match=r"got no FACEPP_API_SECRET\."):
        FacePlusPlus.from_environment()
    monkeypatch.setenv("FACEPP_API_SECRET", SECRET)
    service.answers = [(200, {"confidence": 50})]
    assert FacePlusPlus.from_environment().compare(photo, photo) == 50
    assert service.requests[0][1]["api_key"] == (None, KEY.encode())
    assert service.requests[0][1]["api_secret"] == (None, SECRET.encode())


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(800, 600, (800, 600)), (30, 20, (72, 48)), (5000, 1000, (4096, 819)), (4800, 40, (4096, 48))],
)
def test_photos_are_brought_into_the_limits_of_the_service(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    assert Image.open(io.BytesIO(encode(np.zeros((height, width, 3), np.uint8)))).size == expected


def test_a_photo_of_too_many_bytes_is_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    content = encode(noise)
    assert 500_000 < len(content) <= facepp.MAX_BYTES
    width, height = Image.open(io.BytesIO(content)).size
    assert width / height == pytest.approx(4 / 3, rel=0.01)
    assert width < 1600
