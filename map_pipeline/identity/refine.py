"""Fine-tuning of the score network on one face: the optimisation at the heart of MAP.

    invert x to x_t0 with theta_0; then, `refine_steps` times: generate x^ from x_t0 with theta,
    paste x^ - reconstruction(x) into the photo, measure L_A and L_E there, project their gradients
    layer by layer against each other's EMA, add the prior terms, step theta. The best x^ is kept.

theta starts at theta_0 or, where a `MAPNetwork` is given, at what that was trained to: its x^ is
protected before the first step, and without any step it is taken, scaled to the change allowed.

Works on a copy of the network; nothing is kept between two faces.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from map_pipeline.config import MAPConfig
from map_pipeline.diffusion import ddim as diffusion
from map_pipeline.diffusion.conditioner import is_grey
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.errors import NotFiniteError
from map_pipeline.expression.classifiers import (
    ExpressionClassifier,
    TransformersExpressionClassifier,
    to_grey,
)
from map_pipeline.faces.paste import add_residual
from map_pipeline.identity.gradients import Gradient, GradientEMA, norm, project_out
from map_pipeline.identity.losses import multiscale_ssim
from map_pipeline.identity.objectives import Objective, RefineState, RefineTarget, Side, active
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
        map_network: what to start from instead of theta_0; it must be told in `goal.target_cond`.
    """

    unet: UNet2DModel
    scheduler: DDIMScheduler
    surrogates: dict[str, FaceRecogniser]
    classifiers: dict[str, ExpressionClassifier | TransformersExpressionClassifier]
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
class Step:
    """One optimisation step as told to the callback.

    Attributes:
        losses: objective name -> value before the step.
        conflict: share of layers in which L_A and L_E pull apart, in [0,1].
    """

    losses: dict[str, float]
    conflict: float


StepCallback = Callable[[int, Step], None]


