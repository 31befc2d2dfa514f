import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_classifier, tiny_recogniser, tiny_unet
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline import EMOTIONS, MAPConfig, Objective, default_objectives, with_weights
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import (
    crop_size,
    patchify,
    unpatchify,
)
from map_pipeline.errors import NotFiniteError, UnknownOptionError
from map_pipeline.expression.motion import face_motions
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    invert_affine,
    similarity_transform,
    warp_affine,
)
from map_pipeline.faces.paste import feather_mask
from map_pipeline.identity.objectives import Goals, RefineTarget
from map_pipeline.identity.refine import (
    CropGeometry,
    FaceChange,
    Networks,
    RefineStep,
    picture_loss,
    refine,
)
from map_pipeline.identity.tone import as_shading

QUICK = MAPConfig(
    num_inversion_steps=2,
    num_generation_steps=2,
    refine_steps=2,
    learning_rate=1e-3,
    patience=100,
    autocast="fp32",
)
ALL = [objective.name for objective in default_objectives()]


@dataclasses.dataclass(frozen=True)
class Face:
    networks: Networks
    goal: RefineTarget
    placement: CropGeometry


@pytest.fixture
def face() -> Face:
    """A smooth random picture with a face's landmarks, and tiny networks."""
    unet = tiny_unet()
    size = crop_size(unet)
    region = F.interpolate(torch.rand(1, 3, 6, 6), (48, 48), mode="bicubic").clamp(0, 1)
    landmarks = ARCFACE_TEMPLATE_112[None] * 32 / 112 + 8
    template = ARCFACE_TEMPLATE_112 * size / 112
    region_to_crop = similarity_transform(landmarks, template)
    surroundings = warp_affine(region, invert_affine(region_to_crop), (size, size), "reflection")
    surrogates = {name: tiny_recogniser(name) for name in ("one", "two")}
    classifiers = {"encoder": tiny_classifier()}
    for network in (unet, *surrogates.values(), *classifiers.values()):
        network.requires_grad_(False)
    goal = RefineTarget(
        source_region=region,
        source_crop=surroundings,
        source_embeddings={name: net(region, landmarks) for name, net in surrogates.items()},
        target_embeddings={name: F.normalize(torch.randn(1, 16)) for name in surrogates},
        goals=dict.fromkeys(surrogates, Goals(source=-0.5, target=0.9, unit=0.4)),
        emotion=EMOTIONS.index("happy"),
    )
    networks = Networks(unet, DDIMScheduler(), surrogates, classifiers)
    shapes = ExpressionSpace(motion_count=2)
    shapes.neutral.copy_(torch.rand(68, 2) * 0.6 + 0.2)
    shapes.motions.normal_(std=0.02)
    motions = face_motions(shapes, shapes.neutral[None] * size, size, MAPConfig.max_shift)
    geometry = CropGeometry(landmarks, region_to_crop, feather_mask(size), motions)
    return Face(networks, goal, geometry)


def changed(
    face: Face,
    config: MAPConfig = QUICK,
    objectives: list[Objective] | None = None,
    seed: int = 0,
) -> tuple[FaceChange, list[RefineStep]]:
    steps: list[RefineStep] = []

    def keep(_index: int, step: RefineStep) -> Tensor:
        steps.append(step)
        return step.latents

    change = refine(
        face.networks,
        face.goal,
        face.placement,
        default_objectives() if objectives is None else objectives,
        config,
        torch.Generator().manual_seed(seed),
        keep,
    )
    return change, steps


def run(face: Face, *args: Any, **settings: Any) -> tuple[Tensor, list[RefineStep]]:
    """The residual alone, and the steps; arguments as for `changed`."""
    change, steps = changed(face, *args, **settings)
    return change.residual, steps


def only(*names: str) -> list[Objective]:
    return with_weights(default_objectives(), **{name: 0 for name in ALL if name not in names})


@pytest.mark.parametrize("name", ["impersonation", "dodging", "expression"])
def test_loss_goes_down(face: Face, name: str) -> None:
    config = dataclasses.replace(QUICK, refine_steps=10, num_eot_views=0)
    _, steps = run(face, config, only(name))
    values = [step.losses[name] for step in steps]
    assert len(values) == 10
    assert values[-1] < 0.95 * values[0]


def test_residual_is_finite_and_detached(face: Face) -> None:
    names = {"impersonation", "dodging", "expression", "score_matching"}
    change, steps = changed(face, objectives=only(*names))
    assert change.residual.shape == face.goal.source_crop.shape
    assert change.motion.shape == (1, face.placement.motions.flows.shape[1])
    for part in (change.residual, change.motion):
        assert part.isfinite().all()
        assert part.abs().max() > 0
        assert not part.requires_grad
    assert len(steps) == 2
    for step in steps:
        assert set(step.losses) == names
        assert 0 <= step.conflict <= 1


