"""Fine-tuning of the score network on one face: the optimisation at the heart of MAP.

    invert x to x_t0 with theta_0; then, `refine_steps` times: generate x^ from x_t0 with theta,
    paste x^ - reconstruction(x) into the photo, measure L_A and L_E there, project their gradients
    layer by layer against each other's EMA, add the prior terms, step theta. The best x^ is kept.

theta starts at theta_0 or, where a `MAPNetwork` is given, at what that was trained to: its x^ is
protected before the first step, and without any step it is taken, scaled to the change allowed.

Works on a copy of the network; nothing is kept between two faces.

Letters in shape comments: s side of the crop, h/w of the region around the face, C/l channels and
side of the latents, V views, D length of an embedding.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.profiler import record_function

from map_pipeline.config import MAPConfig
from map_pipeline.diffusion.conditioner import is_grey
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
    to_grey,
)
from map_pipeline.faces.paste import add_residual
from map_pipeline.identity.gradients import GradientCombiner, side_gradients
from map_pipeline.identity.losses import multiscale_ssim
from map_pipeline.identity.objectives import Objective, RefineState, RefineTarget, needs
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.identity.views import jitter_landmarks, random_view

# Beyond, more of the same change no longer looks like a face.
MAX_AMPLIFICATION = 2.0
FACTOR_BITS = 7  # precision of the factor in `fit_to_budget`


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
        mask: `[1,1,s,s]` in [0,1], feathering of the crop.
    """

    landmarks: Tensor
    region_to_crop: Tensor
    mask: Tensor


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
        clean: `[1,C,l,l]` latents of the source crop.
        latents: `[1,C,l,l]` the same inverted to `config.start_timestep`.
        reconstruction: `[1,3,s,s]` what theta_0 makes of `latents`.
        condition: `[1,width]` of what is generated, or None.
        grey: the photo has no colour, and gets none.
    """

    unet: UNet2DModel
    scheduler: DDIMScheduler
    config: MAPConfig
    clean: Tensor
    latents: Tensor
    reconstruction: Tensor
    condition: Tensor | None
    grey: bool

    def residual(self, latents: Tensor) -> Tensor:
        """What the network changes now, `[1,3,s,s]` in [-1,1]; gradients reach its weights."""
        schedule = (self.config.start_timestep, self.config.num_generation_steps)
        with record_function("generate"), _autocast(latents.device, self.config):
            generated = generate(self.unet, self.scheduler, latents, *schedule, self.condition)
        change = unpatchify(generated, patch_size(self.unet)) - self.reconstruction  # [1,3,s,s]
        return to_grey(change).expand_as(change) if self.grey else change


def refine(
    networks: Networks,
    target: RefineTarget,
    geometry: CropGeometry,
    objectives: Sequence[Objective],
    config: MAPConfig,
    generator: torch.Generator,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Optimise the network for one face.

    Args:
        generator: the only source of randomness.
        on_step: called after each step.

    Returns:
        the residual x^ - reconstruction(x), `[1,3,s,s]` in [-1,1], not yet feathered.
    """
    if config.refine_steps == 0 and networks.map_network is None:
        return torch.zeros_like(target.source_crop)  # the prior alone doesn't protect
    face = invert_face(networks, target, config)
    if config.refine_steps == 0:
        return fit_to_budget(face.residual(face.latents), target, geometry)
    with torch.enable_grad():
        parameters, layers = trainable_parameters(face.unet)
        optimizer = torch.optim.Adam(
            parameters, config.learning_rate, betas=config.adam_betas, foreach=True
        )
        combine = GradientCombiner(config, layers)
        # Adam overshoots when a prior term kicks in, so the best step counts and not the last; the
        # first residual of theta_0 leaves the photo unprotected.
        best, best_loss = torch.zeros_like(target.source_crop), float("inf")
        latents = face.latents
        for index in range(config.refine_steps):
            change = face.residual(latents)
            values = evaluate(objectives, networks, face, target, geometry, change, generator)
            loss = picture_loss(objectives, values, config)
            if loss < best_loss and (index > 0 or networks.map_network is not None):
                best, best_loss = change.detach(), loss
            with record_function("gradients"):
                gradients = side_gradients(objectives, values, parameters)
                total, conflict = combine(gradients)
                for parameter, gradient in zip(parameters, total, strict=True):
                    parameter.grad = gradient
                optimizer.step()
            if on_step is not None:
                losses = {name: value.item() for name, value in values.items()}
                step = RefineStep(latents, change.detach(), losses, conflict)
                if (answer := on_step(index, step)) is None:
                    return best
                latents = answer

        with torch.no_grad():
            change = face.residual(latents)
            values = evaluate(objectives, networks, face, target, geometry, change, generator)
            return change if picture_loss(objectives, values, config) < best_loss else best


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
        clean=clean,
        latents=latents,
        reconstruction=reconstruction,
        condition=target.target_cond,
        grey=bool(is_grey(target.source_crop)),
    )


def evaluate(
    objectives: Sequence[Objective],
    networks: Networks,
    face: InvertedFace,
    target: RefineTarget,
    geometry: CropGeometry,
    change: Tensor,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Objective name -> value at a change `[1,3,s,s]`, of those with a positive weight."""
    with _autocast(change.device, face.config):
        noise = None
        if needs(objectives, "noise"):
            noise = _predict_source_noise(face, target, generator)
        state = _show(networks, target, geometry, change, noise, face.config, generator)
    return {o.name: o.loss(state, target) for o in objectives if o.weight > 0}


def fit_to_budget(change: Tensor, target: RefineTarget, geometry: CropGeometry) -> Tensor:
    """Scale a change `[1,3,s,s]` to the similarity to the source that `ssim_budget` allows.

    The similarity falls with the factor, so the largest one allowed is found by bisection.
    """
    low, high = 0.0, MAX_AMPLIFICATION

    def allowed(factor: float) -> bool:
        crop = (target.source_crop + factor * change * geometry.mask).clamp(0, 1)
        return float(multiscale_ssim(crop, target.source_crop)) >= target.ssim_budget

    if allowed(high):
        return high * change
    for _ in range(FACTOR_BITS):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low * change


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
    change: Tensor,
    noise: tuple[Tensor, Tensor] | None,
    config: MAPConfig,
    generator: torch.Generator,
) -> RefineState:
    """Paste the change and show the result to every network in random views, or as it is."""
    crop = (target.source_crop + change * geometry.mask).clamp(0, 1)  # [1,3,s,s]
    region = add_residual(
        target.source_region, change, geometry.region_to_crop, geometry.mask
    )  # [1,3,h,w]
    views = [random_view(region, generator) for _ in range(config.num_eot_views)]
    points = geometry.landmarks.expand(len(views), -1, -1)  # [V,5,2]

    def show(network: nn.Module) -> Tensor:
        if not views:
            return network(region, geometry.landmarks).float()
        # Each network gets landmarks of its own, as if found by a detector of its own.
        return network(torch.cat(views), jitter_landmarks(points, generator)).float()

    with record_function("recognise"):
        embeddings = {name: show(net) for name, net in networks.surrogates.items()}  # [V,D]
    with record_function("classify"):
        logits = {name: show(net) for name, net in networks.classifiers.items()}  # [V,7]
    return RefineState(crop=crop, region=region, embeddings=embeddings, logits=logits, noise=noise)


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
    with record_function("denoise"):
        predicted = predict_noise(face.unet, noisy, timestep, target.source_cond)
    return predicted.float(), noise


def _autocast(device: torch.device, config: MAPConfig) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.autocast == "bf16")
