"""Where the time of one protection goes, and how far it is from what the machine can do.

The package's functions are wrapped from outside for the duration of one call, so that nothing in
the product knows of it. A stage that begins within another interrupts it: times never overlap, and
with the rest they add up to the whole. The same meter with a counter of operations in place of the
clock tells the work of each stage.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from map_pipeline.errors import UnknownOptionError
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.pipeline import MAPPipeline

PHOTO_SIDE = 256  # px, of the photo made of a composite
MARGIN = 0.5  # around it, as a share of its side, so that a face is found
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}  # large enough to keep all units busy
MATMUL_SECONDS = 1.0
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
GIGA = 1e9
NEGLIGIBLE = 0.05 * GIGA  # operations; would be told as 0.0


@dataclass(frozen=True)
class Stage:
    """A part of the work.

    Attributes:
        title: what the table calls it.
        functions: "module:name" or "module:Class.name", what belongs to it.
        closed: what happens within it counts to it, even if that is a stage elsewhere.
    """

    title: str
    functions: tuple[str, ...] = ()
    closed: bool = False


REST = Stage("rest: crops, warps, copy of the network, conversion")
STAGES = (
    Stage(
        "reading, detection, landmarks",
        (
            "map_pipeline.images:load_image",
            "map_pipeline.faces.detect:BundledDetector.detect",
            "map_pipeline.faces.detect:InsightFaceDetector.detect",
            "map_pipeline.faces.landmarks:LandmarkFinder.find_aligned",
        ),
    ),
    Stage(
        "expression edit",
        (
            "map_pipeline.expression.editor:edit_expression",
            "map_pipeline.expression.editor:apply_edit",
        ),
        closed=True,
    ),
    Stage("inversion", ("map_pipeline.diffusion.ddim:invert",), closed=True),
    Stage("generations, forward", ("map_pipeline.diffusion.ddim:generate",), closed=True),
    Stage("noise prediction of score matching", ("map_pipeline.diffusion.ddim:predict_noise",)),
    Stage(
        "change put into the picture, views",
        ("map_pipeline.faces.paste:add_residual", "map_pipeline.identity.views:random_view"),
    ),
    Stage("recognisers, forward", ("map_pipeline.identity.recognisers:FaceRecogniser.forward",)),
    Stage(
        "expression networks, forward",
        (
            "map_pipeline.expression.classifiers:ExpressionClassifier.forward",
            "map_pipeline.expression.classifiers:TransformersExpressionClassifier.forward",
        ),
    ),
    Stage(
        "losses",
        tuple(
            f"map_pipeline.identity.losses:{name}"
            for name in (
                "impersonation_loss",
                "dodging_loss",
                "expression_loss",
                "smoothness_loss",
                "chroma_loss",
                "luma_loss",
                "multiscale_ssim",
                "visibility_loss",
                "score_matching_loss",
            )
        ),
    ),
    Stage("backward", ("torch.autograd:grad",)),
    Stage("gradients joined", ("map_pipeline.identity.refine:GradientCombiner.__call__",)),
    Stage("optimiser", ("torch.optim:Adam.step",)),
    Stage("paste into the photo", ("map_pipeline.faces.paste:paste_residual",)),
    Stage(
        "report",
        tuple(
            f"map_pipeline.measure:{name}"
            for name in (
                "redetect_landmarks",
                "image_quality",
                "compare_identities",
                "compare_expressions",
            )
        ),
        closed=True,
    ),
    REST,
)


@dataclass
class Meter:
    """Splits what a rising counter tells, such as a clock, between stages.

    Attributes:
        read: the counter.
        spent: stage -> what it rose by; calls: stage -> times it began.
    """

    read: Callable[[], float]
    spent: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)
    _open: list[Stage] = field(default_factory=lambda: [REST])
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.read()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count to a stage; within a closed one, or within itself, nothing begins."""
        if self._open[-1].closed or self._open[-1] is stage:
            yield
            return
        self.settle()
        self._open.append(stage)
        self.calls[stage] += 1
        try:
            yield
        finally:
            self.settle()
            self._open.pop()

    def settle(self) -> None:
        """Count what was spent until now to the stage that is open."""
        now = self.read()
        self.spent[self._open[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class Profile:
    """What one protection took.

    Attributes:
        what: photo, mode and machine in words.
        seconds, calls, flops: by stage; operations are those of `FlopCounterMode`, a multiplication
            and an addition each counting, of the PyTorch networks, forward and backward.
        peaks: "bf16" and "fp32" -> operations a second of a matrix product on the same threads.
    """

    what: str
    seconds: Counter
    calls: Counter
    flops: Counter
    peaks: dict[str, float]

    @property
    def limit(self) -> float:
        """Seconds that all operations would take at the faster of the two peaks."""
        return self.flops.total() / max(self.peaks.values())

    def to_markdown(self) -> str:
        """A table of the stages, and the ratio to the machine's limit."""
        whole, work = self.seconds.total(), self.flops.total()
        lines = [
            f"**{self.what}**",
            "",
            "| stage | calls | seconds | share | GFLOP | GFLOP/s |",
            "|---|---|---|---|---|---|",
            *(self._row(stage) for stage in STAGES if self.seconds[stage]),
            f"| all | | {whole:.2f} | 100.0 % | {work / GIGA:.1f} | {work / whole / GIGA:.1f} |",
            "",
            "Stages don't overlap. GFLOP are those of the PyTorch networks, forward and backward; "
            "detector and landmarks run in ONNX Runtime and aren't counted.",
            "",
        ]
        peaks = " and ".join(f"{one / GIGA:.0f} GFLOP/s in {n}" for n, one in self.peaks.items())
        lines.append(
            f"A matrix product reaches {peaks} here. At the faster one the networks alone would "
            f"take {self.limit:.2f} s: {100 * self.limit / whole:.1f} % of the machine's limit is "
            "reached."
        )
        return "\n".join(lines)

    def _row(self, stage: Stage) -> str:
        seconds, work = self.seconds[stage], self.flops[stage]
        share = 100 * seconds / self.seconds.total()
        calls = self.calls[stage] or ""
        counts = work >= NEGLIGIBLE
        rate = f"{work / GIGA:.1f} | {work / seconds / GIGA:.1f}" if counts else "- | -"
        return f"| {stage.title} | {calls} | {seconds:.2f} | {share:.1f} % | {rate} |"


def profile(
    pipe: MAPPipeline, photo: ImageInput | None = None, mode: str = "fast", seed: int = 0
) -> Profile:
    """Protect a photo three times: to warm up, by the clock, and counting operations.

    Args:
        photo: by default `example_photo`; mode: of the pipeline; seed: of all randomness.

    Raises:
        MAPError: the photo can't be protected.
    """
    if photo is None:
        photo, name = example_photo(pipe)
    else:
        name = "the photo given"
    picture = to_array(load_image(photo))
    pipe.set_progress_bar_config(disable=True)

    def protect() -> None:
        pipe(picture, mode=mode, generator=torch.Generator().manual_seed(seed))

    protect()
    by_clock = metered(protect, clock(pipe.device))
    with FlopCounterMode(display=False) as counter:
        by_work = metered(protect, counter.get_total_flops)
    height, width = picture.shape[:2]
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}, " if pipe.device.type == "cpu" else ""
    return Profile(
        what=f"{mode} mode, {name}, {width} x {height} px; {pipe.device}, {threads}"
        f"torch {torch.__version__}",
        seconds=by_clock.spent,
        calls=by_clock.calls,
        flops=by_work.spent,
        peaks={name: matmul_peak(dtype, pipe.device) for name, dtype in DTYPES.items()},
    )


def metered(function: Callable[[], object], read: Callable[[], float]) -> Meter:
    """Call a function once, with what the counter tells split between `STAGES`."""
    meter = Meter(read)
    with ExitStack() as stack:
        for stage in STAGES:
            for name in stage.functions:
                stack.enter_context(_wrapped(meter, stage, name))
        function()
        meter.settle()
    return meter


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds; on a GPU all that was asked of it is waited for first."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def matmul_peak(
    dtype: torch.dtype, device: torch.device, side: int | None = None, at_least: float | None = None
) -> float:
    """Operations a second of the fastest of several products of square matrices.

    Args:
        side: of the matrices; at_least: seconds to try for. Defaults fit a CPU or a GPU.
    """
    side = side or MATMUL_SIDE.get(device.type, MATMUL_SIDE["cpu"])
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    read, best = clock(device), float("inf")
    end = read() + (MATMUL_SECONDS if at_least is None else at_least)
    while True:
        started = read()
        first @ second
        now = read()
        best = min(best, now - started)
        if now > end:
            return 2 * side**3 / best