def test_nothing_is_left_behind(face: Face) -> None:
    """Neither in the score network nor in the frozen ones, nor a gradient anywhere."""
    networks = face.networks
    modules = [networks.unet, *networks.surrogates.values(), *networks.classifiers.values()]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    run(face)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_same_seed_same_residual(face: Face) -> None:
    identity = only("impersonation", "dodging")
    first, _ = run(face, objectives=identity, seed=1)
    other, _ = run(face, objectives=identity, seed=2)
    torch.manual_seed(1234)  # the global generator has no say
    again, _ = run(face, objectives=identity, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_randomness_is_left_alone(face: Face) -> None:
    state = torch.get_rng_state()
    run(face)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_steps_no_change(face: Face) -> None:
    residual, steps = run(face, dataclasses.replace(QUICK, refine_steps=0))
    assert torch.equal(residual, torch.zeros_like(face.goal.source_crop))
    assert steps == []


def test_features_move_within_their_limit(face: Face) -> None:
    config = dataclasses.replace(QUICK, refine_steps=10, motion_rate=1.0, num_eot_views=0)
    dodge = only("dodging")
    moved, steps = changed(face, dataclasses.replace(config, learning_rate=1e-12), dodge)
    assert steps[-1].losses["dodging"] < steps[0].losses["dodging"]  # by the motion alone
    assert 0.1 < moved.motion.abs().max() < config.max_motion
    limited, _ = changed(face, dataclasses.replace(config, max_motion=0.1), dodge)
    assert limited.motion.abs().max() <= 0.1
    still, _ = changed(face, dataclasses.replace(config, motion_rate=0.0), dodge)
    assert still.motion.numel() == 0


def test_motion_is_charged(face: Face) -> None:
    config = dataclasses.replace(QUICK, refine_steps=10, motion_rate=1.0, num_eot_views=0)
    free, _ = changed(face, config, only("dodging"))
    dear, _ = changed(face, config, with_weights(only("dodging"), motion=10))
    assert dear.motion.norm() < 0.5 * free.motion.norm()


def test_a_face_that_reaches_its_goals_stays_as_it_is(face: Face) -> None:
    easy = {name: Goals(source=1.0, target=0.9, unit=0.4) for name in face.goal.goals}
    done = dataclasses.replace(face, goal=dataclasses.replace(face.goal, goals=easy))
    hide = with_weights(default_objectives(), impersonation=0)
    change, steps = changed(done, objectives=hide)
    assert steps == []
    assert not change.residual.any()
    assert not change.motion.any()
    _, steps = changed(done)  # the target isn't reached
    assert len(steps) == QUICK.refine_steps


def test_it_stops_when_nothing_gets_better(face: Face) -> None:
    config = dataclasses.replace(QUICK, refine_steps=20, learning_rate=1.0, patience=3)
    near = Objective("near", "-", "prior", 1.0, lambda c, _: (c.crop - c.moved).square().mean())
    _, steps = run(face, config, [near, only("dodging")[1]])
    assert 3 <= len(steps) < 20


def test_works_without_gradients_around_it(face: Face) -> None:
    expected, _ = run(face)
    with torch.no_grad():
        residual, _ = run(face)
    assert torch.equal(residual, expected)


@pytest.mark.parametrize("name", ALL)
def test_an_objective_can_be_switched_off(face: Face, name: str) -> None:
    config = dataclasses.replace(QUICK, refine_steps=1)
    _, [step] = run(face, config, with_weights(default_objectives(), **{name: 0}))
    assert set(step.losses) == set(ALL) - {name}


@pytest.mark.parametrize(
    "names", [("impersonation", "dodging"), ("expression",), ("score_matching", "smoothness")]
)
def test_one_side_is_enough(face: Face, names: tuple[str, ...]) -> None:
    residual, steps = run(face, objectives=only(*names))
    assert residual.isfinite().all()
    assert all(set(step.losses) == set(names) and step.conflict == 0 for step in steps)


def test_all_off_is_an_error(face: Face) -> None:
    for objectives in (only(), []):
        with pytest.raises(ValueError, match="at least one with a positive weight"):
            run(face, objectives=objectives)


def test_networks_of_a_missing_side_may_be_missing(face: Face) -> None:
    networks = dataclasses.replace(face.networks, classifiers={})
    alone = dataclasses.replace(face, networks=networks)
    residual, _ = run(alone, objectives=only("impersonation", "dodging"))
    assert residual.isfinite().all()


def test_own_objective(face: Face) -> None:
    bright = Objective("bright", "-", "prior", 1.0, lambda candidate, _goal: -candidate.crop.mean())
    config = dataclasses.replace(QUICK, refine_steps=5)
    residual, steps = run(face, config, [bright])
    assert residual.mean() > 0
    assert steps[-1].losses["bright"] < steps[0].losses["bright"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"num_eot_views": 0},
        {"num_eot_views": 3},
        {"autocast": "bf16"},
        {"start_timestep": 1},
        {"start_timestep": 999},
        {"num_inversion_steps": 5, "num_generation_steps": 3},
    ],
    ids=str,
)
def test_other_settings_run(face: Face, settings: dict) -> None:
    residual, steps = run(face, dataclasses.replace(QUICK, **settings))
    assert residual.isfinite().all()
    assert len(steps) == 2


