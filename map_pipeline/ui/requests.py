"""Around every request: who sent it, and errors in words that a visitor understands."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from map_pipeline.errors import MAPError
from map_pipeline.ui import texts

logger = logging.getLogger(__name__)


def visitor(request: gr.Request) -> str:
    """Address of whoever sent a request; on a Space, only its proxy knows it."""
    forwarded = request.headers.get("x-forwarded-for") if "SPACE_ID" in os.environ else None
    return forwarded.split(",")[0].strip() if forwarded else request.client.host


def plain_words(error: Exception) -> str:
    """An error as a visitor reads it; what isn't one of the package is logged, without its text.

    The frames that it went through are emptied: Gradio keeps errors, and frames keep the photo.
    """
    text = texts.WRONG_ON_OUR_SIDE
    if isinstance(error, gr.Error):
        return error.message
    if isinstance(error, MAPError):
        text = str(error).replace("`", "")
    else:
        # Where it happened, without the message: that may give something of the photo away.
        places = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s at\n%s", type(error).__name__, places)
    _forget_frames(error)
    return text


@contextmanager
def errors_in_plain_words() -> Iterator[None]:
    """Turn every error into a `gr.Error`, the only kind that ZeroGPU passes on to the visitor."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(plain_words(error), print_exception=False) from None


def _forget_frames(error: BaseException | None) -> None:
    """Empty the ended frames that an error and those before it went through."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
