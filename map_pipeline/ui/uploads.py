"""Pictures reach the page as uploads only."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from map_pipeline.ui import texts


class UploadsOnly(gr.Blocks):
    """A page that fetches nothing.

    Before any handler runs, Gradio fetches whatever file a request names by an address, for every
    kind of component, also for one that holds no file, and as large as it comes: past the limit on
    uploads, and past the gate of `map_pipeline.images`. So such a request ends here.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list, *rest: Any, **options: Any) -> Any:
        """Do what `gr.Blocks` does, where all files are uploads.

        Raises:
            gr.Error: a file is named by an address.
        """
        if any("://" in path or path.startswith(("//", "data:")) for path in _paths(inputs)):
            raise gr.Error(texts.NO_ADDRESSES, print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest, **options)


def _paths(value: Any) -> Iterator[str]:
    """All paths of files in what a request holds."""
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
