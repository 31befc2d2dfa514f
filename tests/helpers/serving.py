"""The page as programs call it, with a stand-in for what ZeroGPU does to its generator."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import spaces
from gradio_client import Client, handle_file

import app
from map_pipeline import MAPPipeline
from map_pipeline.ui.clip import ClipJob
from map_pipeline.ui.models import Models, prepare_models
from map_pipeline.ui.settings import PageSettings

# Every call over the boundary to the GPU process: duration asked for, faces or people, what
# came back.
gpu_calls: list[tuple[int, int, list]] = []


def pickling_gpu(duration: Callable[..., int]) -> Callable:
    """What `spaces.GPU` does to a generator on ZeroGPU, as far as a CPU can: ask for a duration
    with exactly the call's arguments, and pass arguments, results and errors through pickle."""

    def decorate(task: Callable) -> Callable:
        def call(*args: Any) -> Iterator:
            answer: list = []
            [asked] = args
            faces = asked.people if isinstance(asked, ClipJob) else sum(len(j.boxes) for j in asked)
            gpu_calls.append((duration(*args), faces, answer))
            try:
                for item in task(*pickle.loads(pickle.dumps(args))):
                    answer.append(pickle.loads(pickle.dumps(item)))
                    yield answer[-1]
            except GeneratorExit:
                answer.append("closed")
                raise
            except Exception as error:
                raise pickle.loads(pickle.dumps(error)) from None

        return call

    return decorate


@contextmanager
def running_page(
    settings: PageSettings,
    networks: MAPPipeline | Callable[[], Models],
    cache: Path | None = None,
    gpu: Callable | None = None,
) -> Iterator[gr.Blocks]:
    """The page, served until the block ends.

    Args:
        networks: those of a pipeline, or what loads them.
        cache: folder for uploads and results, instead of the environment's.
        gpu: stands in for `spaces.GPU`.
    """
    load = networks
    if isinstance(networks, MAPPipeline):
        load = partial(prepare_models, networks, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        if cache is not None:
            patch.setenv("GRADIO_TEMP_DIR", str(cache))
        if gpu is not None:
            patch.setattr(spaces, "GPU", gpu)
        page = app.start(
            settings,
            load,
            prevent_thread_lock=True,
            quiet=True,
            server_name="127.0.0.1",
            share=False,
        )
        try:
            yield page
        finally:
            page.close()


def protect(client: Client, photo: Path, **settings: Any) -> tuple[str, str, list, int]:
    settings = {"steps": 1, **settings}
    return client.predict(photo=handle_file(photo), **settings, api_name="/protect")
