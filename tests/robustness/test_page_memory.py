"""The page keeps nothing of a photo that it refused."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from map_pipeline.errors import MAPError, NoFaceError
from map_pipeline.ui.endpoints import Endpoints
from map_pipeline.ui.rate_limit import RateLimit
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.settings import PageSettings


@pytest.mark.parametrize("error", [NoFaceError("no face"), KeyError("a fault of ours")])
def test_an_error_shown_to_a_visitor_does_not_hold_the_photo(error: Exception) -> None:
    """Gradio keeps errors until the garbage is collected: 250 MB each for a large photo."""
    photos = []

    def decode(photo: np.ndarray) -> None:
        photos.append(weakref.ref(photo))
        raise OSError("the cause")

    def find_faces(photo: np.ndarray) -> None:
        photos.append(weakref.ref(photo))
        try:
            decode(photo.copy())
        except OSError:
            raise error from None

    with pytest.raises(gr.Error) as shown, errors_in_plain_words():
        find_faces(np.zeros(3))
    assert not isinstance(shown.value, MAPError)
    assert [photo() for photo in photos] == [None, None]


def test_a_refused_photo_is_forgotten_at_once(tmp_path: Path) -> None:
    """Also by the frames of the endpoints, which an error shown to a visitor goes through."""
    photos = []

    def refuse(photo: Image.Image, *_: object) -> None:
        photos.append(weakref.ref(photo))
        raise NoFaceError("no face")

    calls = dict.fromkeys(("find_faces", "prepare", "job", "compare"), refuse)
    service = SimpleNamespace(**calls, check=lambda *_: None, loading=False)
    endpoints = Endpoints(service, iter, iter, RateLimit(0, 60), [], str(tmp_path), PageSettings())
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(path)
    file = {"path": str(path)}
    request = SimpleNamespace(client=SimpleNamespace(host="1.2.3.4"), headers={})
    for call in (
        lambda: endpoints.detect(file),
        lambda: endpoints.compare(file, file),
        lambda: list(endpoints.protect(file, request=request)),
        lambda: list(endpoints.protect(file, file, consent=True, request=request)),
    ):
        gc.disable()
        try:
            with pytest.raises(gr.Error, match="no face") as kept:
                call()
            assert photos[-1]() is None
            assert kept.value  # still there, as Gradio keeps it
        finally:
            gc.enable()
    assert len(photos) == 4
    # A batch gives the reason of each photo instead.
    gc.disable()
    try:
        *_, (_, text, outcomes, _) = endpoints.protect_batch([file, file], request=request)
        assert [photo() for photo in photos[4:]] == [None, None]
    finally:
        gc.enable()
    assert text == "Photo 1: no face\nPhoto 2: no face"
    assert not any(one["protected"] for one in outcomes)
