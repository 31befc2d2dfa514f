"""Fine-tuning of the score network on one face: the optimisation at the heart of MAP.

    invert x to x_t0 with theta_0; then, `refine_steps` times: move the features by c, generate x^
    from x_t0 with theta, paste x^ - reconstruction(x) into the photo, measure L_A and L_E there,
    project their gradients layer by layer against each other's EMA, add the prior terms, step
    theta and c. The best change is kept; it ends early when there is nothing left to gain.

theta starts at theta_0 and c at 0 or, where a `MAPNetwork` is given, at what that was trained to:
its x^ is protected before the first step.

Works on a copy of the network; nothing is kept between two faces.

Letters in shape comments: s side of the crop, h/w of the region around the face, C/l channels and
side of the latents, V views, D length of an embedding, K motions.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.profiler import record_function

from map_pipeline.config import MAPConfig
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import (
    compile_network,
    patch_size,
    patchify,
    predict_noise,
    trainable_parameters,
    unpatchify,
)
from map_pipeline.expression.classifiers import (
    ExpressionClassifier,
    TransformersExpressionClassifier,
)
from map_pipeline.expression.motion import FaceMotions, limit
from map_pipeline.expression.warp import deform, deform_crop
from map_pipeline.faces.paste import add_residual
from map_pipeline.identity.gradients import GradientCombiner, side_gradients
from map_pipeline.identity.objectives import (
    Objective,
    RefineState,
    RefineTarget,
    active,
    needs,
)
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.identity.tone import as_shading
from map_pipeline.identity.views import jitter_landmarks, random_view


@dataclass(frozen=True)
class Networks:
    """The frozen networks of a run.

    Attributes:
        unet: score network theta_0.
        scheduler: its noise schedule.
        surrogates: recognisers that L_A differentiates through, by name.
        classifiers: expression classifiers that L_E differentiates through, by name.
        map_network: what to start from instead of theta_0; `target_cond` of the `RefineTarget` must
            then contain what it encodes of the target.
    """

    unet: UNet2DModel
    scheduler: DDIMScheduler
    surrogates: Mapping[str, FaceRecogniser]
    classifiers: Mapping[str, ExpressionClassifier | TransformersExpressionClassifier]
    map_network: MAPNetwork | None = None


@dataclass(frozen=True)
class CropGeometry:
    """Where the face lies in the region of the photo that the losses look at.

    Attributes:
        landmarks: `[1,5,2]` region px.
        region_to_crop: `[1,2,3]` affine.
        mask: `[1,1,s,s]` in [0,1], how much of a residual is kept where.
        motions: what the features may do; None where they aren't known.
    """

    landmarks: Tensor
    region_to_crop: Tensor
    mask: Tensor
    motions: FaceMotions | None = None


@dataclass(frozen=True)
class FaceChange:
    """What protects a face.

    Attributes:
        residual: `[1,3,s,s]` in [-1,1], x^ - reconstruction(x) in the photo's own colours, not yet
            masked.
        motion: `[1,K]`, see `FaceMotions`; K is 0 where nothing may move.
    """

    residual: Tensor
    motion: Tensor

    def detach(self) -> "FaceChange":
        """The same without gradients."""
        return FaceChange(self.residual.detach(), self.motion.detach())


@dataclass(frozen=True)
class RefineStep:
    """One optimisation step as reported to the callback.

    Attributes:
        latents: `[1,C,l,l]`, the inverted source that each step generates from.
        residual: `[1,3,s,s]` in [-1,1], the change before the step.
        losses: objective name -> value before the step.
        conflict: share of layers in which L_A and L_E pull apart, in [0,1].
    """

    latents: Tensor
    residual: Tensor
    losses: dict[str, float]
    conflict: float


# Called with the index of a step; returns the latents to go on with, or None to stop here.
StepCallback = Callable[[int, RefineStep], Tensor | None]


@dataclass(frozen=True)
class InvertedFace:
    """A face in the score network's latent space, and the copy of the network that is fine-tuned.

    Attributes:
        unet: the copy, float32.
        scheduler: its noise schedule.
        config: settings of the run.
        source: `[1,3,s,s]` in [0,1], the crop.
        clean: `[1,C,l,l]` its latents.
        latents: `[1,C,l,l]` the same inverted to `config.start_timestep`.
        reconstruction: `[1,3,s,s]` what theta_0 makes of `latents`.
        condition: `[1,width]` of what is generated, or None.
    """

    unet: UNet2DModel
    scheduler: DDIMScheduler
    config: MAPConfig
    source: Tensor
    clean: Tensor
    latents: Tensor
    reconstruction: Tensor
    condition: Tensor | None

    def change(self, latents: Tensor, motion: Tensor) -> FaceChange:
        """What the network changes now, and the motion `[1,K]`; gradients reach both."""
        schedule = (self.config.start_timestep, self.config.num_generation_steps)
        with record_function("generate"), _autocast(latents.device, self.config):
            generated = generate(self.unet, self.scheduler, latents, *schedule, self.condition)
        change = unpatchify(generated, patch_size(self.unet)) - self.reconstruction  # [1,3,s,s]
        residual = as_shading(change, self.source)
        return FaceChange(residual, limit(motion, self.config.max_motion))


def refine(
    networks: Networks,
    target: RefineTarget,
    geometry: CropGeometry,
    objectives: Sequence[Objective],
    config: MAPConfig,
    generator: torch.Generator,
    on_step: StepCallback | None = None,
) -> FaceChange:
    """Find the least visible change of one face that reaches the goals.

    Args:
        generator: the only source of randomness.
        on_step: called after each step.
    """
    free = torch.zeros(1, motion_count(geometry, config))
    best = FaceChange(torch.zeros_like(target.source_crop), free)
    if config.refine_steps == 0 and networks.map_network is None:
        return best  # the prior alone doesn't protect
    if is_protected(objectives, networks, target, geometry, config, generator):
        return best
    face = invert_face(networks, target, config)
    if networks.map_network is not None and free.numel():
        learned = networks.map_network.motion(
            target.source_embeddings, target.target_embeddings, config.margin
        )
        # What a network doesn't know of, for it's older, comes last and starts at 0.
        free = F.pad(learned, (0, free.shape[1] - learned.shape[1]))
    free = nn.Parameter(free.detach().to(target.source_crop).float(), False)
    if config.refine_steps == 0:
        return face.change(face.latents, free)
    with torch.enable_grad():
        parameters, layers = trainable_parameters(face.unet)
        groups = [{"params": parameters, "lr": config.learning_rate}]
        if free.numel():  # the motion is a layer of its own
            free.requires_grad_(True)
            groups.append({"params": [free], "lr": config.motion_rate})
            parameters, layers = [*parameters, free], [*layers, layers[-1] + 1]
        optimizer = torch.optim.Adam(groups, betas=config.adam_betas, foreach=True)
        combine = GradientCombiner(config, layers)
        # Adam overshoots when a prior term kicks in, so the best step counts and not the last.
        best_loss, waited, latents = float("inf"), 0, face.latents
        for index in range(config.refine_steps + 1):
            change = face.change(latents, free)
            values = evaluate(objectives, networks, face, target, geometry, change, generator)
            loss = picture_loss(objectives, values, config)
            waited += 1
            if loss < best_loss:
                best, best_loss, waited = change.detach(), loss, 0
            if index == config.refine_steps or waited >= config.patience:
                break
            with record_function("gradients"):
                gradients = side_gradients(objectives, values, parameters)
                total, conflict = combine(gradients)
                for parameter, gradient in zip(parameters, total, strict=True):
                    parameter.grad = gradient
                optimizer.step()
            if on_step is not None:
                losses = {name: value.item() for name, value in values.items()}
                step = RefineStep(latents, change.residual.detach(), losses, conflict)
                if (answer := on_step(index, step)) is None:
                    break
                latents = answer
    return best


def motion_count(geometry: CropGeometry, config: MAPConfig) -> int:
    """K: how many motions may be used."""
    if geometry.motions is None or config.motion_rate == 0:
        return 0
    return geometry.motions.flows.shape[1]


def is_protected(
    objectives: Sequence[Objective],
    networks: Networks,
    target: RefineTarget,
    geometry: CropGeometry,
    config: MAPConfig,
    generator: torch.Generator,
) -> bool:
    """Whether the face reaches all goals of identity as it is, and so can stay as it is."""
    goals = active(objectives, "identity")
    if not goals:
        return False
    unchanged = FaceChange(torch.zeros_like(target.source_crop), target.source_crop.new_zeros(1, 0))
    state = _show(networks, target, geometry, unchanged, None, config, generator)
    return all(float(o.loss(state, target)) <= 0 for o in goals)


def invert_face(networks: Networks, target: RefineTarget, config: MAPConfig) -> InvertedFace:
    """Invert the source crop with theta_0, and copy the network for its fine-tuning."""
    device = target.source_crop.device
    unet = _copy(networks.unet, device)
    patch = patch_size(unet)
    if config.compile:
        compile_network(unet)
    clean = patchify(target.source_crop, patch)  # [1,C,l,l]
    start, scheduler = config.start_timestep, networks.scheduler
    with torch.no_grad(), record_function("invert"), _autocast(device, config):
        latents = invert(
            unet, scheduler, clean, start, config.num_inversion_steps, target.source_cond
        )  # [1,C,l,l]
        generated = generate(
            unet, scheduler, latents, start, config.num_generation_steps, target.source_cond
        )
        reconstruction = unpatchify(generated, patch)  # [1,3,s,s]
    if networks.map_network is not None:
        networks.map_network.merge_into(unet)
    return InvertedFace(
        unet=unet,
        scheduler=scheduler,
        config=config,
        source=target.source_crop,
        clean=clean,
        latents=latents,
        reconstruction=reconstruction,
        condition=target.target_cond,
    )


def evaluate(
    objectives: Sequence[Objective],
    networks: Networks,
    face: InvertedFace,
    target: RefineTarget,
    geometry: CropGeometry,
    change: FaceChange,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Objective name -> value at a change, of those with a positive weight."""
    noise = None
    if needs(objectives, "noise"):
        noise = _predict_source_noise(face, target, generator)
    state = _show(networks, target, geometry, change, noise, face.config, generator)
    return {o.name: o.loss(state, target) for o in objectives if o.weight > 0}


