"""What protecting a photo costs: time, memory, and calls of the networks.

Nothing in the product knows that it is being measured: calls are counted by a hook on all modules
(the U-Net that MAP trains is a copy made during the call), memory by a thread.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.pipeline import MAPPipeline

SAMPLE_SECONDS = 0.01  # between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """What one call used.

    Attributes:
        seconds: wall clock time.
        peak_memory_mb: most memory in use during the call, MiB (2^20 bytes): allocated on the GPU
            if the pipeline is on one, else resident in this process, networks included.
        unet_calls: forward passes of the score network or a copy of it, however large the batch.
        recogniser_calls: forward passes of recognisers, all of them together.
    """

    seconds: float
    peak_memory_mb: float
    unet_calls: int
    recogniser_calls: int


def measure(pipe: MAPPipeline, function: Callable[[], np.ndarray]) -> tuple[np.ndarray, Cost]:
    """Run a function once and measure it.

    Args:
        pipe: whose networks are counted.
        function: protects a photo with them. What it raises passes through.

    Returns:
        its result and cost. Whatever else this process does meanwhile is counted, too.
    """
    device = pipe.device
    memory = _gpu_memory(device) if device.type == "cuda" else _resident_memory()
    with memory as peak, _counted(type(pipe.unet)) as unet, _counted(FaceRecogniser) as recogniser:
        started = time.perf_counter()
        result = function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return result, Cost(seconds, peak.bytes / 2**20, unet.calls, recogniser.calls)


@dataclass
class _Peak:
    bytes: int = 0


@dataclass
class _Count:
    calls: int = 0


@contextmanager
def _counted(kind: type[nn.Module]) -> Iterator[_Count]:
    """Count the forward passes of all modules of a kind."""
    count = _Count()

    def add(module: nn.Module, _inputs: object, _outputs: object) -> None:
        count.calls += isinstance(module, kind)

    hook = register_module_forward_hook(add)
    try:
        yield count
    finally:
        hook.remove()


@contextmanager
def _gpu_memory(device: torch.device) -> Iterator[_Peak]:
    peak = _Peak()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield peak
    finally:
        peak.bytes = torch.cuda.max_memory_allocated(device)


@contextmanager
def _resident_memory() -> Iterator[_Peak]:
    """Look at the resident memory again and again in a thread."""
    peak, finished = _Peak(resident_bytes()), threading.Event()

    def watch() -> None:
        while not finished.wait(SAMPLE_SECONDS):
            peak.bytes = max(peak.bytes, resident_bytes())

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        finished.set()
        thread.join()
        peak.bytes = max(peak.bytes, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss
