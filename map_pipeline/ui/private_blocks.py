"""Pictures reach the page as uploads only, and what was shown isn't remembered."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from map_pipeline.ui import texts


class PrivateBlocks(gr.Blocks):
    """A page that fetches nothing and remembers nothing.

    Before any handler runs, Gradio fetches whatever file a request names by an address, for every
    kind of component, also for one that holds no file, and as large as it comes: past the limit on
    uploads, and past the gate of `map_pipeline.images`. So such a request ends here.

    For its deep links, which this page doesn't have, Gradio also keeps the last value of every
    component of every tab, with previews in them, until ten thousand more tabs were opened.
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list, state: Any, *rest: Any, **options: Any
    ) -> Any:
        """Do what `gr.Blocks` does, where all files are uploads, and forget the values.

        Raises:
            gr.Error: a file is named by an address.
        """
        if any("://" in path or path.startswith(("//", "data:")) for path in _paths(inputs)):
            raise gr.Error(texts.NO_ADDRESSES, print_exception=False)
        with forgetting(state):
            return await super().preprocess_data(block_fn, inputs, state, *rest, **options)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Do what `gr.Blocks` does, and forget the values."""
        with forgetting(state):
            return await super().postprocess_data(block_fn, predictions, state)


@contextmanager
def forgetting(state: Any) -> Iterator[None]:
    """Empty what a session remembers of its components' values; `state` is Gradio's or None."""
    try:
        yield
    finally:
        if state is not None:
            state.config_values.clear()


def _paths(value: Any) -> Iterator[str]:
    """All paths of files in what a request holds."""
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