def picture_loss(
    objectives: Sequence[Objective], values: Mapping[str, Tensor], config: MAPConfig
) -> float:
    """Weighted sum by which steps are compared: what says something about the picture itself.

    The expression counts with `max_expression_grad_ratio`, as it does in the update. A loss of
    noise is of the network, at a random noise level.
    """
    share = {"identity": 1.0, "expression": config.max_expression_grad_ratio, "prior": 1.0}
    return sum(
        share[o.side] * o.weight * values[o.name].item()
        for o in objectives
        if o.weight > 0 and o.needs != "noise"
    )


def _copy(unet: UNet2DModel, device: torch.device) -> UNet2DModel:
    """A float32 copy: half-precision weights would swallow Adam's small steps."""
    twin = copy.deepcopy(unet).float().requires_grad_(False)
    if hasattr(twin, "_hf_hook"):  # `enable_model_cpu_offload`: weights must stay for backward
        from accelerate.hooks import remove_hook_from_module

        twin = remove_hook_from_module(twin, recurse=True)
    return twin.to(device)


def _show(
    networks: Networks,
    target: RefineTarget,
    geometry: CropGeometry,
    change: FaceChange,
    noise: tuple[Tensor, Tensor] | None,
    config: MAPConfig,
    generator: torch.Generator,
) -> RefineState:
    """Make the change and show the result to every network in random views, or as it is."""
    moved, region = target.source_crop, target.source_region  # [1,3,s,s], [1,3,h,w]
    if change.motion.numel() and geometry.motions is not None:
        flow = geometry.motions.flow(change.motion)
        moved = deform_crop(moved, flow)
        region = deform(region, geometry.region_to_crop[0], flow)
    crop = (moved + change.residual * geometry.mask).clamp(0, 1)
    region = add_residual(region, change.residual, geometry.region_to_crop, geometry.mask)
    views = [random_view(region, generator) for _ in range(config.num_eot_views)]
    points = geometry.landmarks.expand(len(views), -1, -1)  # [V,5,2]

    def show(network: nn.Module) -> Tensor:
        shown, places = region, geometry.landmarks
        if views:  # each network gets landmarks of its own, as if found by a detector of its own
            shown, places = torch.cat(views), jitter_landmarks(points, generator)
        with _autocast(region.device, config):
            return network(shown, places).float()

    with record_function("recognise"):
        embeddings = {name: show(net) for name, net in networks.surrogates.items()}  # [V,D]
    with record_function("classify"):
        logits = {name: show(net) for name, net in networks.classifiers.items()}  # [V,7]
    return RefineState(moved, crop, change.motion, embeddings, logits, noise)


def _predict_source_noise(
    face: InvertedFace, target: RefineTarget, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Predicted and true noise `[1,C,l,l]` of the source at a random level, for L_SM."""
    clean, device = face.clean, generator.device
    start = face.config.start_timestep
    timestep = torch.randint(start, (len(clean),), generator=generator, device=device)
    timestep = timestep.to(clean.device)
    noise = randn_tensor(clean.shape, generator=generator, device=clean.device).to(clean)
    noisy = face.scheduler.add_noise(clean, noise, timestep)
    with record_function("denoise"), _autocast(clean.device, face.config):
        predicted = predict_noise(face.unet, noisy, timestep, target.source_cond)
    return predicted.float(), noise


def _autocast(device: torch.device, config: MAPConfig) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.autocast == "bf16")
