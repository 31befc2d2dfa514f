"""The page keeps nothing of a photo that it refused."""

import weakref

import gradio as gr
import numpy as np
import pytest

from map_pipeline.errors import MAPError, NoFaceError
from map_pipeline.ui.requests import errors_in_plain_words


@pytest.mark.parametrize("error", [NoFaceError("no face"), KeyError("a fault of ours")])
def test_an_error_shown_to_a_visitor_does_not_hold_the_photo(error: Exception) -> None:
    """Gradio keeps errors until the garbage is collected: 250 MB each for a large photo."""
    photos = []

    def find_faces(photo: np.ndarray) -> None:
        photos.append(weakref.ref(photo))
        raise error

    with pytest.raises(gr.Error) as shown, errors_in_plain_words():
        find_faces(np.zeros(3))
    assert not isinstance(shown.value, MAPError)
    assert photos[0]() is None
