"""What a protection costs, by size of the photo, number of faces and number of photos."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image

from map_pipeline.evaluation.cost import measure
from map_pipeline.evaluation.tables import Table
from map_pipeline.images import to_array, to_pil
from map_pipeline.pipeline import MAPPipeline

MEGAPIXEL = 1_000_000
SIDE, BATCH = 256, 16  # px of small photos; photos in one call
Call = tuple[str, int, list[np.ndarray]]
"""What is protected, how many faces that are, and the photos `uint8 [H,W,3]` of one call."""


def measure_costs(pipe: MAPPipeline, photos: Sequence[np.ndarray], quick: bool) -> pd.DataFrame:
    """Seconds and memory of one call each, after one that warms up.

    Args:
        photos: `uint8 [H,W,3]` with a face each, which are enlarged and put side by side.
        quick: leave out what takes minutes.
    """
    chosen = list(calls(photos, quick))
    lines = []
    for mode in ("fast",) if quick else ("fast", "strong"):
        _protect(pipe, chosen[0][2], mode)()
        for what, faces, given in chosen:
            _, cost = measure(pipe, _protect(pipe, given, mode))
            line = {"mode": mode, "photo": what, "faces": faces, "seconds": cost.seconds}
            line |= {"seconds a face": cost.seconds / faces, "peak MiB": cost.peak_memory_mb}
            lines.append(line)
    return pd.DataFrame(lines)


def cost_table(figures: pd.DataFrame) -> Table:
    """What `measure_costs` found."""
    shown = figures.copy()
    for column, form in (("seconds", ".1f"), ("seconds a face", ".1f"), ("peak MiB", ".0f")):
        shown[column] = shown[column].map(lambda value, form=form: format(value, form))
    title = "What does it cost, by size and number of faces?"
    return Table("cost", title, figures, shown)


def calls(photos: Sequence[np.ndarray], quick: bool) -> Iterator[Call]:
    """What is measured, the cheapest first; see `measure_costs`."""
    small = [_resized(photo, SIDE) for photo in photos]
    yield f"{SIDE} px", 1, small[:1]
    for megapixels in (1, 12) if quick else (1, 12, 50):
        side = round((megapixels * MEGAPIXEL) ** 0.5)
        yield f"{megapixels} MP", 1, [_resized(photos[0], side)]
    for count in (2,) if quick else (2, 4, 8):
        faces = [small[index % len(small)] for index in range(count)]
        yield f"{count} faces side by side", count, [np.concatenate(faces, 1)]
    if not quick:
        batch = [small[index % len(small)] for index in range(BATCH)]
        yield f"{BATCH} photos of {SIDE} px", BATCH, batch


def _resized(photo: np.ndarray, side: int) -> np.ndarray:
    return to_array(to_pil(photo).resize((side, side), Image.Resampling.BICUBIC))


def _protect(pipe: MAPPipeline, photos: list[np.ndarray], mode: str) -> Callable[[], np.ndarray]:
    def call() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        output = pipe(photos, faces="all", mode=mode, generator=generator)
        return to_array(output.images[0])

    return call
