"""Where the time of a protection goes: `torch.profiler` around the pipeline's own stages."""

import time

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from map_pipeline.images import ImageInput
from map_pipeline.pipeline import MAPPipeline

# Labels of `record_function` in the pipeline, its stages and the refinement.
STAGES = {
    "detect": "face detection",
    "express": "expression edit",
    "invert": "inversion",
    "generate": "generation, forward",
    "denoise": "noise prediction for L_SM",
    "recognise": "recognisers, forward",
    "classify": "expression classifiers, forward",
    "gradients": "backward, projection and step",
    "report": "report",
}
MATMUL_SIDE, MATMUL_REPEATS = 2048, 5


def profile_protection(
    pipe: MAPPipeline, photo: ImageInput | None = None, mode: str = "fast", seed: int = 0
) -> str:
    """Protect a photo once to warm up, once by the clock and once under the profiler.

    Args:
        photo: by default a built-in composite.

    Returns:
        a Markdown table of the stages, and the share of the machine's matmul peak that is used.
    """
    picture = pipe.targets.picture(pipe.targets.names[0]) if photo is None else photo
    pipe.set_progress_bar_config(disable=True)

    def protect() -> None:
        pipe(picture, mode=mode, generator=torch.Generator().manual_seed(seed))

    protect()
    started = time.perf_counter()
    protect()
    seconds = time.perf_counter() - started
    activities = [ProfilerActivity.CPU]
    if pipe.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, with_flops=True) as recorded:
        protect()
    events = recorded.key_averages()
    times = {event.key: event.cpu_time_total / 1e6 for event in events}
    total = sum(times.get(label, 0.0) for label in STAGES)
    rows = [
        {"stage": title, "seconds": times.get(label, 0.0), "share": times.get(label, 0.0) / total}
        for label, title in STAGES.items()
    ]
    table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=("", ".2f", ".0%"))
    rate = sum(event.flops for event in events) / seconds
    peak = matmul_peak(pipe.device)
    return (
        f"{table}\n\n{seconds:.2f} s by the clock without the profiler, in which forward passes "
        f"do {rate / 1e9:.1f} GFLOP/s: {rate / peak:.0%} of this machine's {peak / 1e9:.0f} "
        "GFLOP/s in float32 matrix products. Operations of backward passes aren't counted."
    )


def matmul_peak(device: torch.device) -> float:
    """Operations per second of float32 matrix products, the best of several."""
    first, second = (torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)

    def seconds() -> float:
        started = time.perf_counter()
        first @ second
        wait()
        return time.perf_counter() - started

    return 2 * MATMUL_SIDE**3 / float(np.min([seconds() for _ in range(MATMUL_REPEATS + 1)]))
