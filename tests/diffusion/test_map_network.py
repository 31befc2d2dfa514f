import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ASTRONAUT, tiny_unet
from torch import Tensor

from map_pipeline import (
    MAPConfig,
    MAPNetwork,
    MAPPipeline,
    default_objectives,
    with_weights,
)
from map_pipeline.diffusion.conditioner import embedding_width
from map_pipeline.diffusion.unet import deep_layers, predict_noise
from map_pipeline.errors import CheckpointError
from map_pipeline.identity.objectives import RefineTarget
from map_pipeline.identity.refine import FaceChange, Networks

DIMS = {"one": 16, "two": 12}


def trained(unet: torch.nn.Module) -> MAPNetwork:
    """A network with random weights everywhere, as after some training."""
    network = MAPNetwork.for_unet(unet, DIMS, rank=2, hidden=8, motion_count=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.requires_grad_(False)


def targets(count: int = 3) -> dict[str, Tensor]:
    return {name: F.normalize(torch.randn(count, dim)) for name, dim in DIMS.items()}


def noise_of(unet: torch.nn.Module) -> Tensor:
    size = unet.config.sample_size
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, unet.config.in_channels, size, size, generator=generator)
    with torch.no_grad():
        return predict_noise(unet, latents, 200)


def test_a_new_network_changes_and_tells_nothing() -> None:
    unet = tiny_unet()
    before = noise_of(unet)
    network = MAPNetwork.for_unet(unet, DIMS, motion_count=3)
    assert not network.encode(targets(), targets(), 1.0).any()
    assert not network.motion(targets(), targets(), 1.0).any()
    assert MAPNetwork.for_unet(unet, DIMS).motion(targets(), {}, 1.0).shape == (3, 0)
    network.merge_into(unet)
    assert torch.equal(noise_of(unet), before)


def test_only_deep_layers_change_and_by_low_rank() -> None:
    unet = tiny_unet()
    before = copy.deepcopy(unet.state_dict())
    trained(unet).merge_into(unet)
    changed = {n: v - before[n] for n, v in unet.state_dict().items() if (v != before[n]).any()}
    assert set(changed) == {f"{name}.weight" for name in deep_layers(unet)}
    assert not any(name.startswith(("conv_in", "conv_out", "down_blocks.0.")) for name in changed)
    for change in changed.values():
        assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) <= 2


def test_attached_it_computes_as_merged_and_alone_learns() -> None:
    merged, attached = tiny_unet(), tiny_unet()
    attached.load_state_dict(merged.state_dict())
    network = trained(merged)
    network.merge_into(merged)
    network.requires_grad_(True).attach(attached)
    torch.testing.assert_close(noise_of(attached), noise_of(merged), atol=1e-5, rtol=1e-4)
    latents = torch.randn(1, attached.config.in_channels, *[attached.config.sample_size] * 2)
    predict_noise(attached, latents, 200).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in [*network.down, *network.up])
    own = {id(p) for p in network.parameters()}
    assert all(p.grad is None for p in attached.parameters() if id(p) not in own)


@pytest.mark.parametrize("part", ["encode", "motion"])
def test_it_tells_faces_and_targets_apart_and_ignores_other_recognisers(part: str) -> None:
    unet = tiny_unet()
    network, known, source = trained(unet), targets(), targets(1)
    sources = {name: value.expand(3, -1) for name, value in source.items()}
    tell = getattr(network, part)
    answer = tell(sources, known, 1.0)
    assert answer.shape == (3, embedding_width(unet) if part == "encode" else 3)
    assert (answer[0] - answer[1]).abs().max() > 1e-3
    assert torch.equal(tell(sources, {**known, "three": torch.randn(3, 5)}, 1.0), answer)
    assert (tell(known, {}, 1.0) - tell(sources, {}, 1.0)).abs().max() > 1e-3  # nobody as target
    margins = torch.tensor([1.0, 1.0, 3.0])
    changed = (tell(sources, known, margins) - answer).abs().amax(1)
    assert changed[:2].max() == 0
    assert changed[2] > 1e-3
    with pytest.raises(KeyError, match="two"):
        tell(sources, {"one": known["one"]}, 1.0)


