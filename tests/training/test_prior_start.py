"""Networks like google/ddpm-ema-celebahq-256 as start of a training, and as backbone."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_tiny_pipeline
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from made_up import (
    QUICK,
    faces,
    same,
    weights,
)
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.cli.train import load_start
from map_pipeline.diffusion.conditioner import FaceConditioner, is_conditional
from map_pipeline.diffusion.ddim import invert
from map_pipeline.diffusion.unet import crop_size, patch_size, unpatchify
from map_pipeline.faces.align import Alignment, warp_affine
from map_pipeline.images import to_tensor
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.prior import of_network, train_prior

pytestmark = pytest.mark.usefixtures("accelerate_anew")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def celebahq(side: int, channels: tuple[int, ...]) -> UNet2DModel:
    """The configuration of google/ddpm-ema-celebahq-256, with random weights."""
    attention = len(channels) - 2
    down, up = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
    down[attention], up[-1 - attention] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """Laid out as on the Hub: U-Net and a DDPM schedule side by side, no subfolders."""
    folder = tmp_path / "hub"
    celebahq(64, (32, 32, 32, 32, 64, 64)).save_pretrained(folder)
    DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=True).save_pretrained(folder)
    return folder


def train_from(folder: Path, out: Path, side: int, **settings: object) -> PriorConfig:
    unet, scheduler, conditioner = load_start(str(folder))
    assert conditioner is None
    config = of_network(replace(QUICK, **settings), unet)
    train_prior(config, faces(10, side), out, unet, scheduler, lambda _: None)
    assert unet.is_gradient_checkpointing == config.gradient_checkpointing
    return config


def check_trained(start: Path, out: Path, side: int) -> None:
    """All of the network moved a little, it takes conditions now, and the schedule is its own."""
    before = UNet2DModel.from_pretrained(start)
    after = UNet2DModel.from_pretrained(out / "unet")
    assert not is_conditional(before)
    assert is_conditional(after)
    assert patch_size(after) == 1
    assert crop_size(after) == side
    assert after.num_parameters() == before.num_parameters()
    first, second = before.state_dict(), after.state_dict()
    moved = [(first[name] - second[name]).abs().max().item() for name in first]
    assert min(moved) > 0
    assert max(moved) < 0.1
    scheduler = DDIMScheduler.from_pretrained(out / "scheduler")
    torch.testing.assert_close(
        scheduler.alphas_cumprod, DDPMScheduler.from_pretrained(start).alphas_cumprod
    )


def pipeline_of(out: Path) -> MAPPipeline:
    """The tiny pipeline with a trained network in place of its own."""
    tiny = build_tiny_pipeline()
    parts = {
        **tiny.components,
        "unet": UNet2DModel.from_pretrained(out / "unet"),
        "scheduler": DDIMScheduler.from_pretrained(out / "scheduler"),
        "conditioner": FaceConditioner.from_pretrained(out / "conditioner"),
    }
    settings = ("alignment_template", "surrogates", "detector")
    pipe = MAPPipeline(**parts, **{name: tiny.config[name] for name in settings})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def protect(pipe: MAPPipeline, portrait: np.ndarray) -> np.ndarray:
    settings = {"num_inversion_steps": 2, "num_generation_steps": 2, "refine_steps": 1}
    return pipe(portrait, **settings, generator=generator(), output_type="np").images[0]


def check_alignment(
    pipe: MAPPipeline, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is shown the face where the template has it, at its own size, in [-1,1]."""
    seen: list[Tensor] = []

    def watch(unet: UNet2DModel, scheduler: DDIMScheduler, clean: Tensor, *args: object) -> Tensor:
        seen.append(clean)
        return invert(unet, scheduler, clean, *args)

    monkeypatch.setattr("map_pipeline.identity.refine.invert", watch)
    result = protect(pipe, portrait)
    side = crop_size(pipe.unet)
    [latents] = seen
    assert latents.shape == (1, 3, side, side)
    [face] = pipe.face_detector.detect(portrait)
    template = torch.tensor(pipe.config.alignment_template) * side
    alignment = Alignment.from_landmarks(torch.as_tensor(face.landmarks), template, side)
    crop = warp_affine(to_tensor(portrait), alignment.crop_to_image[None], (side, side))
    inner = slice(side // 4, -side // 4)
    error = (unpatchify(latents, 1) - crop).abs()[..., inner, inner]
    assert error.mean() < 0.02
    assert result.shape == portrait.shape
    assert (result != portrait).any()


@pytest.mark.slow
def test_celebahq_topology_is_start_and_backbone(
    hub_folder: Path, tmp_path: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled down: the same blocks and options with fewer channels, at 64 px."""
    out = tmp_path / "out"
    settings = {"updates": 2, "batch_size": 1, "validation_faces": 0, "hidden": 8}
    config = train_from(hub_folder, out, 64, gradient_checkpointing=True, **settings)
    check_trained(hub_folder, out, 64)
    summary = json.loads((out / "training.json").read_text())["config"]
    assert summary == json.loads(json.dumps(asdict(config)))
    assert summary["patch"] == 1
    assert summary["channels"] == [32, 32, 32, 32, 64, 64]
    assert summary["layers_per_block"] == 2

    pipe = pipeline_of(out)
    check_alignment(pipe, portrait, monkeypatch)
    refined = protect(pipe, portrait)
    assert (refined != portrait).any()
    pipe.save_pretrained(tmp_path / "checkpoint")
    again = MAPPipeline.from_pretrained(tmp_path / "checkpoint")
    again.set_progress_bar_config(disable=True)
    loaded = protect(again, portrait)
    assert np.abs(loaded.astype(int) - refined).max() <= 1
    # The run can be the start of another.
    unet, _, conditioner = load_start(str(out))
    assert same(unet.state_dict(), weights(out))
    assert same(conditioner.state_dict(), weights(out, "conditioner"))


@pytest.mark.slow
def test_the_celebahq_network_itself(
    tmp_path: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """113 M parameters at 256 px with random weights: one update, and protection of a photo."""
    start, out = tmp_path / "hub", tmp_path / "out"
    unet = celebahq(256, (128, 128, 256, 256, 512, 512))
    assert unet.num_parameters() == 113_673_219
    unet.save_pretrained(start)
    DDPMScheduler().save_pretrained(start)
    del unet
    settings = {"updates": 1, "batch_size": 1, "validation_faces": 0, "mixed_precision": "bf16"}
    train_from(start, out, 256, gradient_checkpointing=True, **settings)
    check_trained(start, out, 256)
    check_alignment(pipeline_of(out), portrait, monkeypatch)
