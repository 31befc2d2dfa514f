"""The web page: `python app.py`, on a laptop, a CUDA machine or a Hugging Face ZeroGPU Space."""

import spaces  # isort: skip  (first: on ZeroGPU it has to patch CUDA before torch is imported)

import importlib.util
import os
import threading
from collections.abc import Callable, Generator, MutableMapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from map_pipeline.ui import style
from map_pipeline.ui.batch import total_gpu_seconds
from map_pipeline.ui.cache import use_own_cache
from map_pipeline.ui.clip import ClipJob, clip_gpu_seconds, protect_clip
from map_pipeline.ui.demo import build_page
from map_pipeline.ui.examples import load_examples
from map_pipeline.ui.memory import keep_memory_flat
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import Job, ProtectionService, Update
from map_pipeline.ui.settings import PageSettings
from map_pipeline.ui.theme import theme

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ZERO_GPU = bool(os.environ.get("SPACES_ZERO_GPU"))


def build_demo(settings: PageSettings, load: Callable[[], Any]) -> gr.Blocks:
    """The page; `start` launches it.

    Args:
        settings: what distinguishes this deployment.
        load: returns the `Models`; called in the background where the platform allows it.
    """
    service = ProtectionService(load, not ZERO_GPU, settings.keep_seconds)

    @spaces.GPU(duration=total_gpu_seconds)
    def run(jobs: Sequence[Job]) -> Generator[Update, None, None]:
        with errors_in_plain_words():
            yield from service.run(jobs)

    @spaces.GPU(duration=clip_gpu_seconds)
    def run_clip(job: ClipJob) -> Generator[Any, None, None]:
        with errors_in_plain_words():
            yield from protect_clip(service, job)

    targets = style.built_in_targets(settings.checkpoint)
    return build_page(settings, service, run, run_clip, targets)


def start(settings: PageSettings, load: Callable[[], Any], **options: Any) -> gr.Blocks:
    """Build and launch the page without waiting for its end; `options` go to `launch`."""
    keep_memory_flat()
    spare_loopback_from_proxies(os.environ)
    served = threading.Event()

    def load_once_served() -> Any:
        # Loading takes the processor, and Gradio gives its own page three seconds to answer.
        served.wait()
        return load()

    use_own_cache(settings.keep_seconds)
    demo = build_demo(settings, load if ZERO_GPU else load_once_served)
    targets = [one.picture for one in style.built_in_targets(settings.checkpoint)]
    photos = [Image.open(one.photo) for one in load_examples(settings.examples)]
    demo.queue(max_size=settings.queue_size, default_concurrency_limit=settings.concurrency)
    demo.launch(
        theme=theme(),
        css=style.page_css(targets, photos),
        run_history=False,  # it would keep photos in the visitor's browser
        max_file_size=settings.max_upload_bytes,
        enable_monitoring=False,
        allowed_paths=[str(settings.examples)],  # wherever the page is started from
        footer_links=["api", "gradio", "settings"],
        # Ours are gr.Error and are always shown; Gradio's own texts name files on the server.
        show_error=False,
        mcp_server=importlib.util.find_spec("mcp") is not None,
        **{**options, "prevent_thread_lock": True},
    )
    served.set()
    return demo


def spare_loopback_from_proxies(environment: MutableMapping[str, str]) -> None:
    """Let Gradio look for its own page without the proxy that the machine may be set to use.

    Args:
        environment: variables of the process; `no_proxy` and `NO_PROXY` get what they lack.
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [one.strip() for one in given.split(",") if one.strip()]
    if "*" in hosts:
        return
    hosts += [one for one in LOOPBACK if one not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def load_shipped(settings: PageSettings) -> Any:
    """The models of a checkpoint; torch is only imported here, when the page is already shown."""
    from map_pipeline.images import quiet_pillow
    from map_pipeline.ui.models import load_models

    quiet_pillow()
    return load_models(settings.checkpoint)


if __name__ == "__main__":
    shipped = PageSettings.from_environment()
    start(shipped, lambda: load_shipped(shipped)).block_thread()