def example_photo(pipe: MAPPipeline) -> tuple[np.ndarray, str]:
    """A photo `uint8 [s,s,3]` made of the first built-in composite, and what it is.

    Raises:
        UnknownOptionError: the checkpoint has no composites.
    """
    if pipe.targets is None:
        raise UnknownOptionError("`PHOTO` must be given: this checkpoint holds no composites.")
    name = pipe.targets.names[0]
    picture = to_array(pipe.targets.picture(name))
    margin = round(MARGIN * picture.shape[0])
    wide = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    photo = load_image(wide).resize((PHOTO_SIDE, PHOTO_SIDE))
    return to_array(photo), f"the composite {name}"


@contextmanager
def _wrapped(meter: Meter, stage: Stage, name: str) -> Iterator[None]:
    """Let a function count to a stage, wherever the package refers to it."""
    owner, attribute = _find(name)
    original = getattr(owner, attribute)

    @wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with meter.stage(stage):
            return original(*args, **kwargs)

    package = [module for key, module in sys.modules.items() if key.startswith("map_pipeline")]
    places = [
        (place, key)
        for place in {id(one): one for one in (owner, *package)}.values()
        for key, value in list(vars(place).items())
        if value is original
    ]
    for place, key in places:
        setattr(place, key, counted)
    try:
        yield
    finally:
        for place, key in places:
            setattr(place, key, original)


def _find(name: str) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name there."""
    module, path = name.split(":")
    *classes, attribute = path.split(".")
    owner: Any = import_module(module)
    for one in classes:
        owner = getattr(owner, one)
    return owner, attribute