def refine(
    networks: Networks,
    goal: RefineTarget,
    placement: CropGeometry,
    objectives: Sequence[Objective],
    config: MAPConfig,
    generator: torch.Generator,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Optimise the network for one face.

    Args:
        generator: CPU generator, the only source of randomness.
        on_step: called after each step with its index and losses.

    Returns:
        the residual x^ - reconstruction(x), `[1,3,s,s]` in [-1,1], not yet feathered.
    """
    device = goal.source_crop.device
    patch = diffusion.patch_size(networks.unet)
    schedule = (config.start_timestep, config.num_inference_steps)
    clean = diffusion.patchify(goal.source_crop, patch)
    # A float32 copy: half-precision weights would swallow Adam's small steps.
    unet = copy.deepcopy(networks.unet).float().requires_grad_(False)
    if config.compile:
        diffusion.compile_network(unet)
    with torch.no_grad(), _autocast(device, config):
        start = diffusion.invert(
            unet,
            networks.scheduler,
            clean,
            schedule[0],
            config.num_inversion_steps,
            goal.source_cond,
        )
        reconstruction = diffusion.unpatchify(
            diffusion.generate(unet, networks.scheduler, start, *schedule, goal.source_cond), patch
        )

    if networks.map_network is not None:
        networks.map_network.merge_into(unet)
    grey = bool(is_grey(goal.source_crop))  # a photo without colour gets none

    def residual() -> Tensor:
        with _autocast(device, config):
            generated = diffusion.generate(
                unet, networks.scheduler, start, *schedule, goal.target_cond
            )
        change = diffusion.unpatchify(generated, patch) - reconstruction
        return to_grey(change).expand_as(change) if grey else change

    if config.refine_steps == 0 and networks.map_network is None:
        return torch.zeros_like(goal.source_crop)  # the prior alone doesn't protect
    if config.refine_steps == 0:
        return fit_to_budget(residual(), goal, placement)
    with torch.enable_grad():
        parameters, layers = trainable_parameters(unet)
        optimizer = torch.optim.Adam(
            parameters, config.learning_rate, betas=config.adam_betas, foreach=True
        )
        combine = GradientCombiner(config, layers)

        weighs_noise = any(o.symbol == "L_SM" and o.weight > 0 for o in objectives)

        def look(change: Tensor) -> dict[str, Tensor]:
            with _autocast(device, config):
                noise = None
                if weighs_noise:
                    noise = _denoise(unet, networks.scheduler, clean, goal, config, generator)
                candidate = _candidate(
                    networks, goal, placement, change, noise, config.num_eot_views, generator
                )
            return {o.name: o.loss(candidate, goal) for o in objectives if o.weight > 0}

        # Adam overshoots when a prior term kicks in, so the best step counts and not the last; the
        # first look is before any step, at a photo that theta_0 leaves unprotected.
        best, best_loss = torch.zeros_like(goal.source_crop), float("inf")
        for index in range(config.refine_steps):
            change = residual()
            values = look(change)
            loss = picture_loss(objectives, values, config)
            if loss < best_loss and (index > 0 or networks.map_network is not None):
                best, best_loss = change.detach(), loss
            gradients = side_gradients(objectives, values, parameters)
            total, conflict = combine(gradients)
            for parameter, gradient in zip(parameters, total, strict=True):
                parameter.grad = gradient
            optimizer.step()
            if on_step is not None:
                on_step(index, Step({k: v.item() for k, v in values.items()}, conflict))

        with torch.no_grad():
            change = residual()
            last_is_best = picture_loss(objectives, look(change), config) < best_loss
            return change if last_is_best else best


def fit_to_budget(change: Tensor, goal: RefineTarget, placement: CropGeometry) -> Tensor:
    """Scale a change `[1,3,s,s]` to the similarity to the source that `goal.ssim_budget` allows.

    The similarity falls with the factor, so the largest one allowed is found by bisection.
    """
    low, high = 0.0, MAX_AMPLIFICATION

    def allowed(factor: float) -> bool:
        crop = (goal.source_crop + factor * change * placement.mask).clamp(0, 1)
        return float(multiscale_ssim(crop, goal.source_crop)) >= goal.ssim_budget

    if allowed(high):
        return high * change
    for _ in range(FACTOR_BITS):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low * change


def picture_loss(
    objectives: Sequence[Objective], values: dict[str, Tensor], config: MAPConfig
) -> float:
    """Weighted sum by which steps are compared: what says something about the picture itself.

    The expression counts with `max_expression_grad_ratio`, as it does in the update.
    """
    share = {"identity": 1.0, "expression": config.max_expression_grad_ratio, "prior": 1.0}
    return sum(
        share[o.side] * o.weight * values[o.name].item()
        for o in objectives
        if o.weight > 0 and o.symbol != "L_SM"  # of the network, at a random noise level
    )


class GradientCombiner:
    """Joins the gradients of the two objectives and the prior terms into one update direction.

    The expression gradient is shortened to at most `max_expression_grad_ratio` times the identity
    gradient's length, so that it neither drowns identity at first nor is blown up
    once its loss is solved.
    """

    def __init__(self, config: MAPConfig, layers: list[int]) -> None:
        self._config = config
        self._layers = layers
        self._ema: dict[Side, GradientEMA] = {
            "identity": GradientEMA(config.ema_decay),
            "expression": GradientEMA(config.ema_decay),
        }

    def __call__(self, gradients: dict[Side, Gradient | None]) -> tuple[Gradient, float]:
        """Return the direction and the share of layers in conflict; a missing side is None."""
        identity, expression, prior = (
            gradients[side] for side in ("identity", "expression", "prior")
        )
        conflict = 0.0
        if identity is not None and expression is not None:
            limit = self._config.max_expression_grad_ratio * norm(identity)
            scale = (limit / norm(expression).clamp(min=1e-12)).clamp(max=1)
            expression = torch._foreach_mul(expression, scale)
            *projected, conflict = self._project(identity, expression)  # told in any case
            if self._config.projection:
                identity, expression = projected
        present = [g for g in (identity, expression, prior) if g is not None]
        if not present:
            raise ValueError(
                "`objectives` must hold at least one with a positive weight, got none."
            )
        return [torch.stack(parts).sum(0) for parts in zip(*present, strict=True)], conflict

    def _project(
        self, identity: Gradient, expression: Gradient
    ) -> tuple[Gradient, Gradient, float]:
        mean_identity = self._ema["identity"].update(identity)
        mean_expression = self._ema["expression"].update(expression)
        identity, conflict = project_out(identity, mean_expression, self._layers)
        expression, _ = project_out(expression, mean_identity, self._layers)
        return identity, expression, conflict


def trainable_parameters(unet: UNet2DModel) -> tuple[list[nn.Parameter], list[int]]:
    """Unfreeze the deep blocks of `unet`; return their parameters and each one's layer index."""
    parameters: list[nn.Parameter] = []
    layers: list[int] = []
    count = 0
    for block in diffusion.deep_blocks(unet):
        for module in block.modules():
            own = list(module.parameters(recurse=False))
            if own:
                parameters += [parameter.requires_grad_(True) for parameter in own]
                layers += [count] * len(own)
                count += 1
    return parameters, layers


def _candidate(
    networks: Networks,
    goal: RefineTarget,
    placement: CropGeometry,
    change: Tensor,
    noise: tuple[Tensor, Tensor] | None,
    views: int,
    generator: torch.Generator,
) -> RefineState:
    """Paste the change and show the result to every network in random views, or as it is."""
    crop = (goal.source_crop + change * placement.mask).clamp(0, 1)
    region = add_residual(goal.source_region, change, placement.region_to_crop, placement.mask)
    seen = [random_view(region, generator) for _ in range(views)]
    points = placement.landmarks.expand(views, -1, -1)

    def show(network: nn.Module) -> Tensor:
        if not seen:
            return network(region, placement.landmarks).float()
        # Each network gets landmarks of its own, as if found by a detector of its own.
        return network(torch.cat(seen), jitter_landmarks(points, generator)).float()

    return RefineState(
        crop=crop,
        region=region,
        embeddings={name: show(net) for name, net in networks.surrogates.items()},
        logits={name: show(net) for name, net in networks.classifiers.items()},
        noise=noise,
    )


def _denoise(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    clean: Tensor,
    goal: RefineTarget,
    config: MAPConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Predicted and true noise of the source at a random level, for L_SM."""
    level = torch.randint(config.start_timestep, (len(clean),), generator=generator)
    level = level.to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = scheduler.add_noise(clean, noise, level)
    predicted = diffusion.predict_noise(unet, noisy, level, goal.source_cond)
    return predicted.float(), noise


def side_gradients(
    objectives: Sequence[Objective], values: dict[str, Tensor], parameters: list[nn.Parameter]
) -> dict[Side, Gradient | None]:
    """Gradient of each side. Without an expression side there is no conflict to solve, and one
    pass gives the sum of all the rest (as "identity").
    """
    sides: tuple[Side, ...] = ("identity", "expression", "prior")
    if active(objectives, "expression"):
        return {s: objective_gradient(active(objectives, s), values, parameters) for s in sides}
    weighted = [o for o in objectives if o.weight > 0]
    gradient = objective_gradient(weighted, values, parameters)
    return {"identity": gradient, "expression": None, "prior": None}


def objective_gradient(
    objectives: Sequence[Objective], values: dict[str, Tensor], parameters: list[nn.Parameter]
) -> Gradient | None:
    """Gradient of the weighted sum of one side's losses; None if the side is switched off."""
    if not objectives:
        return None
    total = torch.stack([o.weight * values[o.name] for o in objectives]).sum()
    gradient = torch.autograd.grad(
        total, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    if not torch.isfinite(norm(gradient)):
        raise NotFiniteError(
            f"`objectives` must have finite gradients, got others from "
            f"{', '.join(o.name for o in objectives)}; try a lower `learning_rate` or fp32."
        )
    return list(gradient)


def _autocast(device: torch.device, config: MAPConfig) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.autocast == "bf16")
