"""The networks behind the page, and how long they take on this device."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from map_pipeline.compare import judging_copy
from map_pipeline.diffusion.unet import predict_noise
from map_pipeline.faces.detect import insightface_pack_present
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.ui.durations import FORWARDS


@dataclass(frozen=True)
class Models:
    """All that needs torch.

    Attributes:
        protecting: detector name -> pipeline on the device that protects. All share their networks.
        judging: detector name -> pipeline on the CPU that only measures and previews; the same as
            `protecting` where that is on the CPU, too. Its detectors never run in ZeroGPU's GPU
            process, because the threads of an onnxruntime session don't survive the fork.
        seconds: mode -> seconds that one face takes on this device, by a short calibration; None on
            ZeroGPU, where nothing can be measured but in a visitor's own GPU time.
    """

    protecting: dict[str, MAPPipeline]
    judging: dict[str, MAPPipeline]
    seconds: dict[str, float] | None


def load_models(checkpoint: Path, device: str | None = None) -> Models:
    """Load a checkpoint and move it to `device` ("cpu" or "cuda"; by default a GPU if there's one).

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
    """
    return prepare_models(MAPPipeline.from_pretrained(checkpoint), device)


def prepare_models(pipe: MAPPipeline, device: str | None = None) -> Models:
    """Share a pipeline, still on the CPU, among protecting, judging and all detectors at hand."""
    pipe.set_progress_bar_config(disable=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    judge = None if device == "cpu" else judging_copy(pipe)  # before the networks move
    pipe.to(device)
    protecting = by_detector(pipe)
    judging = by_detector(judge) if judge else protecting
    for one in [*judging.values(), *protecting.values()]:
        _ = one.face_detector  # loaded now, before several visitors ask for it at once
    zero_gpu = bool(os.environ.get("SPACES_ZERO_GPU"))
    seconds = None if zero_gpu else expected_seconds(pipe, device)
    return Models(protecting, judging, seconds)


def by_detector(pipe: MAPPipeline) -> dict[str, MAPPipeline]:
    """Detector name -> pipeline, for those that need no download; "auto" is the best of them."""
    names = ["insightface", "bundled"] if insightface_pack_present() else ["bundled"]
    pipes = {name: with_detector(pipe, name) for name in names}
    return {"auto": pipes[names[0]], **pipes}


def with_detector(pipe: MAPPipeline, name: str) -> MAPPipeline:
    """A pipeline with the networks of `pipe`, not copied, and another detector."""
    settings = ("alignment_template", "surrogates", "target_ranker", "weights_date")
    kept = {key: pipe.config[key] for key in settings}
    other = MAPPipeline(**pipe.components, **kept, detector=name)
    other.set_progress_bar_config(disable=True)
    return other


def expected_seconds(pipe: MAPPipeline, device: str) -> dict[str, float]:
    """Mode -> seconds that one face takes, from a short run of the networks."""
    unit = forward_seconds(pipe, device)
    return {mode: unit * passes for mode, passes in FORWARDS.items()}


@torch.no_grad()
def forward_seconds(pipe: MAPPipeline, device: str, repeats: int = 5) -> float:
    """Seconds of one forward pass of score network and recognisers; the best of `repeats`.

    Only forward: a backward pass in ZeroGPU's main process would break CUDA for its GPU process.
    """
    size = pipe.unet.config.sample_size
    latents = torch.zeros(1, pipe.unet.config.in_channels, size, size, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    photo = torch.zeros(1, 3, 256, 256, device=device)
    landmarks = torch.tensor([[[98, 120], [158, 120], [128, 155], [103, 185], [153, 185]]])

    def forward() -> None:
        predict_noise(pipe.unet, latents, 0)
        for net in pipe.recognisers.values():
            net(photo, landmarks.float().to(device))
        wait()

    forward()  # the first one also sets up memory and kernels
    return min(_seconds(forward) for _ in range(repeats))


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
