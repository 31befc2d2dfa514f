from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from made_up import QUICK, batch, score_model
from torch import Tensor

from map_pipeline.diffusion.unet import patchify
from map_pipeline.training.score_model import new_scheduler
from map_pipeline.training.validation import (
    DENOISING_LEVELS,
    ROUND_TRIP_LEVELS,
    denoise,
    psnr,
    round_trip,
    validate,
)

SCHEDULER = new_scheduler()


class Oracle(torch.nn.Module):
    """Knows the clean pictures, and therefore the noise; `error` is added to its answer."""

    def __init__(self, crops: Tensor, patch: int, error: float = 0.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=3 * patch**2, class_embed_type=None)
        self.clean = patchify(crops, patch).double()
        self.error = error

    def forward(self, latents: Tensor, timestep: Tensor) -> SimpleNamespace:
        alpha = SCHEDULER.alphas_cumprod.double()[timestep].view(-1, 1, 1, 1)
        noise = (latents.double() - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return SimpleNamespace(sample=(noise + self.error).to(latents))


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("level", DENOISING_LEVELS)
def test_an_oracle_denoises_perfectly(patch: int, level: int) -> None:
    crops, noise = torch.rand(2, 3, 3, 32, 32).unbind(0)
    found = denoise(Oracle(crops, patch), SCHEDULER, crops, noise, level, None)
    assert psnr(found, crops).min() > 90


@pytest.mark.parametrize("level", DENOISING_LEVELS)
def test_a_known_error_costs_what_it_must(level: int) -> None:
    """x0 = (x_t - sqrt(1-a) eps) / sqrt(a), so an error of eps is enlarged by sqrt((1-a)/a)."""
    crops, noise = torch.full((2, 3, 32, 32), 0.5), torch.randn(2, 3, 32, 32)
    error = 0.05
    found = denoise(Oracle(crops, 2, error), SCHEDULER, crops, noise, level, None)
    alpha = SCHEDULER.alphas_cumprod[level]
    expected = -20 * (error * ((1 - alpha) / alpha).sqrt() / 2).log10()  # [-1,1] -> [0,1]
    torch.testing.assert_close(psnr(found, crops), expected.expand(2), atol=0.05, rtol=0)


def constant_unet(value: float) -> UNet2DModel:
    unet = tiny_unet()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.constant_(unet.conv_out.bias, value)
    return unet


@torch.no_grad()
@pytest.mark.parametrize("level", ROUND_TRIP_LEVELS)
def test_constant_noise_makes_a_perfect_round_trip(level: int) -> None:
    crops = torch.rand(2, 3, 32, 32)
    assert psnr(round_trip(constant_unet(0.3), SCHEDULER, crops, level, None), crops).min() > 70


@pytest.mark.slow
def test_all_levels_are_reported_as_means_over_the_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = batch(5).images
    unet = tiny_unet()
    scores = validate(unet, SCHEDULER, crops, None)
    assert list(scores) == [
        *(f"x0_{level}" for level in DENOISING_LEVELS),
        *(f"round_trip_{level}" for level in ROUND_TRIP_LEVELS),
    ]
    with torch.no_grad():
        single = psnr(round_trip(unet, SCHEDULER, crops, 300, None), crops)
    assert scores["round_trip_300"] == pytest.approx(single.mean().item(), abs=1e-3)
    assert all(0 < value < 100 for value in scores.values())
    # The same noise every time, and in parts as at once.
    assert validate(unet, SCHEDULER, crops, None) == scores
    monkeypatch.setattr("map_pipeline.training.validation.BATCH", 2)
    parts = validate(unet, SCHEDULER, crops, None)
    for level in ROUND_TRIP_LEVELS:
        name = f"round_trip_{level}"
        assert parts[name] == pytest.approx(scores[name], abs=1e-3)


@pytest.mark.slow
def test_the_condition_counts() -> None:
    model, faces = score_model(QUICK), batch(4)
    with torch.no_grad():
        reply = model.conditioner(faces.condition) * 10
    blind = validate(model.unet, SCHEDULER, faces.images, None)
    assert validate(model.unet, SCHEDULER, faces.images, torch.zeros_like(reply)) == blind
    assert validate(model.unet, SCHEDULER, faces.images, reply) != blind


def test_psnr_in_closed_form() -> None:
    first = torch.full((3, 3, 4, 4), 0.5)
    second = first.clone()
    second[1] += 0.1
    second[2, 0, 0, 0] += 0.48**0.5  # one of 48 values: mean square 0.01
    torch.testing.assert_close(psnr(first, second), torch.tensor([100.0, 20.0, 20.0]))