@pytest.mark.slow
def test_settings_change_the_result(face: Face) -> None:
    # The second step is the first in which the mean differs from the gradient itself.
    config = dataclasses.replace(QUICK, refine_steps=3)
    sides = only("dodging", "expression")
    with_mean, _ = run(face, config, sides)
    for settings in ({"projection": False}, {"ema_decay": 0.0}, {"max_expression_grad_ratio": 0.0}):
        without, _ = run(face, dataclasses.replace(config, **settings), sides)
        assert not torch.equal(with_mean, without)


def test_compiled_only_on_cuda(face: Face) -> None:
    with pytest.raises(UnknownOptionError, match="`compile` must be used on cuda only, got cpu"):
        run(face, dataclasses.replace(QUICK, compile=True))


def test_gradients_that_are_not_finite_stop_the_run(face: Face) -> None:
    broken = Objective(
        "broken", "-", "prior", 1.0, lambda candidate, _goal: (candidate.crop * 0).sqrt().sum()
    )
    with pytest.raises(NotFiniteError, match="broken"):
        run(face, objectives=[broken])


@pytest.fixture
def conditioned(face: Face) -> Face:
    """The same face with a network that takes conditions, and conditions."""
    config = {k: v for k, v in tiny_unet().config.items() if not k.startswith("_")}
    unet = UNet2DModel(**config | {"class_embed_type": "identity"}).eval().requires_grad_(False)
    source, target = torch.randn(2, 1, 64).unbind(0)
    return dataclasses.replace(
        face,
        networks=dataclasses.replace(face.networks, unet=unet),
        goal=dataclasses.replace(face.goal, source_cond=source, target_cond=target),
    )


NO_STEPS = dataclasses.replace(QUICK, refine_steps=0)


@pytest.fixture
def trained(conditioned: Face) -> Face:
    """The same face with a trained network."""
    motions = conditioned.placement.motions.flows.shape[1]
    dims = {"one": 16, "two": 16}
    network = MAPNetwork.for_unet(conditioned.networks.unet, dims, 2, motion_count=motions)
    for parameter in network.requires_grad_(False).parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return dataclasses.replace(
        conditioned, networks=dataclasses.replace(conditioned.networks, map_network=network)
    )


def test_one_pass_is_what_the_network_makes_of_the_target(trained: Face) -> None:
    """The prior inverts and reconstructs, the trained network generates."""
    residual, steps = run(trained, NO_STEPS)
    assert steps == []
    prior, scheduler, goal = trained.networks.unet, trained.networks.scheduler, trained.goal
    network = copy.deepcopy(prior)
    trained.networks.map_network.merge_into(network)
    latents = patchify(goal.source_crop, 4)
    with torch.no_grad():
        start = invert(prior, scheduler, latents, 300, 2, goal.source_cond)
        back = generate(prior, scheduler, start, 300, 2, goal.source_cond)
        made = generate(network, scheduler, start, 300, 2, goal.target_cond)
    change = unpatchify(made, 4) - unpatchify(back, 4)
    torch.testing.assert_close(residual, as_shading(change, goal.source_crop))
    assert residual.abs().max() > 1e-4


def test_steps_go_on_from_the_trained_network(trained: Face) -> None:
    """Its first guess counts where the steps only harm, and is what they start from."""
    blunder = dataclasses.replace(QUICK, refine_steps=2, learning_rate=10.0, num_eot_views=0)
    size = Objective("size", "-", "prior", 1.0, lambda c, _: (c.crop - c.moved).square().mean())
    residual, steps = run(trained, blunder, [size])
    assert steps[1].losses["size"] > steps[0].losses["size"]
    first, _ = run(trained, dataclasses.replace(blunder, refine_steps=1, learning_rate=1e-12))
    torch.testing.assert_close(residual, first, atol=1e-5, rtol=1e-4)
    assert residual.abs().max() > 1e-4


def test_steps_are_compared_by_what_the_picture_shows() -> None:
    """The network's own loss is measured at a random noise level: luck mustn't choose the step."""
    objectives = with_weights(default_objectives(), dodging=0)
    values = {o.name: torch.tensor(1.0) for o in objectives if o.weight > 0}
    config = MAPConfig(max_expression_grad_ratio=0.25)
    weights = {o.name: o.weight for o in objectives}
    names = ("smoothness", "luma", "visibility", "motion")
    prior = sum(weights[name] for name in names)
    expected = weights["impersonation"] + 0.25 * weights["expression"] + prior
    assert picture_loss(objectives, values, config) == pytest.approx(expected)
    values["score_matching"] = torch.tensor(100.0)
    assert picture_loss(objectives, values, config) == pytest.approx(expected)
