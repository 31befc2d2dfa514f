"""Made-up faces for the tests of training: smooth random pictures with labels."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from diffusers import UNet2DModel
from made_up_space import mean_face
from PIL import Image
from torch import Tensor

from map_pipeline.diffusion.conditioner import (
    POINTS,
    FaceConditioner,
    embedding_width,
)
from map_pipeline.training.augment import Batch
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.faces import FaceSet, find_grey
from map_pipeline.training.sampling import as_batch
from map_pipeline.training.score_model import ScoreModel, new_unet

SIDE = 32  # px
# A network of 60 000 parameters that is trained by an update in hundredths of a second.
QUICK = PriorConfig(
    patch=4,
    channels=(16, 32),
    hidden=8,
    batch_size=4,
    learning_rate=1e-3,
    warmup=0,
    validation_faces=2,
    minutes=1e6,
    updates=4,
    report_every=2,
    mixed_precision="no",
)
# The same as options of the command line.
QUICK_OPTIONS = [
    text
    for name, value in asdict(QUICK).items()
    if value != getattr(PriorConfig(), name)
    for text in (
        f"--{name.replace('_', '-')}",
        *map(str, value if isinstance(value, tuple) else [value]),
    )
]


def pictures(count: int, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    """`uint8 [N,3,S,S]`, smooth and in colour."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    return (smooth.clamp(0, 1) * 255).round().byte()


def faces(count: int = 24, side: int = SIDE, seed: int = 0) -> FaceSet:
    """Faces of which the last has unknown landmarks, and the last but one an unknown emotion."""
    generator = torch.Generator().manual_seed(seed)
    emotions = torch.eye(7)[torch.randint(7, (count,), generator=generator)]
    emotions[-2] = 0
    landmarks68 = mean_face()[:POINTS] + 0.1 * torch.rand(count, POINTS, 2, generator=generator)
    found = torch.ones(count).bool()
    landmarks68[-1], found[-1] = 0, False
    images = pictures(count, side, seed)
    names = [f"{index:05}.png" for index in range(count)]
    return FaceSet(names, images, emotions, landmarks68, found, find_grey(images))


def batch(count: int = 24, side: int = SIDE, seed: int = 0) -> Batch:
    return as_batch(faces(count, side, seed), torch.device("cpu"))


def write_folder(
    folder: Path, count: int = 24, side: int = SIDE, labels: list[dict] | None = None
) -> Path:
    """A data set on disk."""
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures(count, side)):
        array = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        Image.fromarray(array).save(folder / f"{index:05}.png")
    if labels is not None:
        lines = "\n".join(json.dumps(label) for label in labels)
        (folder / "labels.jsonl").write_text(lines)
    return folder


def score_model(config: PriorConfig = QUICK, side: int = SIDE) -> ScoreModel:
    """A network whose every part says something, as if it were trained."""
    unet = new_unet(config, side)
    return ScoreModel(unet, FaceConditioner(embedding_width(unet), config.hidden)).eval()


def forget_accelerate() -> None:
    """accelerate keeps the first settings of a process; each test brings its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


def weights(out: Path, part: str = "unet") -> dict[str, Tensor]:
    kind = {"unet": UNet2DModel, "conditioner": FaceConditioner}[part]
    return kind.from_pretrained(out / part).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())
