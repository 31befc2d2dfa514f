"""Pictures of a training run: what a prior makes of a few faces, and the losses of a MAP network.

matplotlib, which draws the curves, is needed for them only.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image, ImageDraw
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import FaceConditioner, is_conditional
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.unet import patch_size, patchify, unpatchify
from map_pipeline.errors import MAPError
from map_pipeline.files import write_atomically
from map_pipeline.images import to_pil
from map_pipeline.training.augment import Batch
from map_pipeline.training.validation import GENERATION_STEPS, INVERSION_STEPS, round_trip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE_FACES = 4
ROUND_TRIP_LEVEL, EXPRESSION_LEVEL = 300, 400
GAP, HEADING = 2, 14  # px

# Panel -> its curves: name in a report and colour (of Okabe and Ito, safe for the colour-blind).
PANELS = {
    "identity loss L_A": {"impersonation": "#0072B2", "dodging": "#56B4E9"},
    "expression loss L_E": {"expression": "#D55E00"},
    "share of conflicting layers": {"conflict": "#222222"},
}
LINES = ("-", "--", ":", "-.")  # one a run


@torch.no_grad()
def sample_grid(
    unet: UNet2DModel, conditioner: FaceConditioner, scheduler: DDIMScheduler, faces: Batch
) -> Image.Image | None:
    """One row a face: source, inverted and generated back, re-generated with each emotion.

    None without faces; a network that takes no condition shows no emotions.
    """
    if not len(faces.images):
        return None
    condition = conditioner(faces.condition) if is_conditional(unet) else None
    columns = {
        "source": faces.images,
        "round trip": round_trip(unet, scheduler, faces.images, ROUND_TRIP_LEVEL, condition),
    }
    if condition is not None:
        columns |= expressions(unet, conditioner, scheduler, faces)
    return lay_out(columns)


def expressions(
    unet: UNet2DModel, conditioner: FaceConditioner, scheduler: DDIMScheduler, faces: Batch
) -> dict[str, Tensor]:
    """Emotion -> the faces `[B,3,S,S]` generated with it.

    The condition leaves out their landmarks, which are those of the emotion they show.
    """
    known = faces.condition
    nothing = replace(
        known, emotion=torch.zeros_like(known.emotion), has_shape=torch.zeros_like(known.has_shape)
    )
    patch, level = patch_size(unet), EXPRESSION_LEVEL
    latents = patchify(faces.images, patch)
    start = invert(unet, scheduler, latents, level, INVERSION_STEPS, conditioner(nothing))
    found = {}
    for name, row in zip(EMOTIONS, torch.eye(len(EMOTIONS)), strict=True):
        asked = replace(nothing, emotion=row.to(known.emotion).expand_as(known.emotion))
        latents = generate(unet, scheduler, start, level, GENERATION_STEPS, conditioner(asked))
        found[name] = unpatchify(latents.float(), patch).clamp(0, 1)
    return found


def lay_out(columns: Mapping[str, Tensor]) -> Image.Image:
    """Pictures `[B,3,S,S]` in [0,1] as one column a heading, on white."""
    stacked = torch.stack(list(columns.values()), 1).float().cpu()  # [B,K,3,S,S]
    padded = F.pad(stacked, [0, GAP, 0, GAP], value=1.0)
    rows, count, _, height, width = padded.shape
    pixels = padded.permute(2, 0, 3, 1, 4).reshape(3, rows * height, count * width)
    sheet = to_pil(F.pad(pixels, [GAP, 0, HEADING, 0], value=1.0))
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(columns):
        draw.text((GAP + column * width, 1), heading, fill="black")
    return sheet


def write_curves(runs: Sequence[Path], path: Path) -> None:
    """Draw the losses of both objectives and the share of conflicting layers over the updates.

    Args:
        runs: folders with `training_map.json`; several are compared.
        path: of the PNG file.

    Raises:
        MAPError: a run without a report, or matplotlib isn't installed.
    """
    names = [run.absolute().name for run in runs]
    if len(set(names)) < len(names):  # a/map and b/map
        names = [str(run) for run in runs]
    reports = {name: _reports(run) for name, run in zip(names, runs, strict=True)}
    write_atomically(path, draw_curves(reports))


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """PNG file with the curves of runs; each is a list of what `train_map` reported."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MAPError("Curves need matplotlib: python -m pip install matplotlib") from None
    figure = Figure(figsize=(6.4, 7.2), dpi=144, layout="constrained")
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    for axes, (title, curves) in zip(panels, PANELS.items(), strict=True):
        axes.set_title(title, loc="left")
        _draw(axes, curves, runs)
    panels[-1].set_ylim(0, 1)
    panels[-1].set_xlabel("updates")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw(
    axes: "Axes",
    curves: Mapping[str, str],
    runs: Mapping[str, Sequence[Mapping[str, float]]],
) -> None:
    for (run, reports), line in zip(runs.items(), LINES * len(runs), strict=False):
        for name, colour in curves.items():
            # Missing are objectives that were off, or whose batches weren't drawn for a while.
            points = [(one["update"], one[name]) for one in reports if name in one]
            if points:
                label = f"{name}, {run}" if len(runs) > 1 else name
                axes.plot(*zip(*points, strict=True), line, color=colour, label=label, marker=".")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3")
    if axes.get_lines():
        axes.legend(frameon=False)


def _reports(run: Path) -> list[dict[str, float]]:
    path = run / "training_map.json"
    if not path.is_file():
        raise MAPError(f"`run` must be a folder with training_map.json, got {run}.")
    reports = json.loads(path.read_text())["reports"]
    if not reports:
        raise MAPError(f"`run` must have reported once at least, got none in {path}.")
    return reports
