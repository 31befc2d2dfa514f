import io
import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from map_pipeline.errors import MAPError, NoFaceError, UnknownOptionError
from map_pipeline.evaluation import facepp
from map_pipeline.evaluation.facepp import FacePlusPlus, ServiceError, encode
from map_pipeline.images import load_image, to_array
from tests.conftest import ASTRONAUT

KEY, SECRET = "key-of-nobody", "secret-of-nobody"
BUSY = (403, {"error_message": "CONCURRENCY_LIMIT_EXCEEDED"})


class FakeService(ThreadingHTTPServer):
    """Answers in the order of `answers` (status, JSON or text) and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict | list | str]] = []
        self.requests: list[tuple[str, dict[str, tuple[str | None, bytes]]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/facepp/v3/compare"


class Handler(BaseHTTPRequestHandler):
    server: FakeService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        fields = {
            part.get_param("name", header="content-disposition"): (
                part.get_filename(),
                part.get_payload(decode=True),
            )
            for part in form.get_payload()
        }
        self.server.requests.append((self.path, fields))
        status, answer = self.server.answers.pop(0)
        content = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class Time:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def client(service: FakeService, time: Time) -> FacePlusPlus:
    return FacePlusPlus(KEY, SECRET, service.endpoint, 2.0, time.clock, time.sleep)


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
    assert path == "/facepp/v3/compare"
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
    service: FakeService, client: FacePlusPlus, time: Time, photo: np.ndarray
) -> None:
    service.answers = [(200, {"confidence": 1})] * 4
    client.compare(photo, photo)
    assert time.sleeps == []  # the first may go at once
    client.compare(photo, photo)
    time.now += 0.2  # the caller worked for a while
    client.compare(photo, photo)
    time.now += 5
    client.compare(photo, photo)
    assert time.sleeps == pytest.approx([0.5, 0.3])


def test_a_busy_service_is_asked_again_ever_more_patiently(
    service: FakeService, client: FacePlusPlus, time: Time, photo: np.ndarray
) -> None:
    broken = (500, {"error_message": "INTERNAL_ERROR"})
    service.answers = [BUSY, BUSY, broken, (200, {"confidence": 12.5})]
    assert client.compare(photo, photo) == 12.5
    assert time.sleeps == pytest.approx([1.0, 2.0, 4.0])
    first, *others = service.requests
    assert all(one == first for one in others)


def test_patience_ends(
    service: FakeService, client: FacePlusPlus, time: Time, photo: np.ndarray
) -> None:
    service.answers = [BUSY] * 20
    with pytest.raises(ServiceError, match="within 6 tries, got CONCURRENCY_LIMIT_EXCEEDED"):
        client.compare(photo, photo)
    assert len(service.requests) == facepp.TRIES == 6
    assert len(time.sleeps) == 5


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
    assert isinstance(caught.value, MAPError)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("faces", "text"),
    [(([], [{}]), "photo 1"), (([{}], []), "photo 2"), (([], []), "photo 1 and 2")],
)
def test_a_missing_face_is_told(
    faces: tuple[list, list],
    text: str,
    service: FakeService,
    client: FacePlusPlus,
    photo: np.ndarray,
) -> None:
    service.answers = [(200, {"faces1": faces[0], "faces2": faces[1]})]
    with pytest.raises(NoFaceError, match=rf"got none in {text}\."):
        client.compare(photo, photo)


def test_an_unreachable_service_is_told(service: FakeService, photo: np.ndarray) -> None:
    endpoint = service.endpoint
    service.shutdown()
    service.server_close()
    with pytest.raises(ServiceError, match=r"must be reachable at http://127.*got ConnectError"):
        FacePlusPlus(KEY, SECRET, endpoint).compare(photo, photo)


def test_the_key_comes_from_the_environment(
    service: FakeService, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEPP_API_KEY", KEY)
    monkeypatch.setenv("FACEPP_API_SECRET", SECRET)
    service.answers = [(200, {"confidence": 50})]
    assert FacePlusPlus.from_environment(service.endpoint).compare(photo, photo) == 50
    assert service.requests[0][1]["api_key"] == (None, KEY.encode())
    assert service.requests[0][1]["api_secret"] == (None, SECRET.encode())


@pytest.mark.parametrize("missing", ["FACEPP_API_KEY", "FACEPP_API_SECRET"])
def test_a_missing_key_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPP_API_KEY", KEY)
    monkeypatch.setenv("FACEPP_API_SECRET", SECRET)
    monkeypatch.setenv(missing, "")
    with pytest.raises(UnknownOptionError, match=rf"got no {missing}\."):
        FacePlusPlus.from_environment()


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(UnknownOptionError, match="`per_second` must be above 0"):
        FacePlusPlus(KEY, SECRET, per_second=rate)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((600, 800), (800, 600)),
        ((20, 30), (72, 48)),
        ((1000, 5000), (4096, 819)),
        ((40, 4800), (4096, 48)),
    ],
)
def test_photos_are_brought_into_the_limits_of_the_service(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Image.open(io.BytesIO(encode(np.zeros((*shape, 3), np.uint8)))).size == expected


def test_a_photo_of_too_many_bytes_is_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    content = encode(noise)
    assert 500_000 < len(content) <= facepp.MAX_BYTES
    width, height = Image.open(io.BytesIO(content)).size
    assert width / height == pytest.approx(4 / 3, rel=0.01)
    assert width < 1600
