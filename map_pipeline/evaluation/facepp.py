"""Face++ compare: what a commercial service says, for users who have a key of their own.

API reference: https://console.faceplusplus.com/documents/5679308. Nothing here runs unless asked
for: photos of faces leave the machine, to a third party.
"""

import io
import os
import time
from typing import Self

import httpx
import numpy as np
from PIL import Image

from map_pipeline.errors import MAPError, NoFaceError, UnknownOptionError

# Accounts of the Chinese site would need `api-cn` in it.
ENDPOINT = "https://api-us.faceplusplus.com/facepp/v3/compare"
KEY_VARIABLE = "FACEPP_API_KEY"
SECRET_VARIABLE = "FACEPP_API_SECRET"

MAX_SIDE = 4096  # px, the service's limit
MIN_SIDE = 48  # px
# The service takes 2 MB a file and 2 MB a request of two files; the rest is for the form's text.
MAX_BYTES = 1_000_000
JPEG_QUALITY = 95
TIMEOUT = 60.0  # s, for each of connecting, sending and receiving
INTERVAL = 1.0  # s, from the start of a request to that of the next
TRIES = 6
# Worth another try: the rate limit, which all users of a key share, and the service's own faults.
TRANSIENT = ("CONCURRENCY_LIMIT_EXCEEDED", "INTERNAL_ERROR")


class ServiceError(MAPError):
    """An online service can't be reached or refuses the request."""


class FacePlusPlus:
    """Client of the compare API, limited to a rate and patient when the service is busy.

    Args:
        key: API key of the user's account; secret: its API secret. Neither is put into messages.
    """

    def __init__(self, key: str, secret: str) -> None:
        self._form = {"api_key": key, "api_secret": secret}
        self._next_start = time.monotonic()

    @classmethod
    def from_environment(cls) -> Self:
        """Take key and secret from `FACEPP_API_KEY` and `FACEPP_API_SECRET`.

        Raises:
            UnknownOptionError: one of them isn't set.
        """
        missing = [name for name in (KEY_VARIABLE, SECRET_VARIABLE) if not os.environ.get(name)]
        if missing:
            raise UnknownOptionError(
                "`facepp` must find the account's key in the environment, "
                f"got no {' and no '.join(missing)}."
            )
        return cls(os.environ[KEY_VARIABLE], os.environ[SECRET_VARIABLE])

    def compare(self, first: np.ndarray, second: np.ndarray) -> float:
        """Confidence in [0,100] that the biggest faces of two photos are one person's.

        The field reports its mean between protected photos and the target. The photos are sent as
        JPEG 95, reduced only as far as the service's limits ask for.

        Args:
            first, second: `uint8 [H,W,3]`.

        Raises:
            NoFaceError: the service finds no face in one of them.
            ServiceError: it can't be reached, refuses, or stays busy for `TRIES` tries.
        """
        files = {
            name: (f"{name}.jpg", encode(photo), "image/jpeg")
            for name, photo in (("image_file1", first), ("image_file2", second))
        }
        answer = self._post(files)
        if "confidence" in answer:
            return float(answer["confidence"])
        faceless = [number for number in (1, 2) if answer.get(f"faces{number}") == []]
        if not faceless:
            raise ServiceError(f"`facepp` must answer with a confidence, got {sorted(answer)}.")
        raise NoFaceError(
            "`photo` must show a face that Face++ finds, got none in photo "
            f"{' and '.join(map(str, faceless))}."
        )

    def _post(self, files: dict[str, tuple[str, bytes, str]]) -> dict:
        """Send a request, again while the service is busy, and return its JSON answer."""
        for attempt in range(TRIES):
            self._wait_for_turn(attempt)
            try:
                response = httpx.post(ENDPOINT, data=self._form, files=files, timeout=TIMEOUT)
            except httpx.HTTPError as error:
                raise ServiceError(
                    f"`facepp` must be reachable at {ENDPOINT}, got {type(error).__name__}."
                ) from None
            answer = _read(response)
            problem = answer.get("error_message")
            if response.is_success and problem is None:
                return answer
            if problem not in TRANSIENT:
                raise ServiceError(
                    "`facepp` must accept the request, got "
                    f"HTTP {response.status_code} {problem or 'without an error message'}."
                )
        raise ServiceError(f"`facepp` must answer within {TRIES} tries, got {problem} at the last.")

    def _wait_for_turn(self, attempt: int) -> None:
        """Keep the distance to the request before; twice as long after each refusal."""
        pause = INTERVAL * (2**attempt - 1)
        time.sleep(max(self._next_start - time.monotonic(), 0) + pause)
        self._next_start = time.monotonic() + INTERVAL


def encode(photo: np.ndarray) -> bytes:
    """A JPEG of a photo `uint8 [H,W,3]` within the service's limits of size and bytes."""
    image = Image.fromarray(photo)
    scale = max(min(MAX_SIDE / max(image.size), 1.0), MIN_SIDE / min(image.size))
    while True:
        size = tuple(min(max(round(side * scale), MIN_SIDE), MAX_SIDE) for side in image.size)
        buffer = io.BytesIO()
        fitting = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
        fitting.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
        scale *= 0.8


def _read(response: httpx.Response) -> dict:
    """The answer's JSON object; some refusals come as plain text."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    return {"error_message": response.text.strip()[:200] or response.reason_phrase}