def test_it_starts_from_one_that_knows_fewer_motions() -> None:
    unet = tiny_unet()
    start, network = trained(unet), MAPNetwork.for_unet(unet, DIMS, 2, 8, motion_count=5)
    network.start_from(start)
    given = targets(), targets(), 1.0
    assert torch.equal(network.encode(*given), start.encode(*given))
    motion = network.motion(*given)
    assert torch.equal(motion[:, :3], start.motion(*given))
    assert not motion[:, 3:].any()
    assert all(torch.equal(a, b) for a, b in zip(network.up, start.up, strict=True))


@pytest.mark.parametrize(
    ("dims", "rank", "motions", "named"),
    [
        (DIMS, 3, 3, "(up|down)"),
        (DIMS, 2, 2, "motion_out"),
        ({"one": 16}, 2, 3, "(source|target)_in.two"),
    ],
)
def test_it_starts_from_no_network_of_other_parts(
    dims: dict[str, int], rank: int, motions: int, named: str
) -> None:
    unet = tiny_unet()
    network = MAPNetwork.for_unet(unet, dims, rank, 8, motion_count=motions)
    with pytest.raises(CheckpointError, match=f"`start` must have {named}"):
        network.start_from(trained(unet))


def test_a_network_of_another_prior_is_refused() -> None:
    other = tiny_unet()
    other.mid_block.resnets[0].conv1 = torch.nn.Conv2d(32, 16, 3)
    with pytest.raises(CheckpointError, match="`map_network` must be trained for this U-Net"):
        trained(tiny_unet()).merge_into(other)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    network = trained(tiny_unet())
    network.save_pretrained(tmp_path)
    again = MAPNetwork.from_pretrained(tmp_path)
    assert again.surrogates == ["one", "two"]
    known = targets()
    assert torch.equal(again.encode(known, known, 1.0), network.encode(known, known, 1.0))
    assert torch.equal(again.motion(known, known, 1.0), network.motion(known, known, 1.0))
    assert again.config.layers == network.config.layers


def test_another_u_net_leaves_the_network_out(
    editing_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    editing_pipeline.save_pretrained(tmp_path)
    assert MAPPipeline.from_pretrained(tmp_path).map_network is not None
    unet, network = editing_pipeline.unet, editing_pipeline.map_network
    assert MAPPipeline.from_pretrained(tmp_path, unet=unet).map_network is None
    both = MAPPipeline.from_pretrained(tmp_path, unet=unet, map_network=network)
    assert both.map_network is network


@pytest.mark.slow
def test_what_starts_from_the_network(
    editing_pipeline: MAPPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[MAPNetwork | None] = []

    def watch(networks: Networks, goal: RefineTarget, *_: object) -> FaceChange:
        seen.append(networks.map_network)
        return FaceChange(torch.zeros_like(goal.source_crop), torch.zeros(1, 0))

    monkeypatch.setattr("map_pipeline.stages.refine", watch)

    def start(**settings: object) -> MAPNetwork | None:
        editing_pipeline(ASTRONAUT, expression_strength=0, **settings)
        return seen.pop()

    network = editing_pipeline.map_network
    assert start() is network
    assert start(target="second") is network
    assert start(target=ASTRONAUT) is network
    assert start(surrogates=["dlib_resnet"]) is None  # the network saw another one, too
    assert start(config=MAPConfig(use_map_network=False)) is None
    without = with_weights(default_objectives(), impersonation=0, dodging=0)
    assert start(objectives=without) is None


@pytest.mark.slow
def test_a_trained_start_saves_steps(editing_pipeline: MAPPipeline) -> None:
    config = MAPConfig(num_inversion_steps=2, refine_steps=3, steps_saved=2, expression_strength=0)

    def steps(**settings: object) -> int:
        answer: list[int] = []

        def count(_pipe: MAPPipeline, step: int, _timestep: int, given: dict) -> dict:
            answer.append(step)
            return given

        editing_pipeline(ASTRONAUT, config=config, callback_on_step_end=count, **settings)
        assert answer == list(range(editing_pipeline.num_timesteps))
        return len(answer)

    assert steps() == 1
    assert steps(target="second") == steps(target=ASTRONAUT) == 2  # with a target half is saved
    assert steps(refine_steps=2) == 2  # asked for by the caller
    with pytest.raises(ValueError, match=r"`steps_saved` must be in \[0, 1\], got 2"):
        MAPConfig(refine_steps=1, steps_saved=2)
