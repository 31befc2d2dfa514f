from itertools import pairwise

import pytest
import torch
from conftest import ASTRONAUT, tiny_unet
from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.diffusion.ddim import ddim_step, generate, invert, timesteps
from map_pipeline.diffusion.unet import crop_size, patch_size, patchify, unpatchify
from map_pipeline.faces.align import Alignment, warp_affine
from map_pipeline.images import load_image, to_array, to_tensor

SCHEDULE = {"num_train_timesteps": 1000, "clip_sample": False}


def constant_unet(value: float) -> UNet2DModel:
    """A real U-Net whose output convolution has no weights, so that it always predicts `value`."""
    unet = tiny_unet()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.constant_(unet.conv_out.bias, value)
    return unet


@pytest.mark.parametrize(("start", "steps"), [(300, 2), (300, 12), (999, 50), (7, 5)])
def test_timesteps_run_from_start_to_zero(start: int, steps: int) -> None:
    levels = timesteps(start, steps)
    assert len(levels) == steps
    assert levels[0] == start
    assert levels[-1] == 0
    gaps = [a - b for a, b in pairwise(levels)]
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) > 0


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("steps", [4, 10, 50])
def test_step_down_equals_diffusers(schedule: str, steps: int) -> None:
    scheduler = DDIMScheduler(beta_schedule=schedule, **SCHEDULE)
    scheduler.set_timesteps(steps)
    latents, noise = torch.randn(2, 2, 3, 8, 8).unbind(0)
    for level in scheduler.timesteps.tolist():
        expected = scheduler.step(noise, level, latents, eta=0.0).prev_sample
        below = level - 1000 // steps
        alpha_to = scheduler.alphas_cumprod[below] if below >= 0 else scheduler.final_alpha_cumprod
        ours = ddim_step(latents, noise, scheduler.alphas_cumprod[level], alpha_to)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_step_up_equals_diffusers(steps: int) -> None:
    scheduler = DDIMInverseScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    latents, noise = torch.randn(2, 2, 3, 8, 8).unbind(0)
    for level in scheduler.timesteps.tolist()[1:]:
        expected = scheduler.step(noise, level, latents).prev_sample
        alphas = scheduler.alphas_cumprod
        ours = ddim_step(latents, noise, alphas[level - 1000 // steps], alphas[level])
        torch.testing.assert_close(ours, expected)


def test_a_step_and_its_reverse_cancel() -> None:
    latents, noise = torch.randn(2, 2, 3, 8, 8).unbind(0)
    low, high = torch.tensor(0.9), torch.tensor(0.2)
    back = ddim_step(ddim_step(latents, noise, low, high), noise, high, low)
    torch.testing.assert_close(back, latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
@pytest.mark.parametrize(("up", "down"), [(2, 2), (12, 6), (3, 9)])
@torch.no_grad()
def test_constant_noise_makes_inversion_and_generation_the_identity(
    value: float, up: int, down: int
) -> None:
    """Where the prediction doesn't change, neither does the ODE's error: any step counts meet."""
    unet, scheduler = constant_unet(value), DDIMScheduler(**SCHEDULE)
    latents = torch.randn(2, 48, 8, 8)
    start = invert(unet, scheduler, latents, 300, up)
    assert (start - latents).abs().max() > 0.1
    back = generate(unet, scheduler, start, 300, down)
    torch.testing.assert_close(back, latents, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_more_inversion_steps_come_closer() -> None:
    unet, scheduler = tiny_unet(), DDIMScheduler(**SCHEDULE)
    latents = patchify(torch.rand(1, 3, 32, 32), 4)

    def error(steps: int) -> Tensor:
        start = invert(unet, scheduler, latents, 300, steps)
        return (generate(unet, scheduler, start, 300, steps) - latents).norm()

    assert error(40) < error(5) / 2


@pytest.fixture
def conditional_unet() -> UNet2DModel:
    """A network that takes a condition."""
    config = {k: v for k, v in tiny_unet().config.items() if not k.startswith("_")}
    return UNet2DModel(**config | {"class_embed_type": "identity"}).eval().requires_grad_(False)


WIDTH = 64  # of its condition


@torch.no_grad()
def test_a_condition_counts_in_both_directions(conditional_unet: UNet2DModel) -> None:
    """Inverted and generated with the same one, the face comes back; with another it doesn't."""
    scheduler = DDIMScheduler(**SCHEDULE)
    latents = patchify(torch.rand(1, 3, 32, 32), 4)
    first, second = torch.randn(2, 1, WIDTH).unbind(0)
    start = invert(conditional_unet, scheduler, latents, 300, 40, first)
    back = generate(conditional_unet, scheduler, start, 300, 40, first)
    other = generate(conditional_unet, scheduler, start, 300, 40, second)
    assert (back - latents).norm() < (other - latents).norm() / 3


@torch.no_grad()
def test_bundled_network_reconstructs_a_face(bundled_pipeline: MAPPipeline) -> None:
    pipe = bundled_pipeline
    photo = to_array(load_image(ASTRONAUT))
    [face] = pipe.face_detector.detect(photo)
    size = crop_size(pipe.unet)
    alignment = Alignment.from_landmarks(
        torch.as_tensor(face.landmarks), torch.tensor(pipe.config.alignment_template) * size, size
    )
    crop = warp_affine(to_tensor(photo), alignment.crop_to_image[None], (size, size))
    patch = patch_size(pipe.unet)
    start = invert(pipe.unet, pipe.scheduler, patchify(crop, patch), 300, 12)
    result = unpatchify(generate(pipe.unet, pipe.scheduler, start, 300, 12), patch)
    psnr = -10 * (result.clamp(0, 1) - crop).square().mean().log10()
    assert psnr > 27
