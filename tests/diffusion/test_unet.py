import copy

import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.unet import (
    TRAINED_SIDE,
    compile_network,
    crop_size,
    patch_size,
    patchify,
    predict_noise,
    trainable_parameters,
    unpatchify,
)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_fold_and_unfold(patch: int) -> None:
    crop = torch.rand(2, 3, 32, 32)
    latents = patchify(crop, patch)
    assert latents.shape == (2, 3 * patch**2, 32 // patch, 32 // patch)
    assert -1 <= latents.min() < 0 < latents.max() <= 1
    torch.testing.assert_close(unpatchify(latents, patch), crop)
    # A patch stays together: channels of one position are pixels of one square.
    lit = torch.zeros(1, 3, 32, 32)
    lit[:, :, :patch, :patch] = 1
    changed = (patchify(lit, patch) > 0).any(1)[0]
    assert changed[0, 0]
    assert changed.sum() == 1


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_sizes_come_from_the_network(patch: int) -> None:
    unet = tiny_unet(patch)
    assert patch_size(unet) == patch
    assert crop_size(unet) == 8 * patch


WIDTH = 64  # of its condition


@pytest.fixture
def conditional_unet() -> UNet2DModel:
    """A network that takes a condition."""
    config = {k: v for k, v in tiny_unet().config.items() if not k.startswith("_")}
    return UNet2DModel(**config | {"class_embed_type": "identity"}).eval().requires_grad_(False)


@torch.no_grad()
def test_one_level_for_all_or_one_each(conditional_unet: UNet2DModel) -> None:
    latents = torch.randn(3, 48, 8, 8)
    for unet in (conditional_unet, tiny_unet()):
        plain = predict_noise(unet, latents, 100)
        assert torch.equal(plain, predict_noise(unet, latents, torch.tensor(100)))
        levels = torch.tensor([100, 100, 500])
        each = predict_noise(unet, latents, levels)
        torch.testing.assert_close(each[:2], plain[:2])
        assert (each[2] - plain[2]).abs().max() > 1e-3


@torch.no_grad()
def test_no_condition_is_zeros(conditional_unet: UNet2DModel) -> None:
    latents, condition = torch.randn(2, 48, 8, 8), torch.randn(2, WIDTH)
    plain = predict_noise(conditional_unet, latents, 100)
    zeros = predict_noise(conditional_unet, latents, 100, torch.zeros(2, WIDTH))
    assert torch.equal(plain, zeros)
    assert (predict_noise(conditional_unet, latents, 100, condition) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_each_face_has_its_own_condition(conditional_unet: UNet2DModel) -> None:
    latents, condition = torch.randn(2, 48, 8, 8), torch.randn(2, WIDTH)
    both = predict_noise(conditional_unet, latents, 100, condition)
    for row in range(2):
        alone = predict_noise(conditional_unet, latents[row : row + 1], 100, condition[row][None])
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_network_that_takes_no_condition_ignores_it() -> None:
    unet, latents = tiny_unet(), torch.randn(2, 48, 8, 8)
    found = predict_noise(unet, latents, 100, torch.randn(2, 3))
    assert torch.equal(found, predict_noise(unet, latents, 100))
    assert torch.equal(found, unet(latents, 100).sample)


@pytest.mark.gpu
def test_compiled_the_gradients_are_the_same() -> None:
    plain = tiny_unet().cuda()
    compiled = copy.deepcopy(plain)
    compile_network(compiled)
    size, channels = plain.config.sample_size, plain.config.in_channels
    latents = torch.randn(1, channels, size, size, device="cuda")
    level = torch.tensor([100], device="cuda")

    def gradients(unet: UNet2DModel) -> list[Tensor]:
        noise = unet(latents, level).sample
        losses = (noise.square().sum(), noise.mean())  # two through one pass, as in `refine`
        parameters = list(unet.parameters())
        found = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        return [torch.cat([part.flatten() for part in one]) for one in found]

    for first, second in zip(gradients(plain), gradients(compiled), strict=True):
        assert (first - second).norm() < 0.02 * first.norm()


def test_only_deep_blocks_are_trained() -> None:
    unet = tiny_unet().requires_grad_(False)
    parameters, layers = trainable_parameters(unet)
    trained = {id(parameter) for parameter in parameters}
    names = {name for name, p in unet.named_parameters() if id(p) in trained}
    assert names == {name for name, p in unet.named_parameters() if p.requires_grad}
    assert all(name.startswith(("down_blocks.1", "mid_block", "up_blocks.0")) for name in names)
    for block in ("down_blocks.1", "mid_block", "up_blocks.0"):
        assert any(name.startswith(block) for name in names)
    assert len(layers) == len(parameters) == len(trained)
    assert sorted(set(layers)) == list(range(max(layers) + 1))
    # Weight and bias of a module are one layer.
    by_id = {id(p): layer for p, layer in zip(parameters, layers, strict=True)}
    for module in unet.modules():
        own = {by_id[id(p)] for p in module.parameters(recurse=False) if id(p) in by_id}
        assert len(own) <= 1


def unet_of(sides: int, levels: int) -> UNet2DModel:
    """Works on `sides` positions a side, halved `levels - 1` times."""
    return UNet2DModel(
        sample_size=sides,
        layers_per_block=1,
        block_out_channels=(8,) * levels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=8,
        attention_head_dim=8,
    ).requires_grad_(False)


@pytest.mark.parametrize(
    ("sides", "levels", "trained"),
    [
        (128, 5, {3, 4}),  # 128, 64, 32 | 16, 8
        (64, 4, {2, 3}),  # 64, 32 | 16, 8
        (256, 6, {4, 5}),  # google/ddpm-ema-celebahq-256
        (32, 3, {1, 2}),  # 32 | 16, 8
        (8, 2, {1}),  # the finest level never
        (64, 2, {1}),  # the coarsest always
        (16, 4, {1, 2, 3}),
    ],
)
def test_levels_of_few_positions_are_trained(sides: int, levels: int, trained: set[int]) -> None:
    unet = unet_of(sides, levels)
    trainable_parameters(unet)

    def learns(module: torch.nn.Module) -> bool:
        states = {parameter.requires_grad for parameter in module.parameters()}
        assert len(states) == 1
        return states.pop()

    down = {level for level, block in enumerate(unet.down_blocks) if learns(block)}
    up = {levels - 1 - level for level, block in enumerate(unet.up_blocks) if learns(block)}
    assert down == up == trained
    assert learns(unet.mid_block)
    assert not any(learns(part) for part in (unet.conv_in, unet.conv_out, unet.time_embedding))
    assert all(sides >> level <= TRAINED_SIDE for level in trained if level < levels - 1)
