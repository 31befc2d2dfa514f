"""Fine-tune the prior into the MAP network: one network for every face, emotion and target.

The method of `map_pipeline.refine`, amortised over a labelled set of faces:

    invert x to x_t0 without a target; generate x^ from x_t0 told the emotion and the target;
    L_A, L_E and the prior terms on x^; gradients projected onto each other per layer with an EMA;
    L_SM on faces without a target keeps the network a face prior.

Told no target, the network stays the prior (it inverts and reconstructs); told one, it protects.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Adam

from map_pipeline import diffusion
from map_pipeline.conditioning import Condition, FaceConditioner
from map_pipeline.config import EMOTIONS, MAPConfig
from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression import ExpressionEncoder
from map_pipeline.faces.contour import five_points
from map_pipeline.faces.paste import feather_mask
from map_pipeline.guidance import Candidate, Goal, Objective, Side, active, default_objectives
from map_pipeline.measure import working_threshold
from map_pipeline.recognition import FaceRecogniser
from map_pipeline.refine import GradientCombiner, objective_gradient, trainable_parameters
from map_pipeline.training.augment import Batch, mirror
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.prior import (
    FaceSampler,
    PriorConfig,
    Progress,
    ScoreModel,
    noise_loss,
)
from map_pipeline.training.run_state import replacing
from map_pipeline.views import jitter_landmarks, random_view

# Surroundings of the crop that recognisers look at, made by reflection, px of 128.
MARGIN = 24
OWN_EMOTION = 0.5  # share of faces asked for the emotion they already show
VIEWED = 0.6  # share of steps that look at random views instead of the plain pictures
NEAREST, ANY_COMPOSITE = 0.3, 0.3  # shares of targets; the rest are other training faces


@dataclass(frozen=True)
class MAPTrainingConfig:
    """Settings of a training run; stored with the weights.

    Attributes:
        surrogates: recognisers that L_A is measured on; the network is told their embeddings.
        protection: how faces are inverted, generated and gradients combined.
        weights: objective name -> weight, where it differs from `default_objectives`.
        batch_size: faces a step.
        learning_rate: of Adam; warmup: updates until it is reached; it falls to 0 in the last
            `cooldown` share of the run.
        average_decay: of the averaged weights, which are the result.
        minutes, updates: the run ends at whichever comes first.
        report_every: updates between two reports.
        compile: use `torch.compile`, on CUDA only.
        mixed_precision: "bf16" or "no".
        seed: of everything random.
    """

    surrogates: tuple[str, ...] = ("dlib_resnet", "mobilefacenet", "faceres")
    protection: MAPConfig = field(default_factory=MAPConfig)
    weights: dict[str, float] = field(default_factory=dict)
    batch_size: int = 16
    learning_rate: float = 3e-4
    warmup: int = 50
    cooldown: float = 0.3
    average_decay: float = 0.99
    minutes: float = 120.0
    updates: int = 1_000_000
    report_every: int = 25
    compile: bool = False
    mixed_precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "updates", "report_every"):
            self._check(name, getattr(self, name) >= 1, ">= 1")
        for name in ("learning_rate", "minutes"):
            self._check(name, 0 < getattr(self, name) < math.inf, "> 0")
        for name in ("warmup", "seed"):
            self._check(name, getattr(self, name) >= 0, ">= 0")
        self._check("cooldown", 0 <= self.cooldown <= 1, "in [0, 1]")
        self._check("average_decay", 0 <= self.average_decay < 1, "in [0, 1)")
        # fp16 would need the loss scaled, and each side's gradient is taken by itself.
        self._check("mixed_precision", self.mixed_precision in ("bf16", "no"), "bf16 or no")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UnknownOptionError(f"`{name}` must be {rule}, got {getattr(self, name)!r}.")


PRESETS = {
    "cpu": MAPTrainingConfig(),
    "gpu": MAPTrainingConfig(
        batch_size=64, minutes=8, warmup=100, average_decay=0.995, compile=True, report_every=50
    ),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Training faces with everything that stays the same, on the training device.

    Attributes:
        labels: emotions, contours and so on; `images` is empty.
        pixels: `uint8 [N,3,s,s]`.
        starts: `float16 [N,C,h,w]`, inverted without a target.
        reconstructions: `float16 [N,3,s,s]`, generated back without a target.
        landmarks: `[N,5,2]` crop px.
        embeddings: surrogate name -> `[N,D]`.
    """

    labels: Batch
    pixels: Tensor
    starts: Tensor
    reconstructions: Tensor
    landmarks: Tensor
    embeddings: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.pixels)


def train_map(
    config: MAPTrainingConfig,
    faces: FaceSet,
    out: Path,
    prior: tuple[UNet2DModel, FaceConditioner, DDIMScheduler],
    surrogates: Mapping[str, FaceRecogniser],
    encoders: Mapping[str, ExpressionEncoder],
    composites: Mapping[str, Tensor],
    template: Tensor,
    say: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Fine-tune; writes `unet/`, `conditioner/`, `scheduler/` and `training_map.json` to `out`.

    Args:
        faces: training faces.
        prior: U-Net, conditioner and noise schedule to start from.
        surrogates: by name, those that `config` names; encoders: expression networks by name.
        composites: surrogate name -> `[M,D]` embeddings of the built-in targets.
        template: `[5,2]`, where the faces have eyes, nose and mouth corners, in units of the side.

    Returns:
        one entry a report: mean of each loss, share of conflicting layers, success rates.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    device = accelerator.device
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    objectives = [
        replace(o, weight=config.weights.get(o.name, o.weight)) for o in default_objectives()
    ]
    unet, conditioner, scheduler = prior
    unet, conditioner = unet.float().to(device), with_targets(conditioner, surrogates).to(device)
    surrogates = {name: net.to(device) for name, net in surrogates.items()}
    encoders = {name: net.to(device) for name, net in encoders.items()}
    composites = {name: value.to(device).float() for name, value in composites.items()}
    model = ScoreModel(unet, conditioner).requires_grad_(False)
    averaged = copy.deepcopy(model).eval()
    if config.compile:
        diffusion.compile_network(unet)
    prepared = prepare(averaged, scheduler, faces, surrogates, template, config, accelerator)
    say(f"{len(prepared)} faces prepared")

    parameters, layers = trainable_parameters(unet)
    count = max(layers) + 1
    for module in (conditioner.target_in, conditioner.target_out, conditioner.emotion):
        own = list(module.requires_grad_(True).parameters())
        parameters, layers = parameters + own, layers + [count] * len(own)
        count += 1
    optimizer = Adam(parameters, config.learning_rate, betas=(0.9, 0.99))
    average = EMAModel(parameters, decay=config.average_decay, foreach=True)
    combine = GradientCombiner(config.protection, layers)
    alphas = scheduler.alphas_cumprod.to(device)
    sampling = PriorConfig(
        patch=diffusion.patch_size(unet), batch_size=config.batch_size, seed=config.seed
    )
    draw = FaceSampler(faces, sampling, device, config.seed)
    step = Step(model, scheduler, surrogates, encoders, composites, prepared, config, accelerator)
    clock, reports, kept = Progress(config), [], []
    while clock.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * clock.rate
        values, rates = step(objectives, generator)
        if any(o.symbol == "L_SM" and o.weight > 0 for o in objectives):
            faces_drawn = draw()
            with accelerator.autocast():
                values["score_matching"] = noise_loss(
                    model, alphas, faces_drawn, sampling, draw.generator
                )
        gradients = {
            side: objective_gradient(active(objectives, side), values, parameters)
            for side in ("identity", "expression", "prior")
        }
        total, conflict = combine(gradients)
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        clock.advance()
        kept.append({k: v.detach() for k, v in values.items()} | rates | {"conflict": conflict})
        if clock.update % config.report_every == 0:
            reports.append(_mean(kept) | {"update": clock.update, "minutes": clock.minutes})
            kept = []
            say(", ".join(f"{k} {v:.3f}" for k, v in reports[-1].items()))
    if kept:
        reports.append(_mean(kept) | {"update": clock.update, "minutes": clock.minutes})
    average.store(parameters)
    average.copy_to(parameters)
    _save(out, unet, conditioner, scheduler, config, reports)
    average.restore(parameters)
    return reports


def with_targets(
    conditioner: FaceConditioner, surrogates: Mapping[str, FaceRecogniser]
) -> FaceConditioner:
    """Copy a prior's conditioner with room for target embeddings, which say nothing at first.

    A conditioner that already takes these very embeddings goes on as it is.
    """
    dims = {name: net.config.embedding_dim for name, net in surrogates.items()}
    told = FaceConditioner(conditioner.config.width, conditioner.config.hidden, dims)
    told.load_state_dict(conditioner.float().state_dict(), strict=False)
    if conditioner.config.target_dims != dims:
        for parameter in told.target_out[-1].parameters():
            nn.init.zeros_(parameter)
    return told


@torch.no_grad()
def prepare(
    prior: ScoreModel,
    scheduler: DDIMScheduler,
    faces: FaceSet,
    surrogates: Mapping[str, FaceRecogniser],
    template: Tensor,
    config: MAPTrainingConfig,
    accelerator: Accelerator,
) -> Prepared:
    """Invert and reconstruct all faces once, half of them mirrored, and embed them."""
    device, protection = accelerator.device, config.protection
    patch = diffusion.patch_size(prior.unet)
    half = torch.rand(len(faces), generator=torch.Generator().manual_seed(config.seed)) < 0.5
    pixels, contours = mirror(faces.images, faces.contours, half)
    side = pixels.shape[-1]
    known = [torch.from_numpy(five_points(c.numpy())) for c in contours * side]
    landmarks = torch.where(
        faces.has_contour[:, None, None], torch.stack(known), template[None] * side
    ).to(device)
    labels = Batch(
        torch.empty(0, device=device),
        *(v.to(device) for v in (faces.emotions, contours, faces.has_contour, faces.grey)),
    )
    starts, back = [], []
    embeddings: dict[str, list[Tensor]] = {name: [] for name in surrogates}
    for rows in torch.arange(len(faces)).split(128):
        crops = pixels[rows].to(device).float() / 255
        told = prior.conditioner(no_target(labels, rows.to(device)))
        schedule = protection.start_timestep
        with accelerator.autocast():
            start = diffusion.invert(
                prior.unet,
                scheduler,
                diffusion.to_latents(crops, patch),
                schedule,
                protection.num_inversion_steps,
                told,
            )
            found = diffusion.generate(
                prior.unet, scheduler, start, schedule, protection.num_inference_steps, told
            )
        starts.append(start.half())
        back.append(diffusion.to_crop(found, patch).half())
        for name, net in surrogates.items():
            embeddings[name].append(net(*surroundings(crops, landmarks[rows])).float())
    return Prepared(
        labels,
        pixels.to(device),
        torch.cat(starts),
        torch.cat(back),
        landmarks,
        {name: torch.cat(parts) for name, parts in embeddings.items()},
    )


class Step:
    """One look at a random batch: losses of the protected faces and how many are protected."""

    def __init__(
        self,
        model: ScoreModel,
        scheduler: DDIMScheduler,
        surrogates: Mapping[str, FaceRecogniser],
        encoders: Mapping[str, ExpressionEncoder],
        composites: Mapping[str, Tensor],
        faces: Prepared,
        config: MAPTrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._scheduler = model, scheduler
        self._surrogates, self._encoders = surrogates, encoders
        self._composites, self._faces = composites, faces
        self._config, self._accelerator = config, accelerator
        self._patch = diffusion.patch_size(model.unet)
        self._mask = feather_mask(faces.pixels.shape[-1]).to(accelerator.device)

    def __call__(
        self, objectives: Sequence[Objective], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss values with gradients (all but L_SM), and success rates of this batch."""
        faces, device = self._faces, self._accelerator.device
        rows = torch.randint(len(faces), (self._config.batch_size,), generator=generator).to(device)
        source = {name: value[rows] for name, value in faces.embeddings.items()}
        targets = self._draw_targets(source, rows, generator)
        emotion = self._draw_emotions(rows, generator)
        crops = faces.pixels[rows].float() / 255
        told = replace(
            no_target(faces.labels, rows),
            emotion=F.one_hot(emotion, len(EMOTIONS)).float(),
            targets=targets,
        )
        change = self._change(rows, told)
        crop = (crops + change * self._mask).clamp(0, 1)
        region, landmarks = surroundings(crop, faces.landmarks[rows])
        if torch.rand((), generator=generator) < VIEWED:
            region, landmarks = (
                random_view(region, generator),
                jitter_landmarks(landmarks, generator),
            )
        goal = Goal(
            source_region=region,
            source_crop=crops,
            source_embeddings=source,
            target_embeddings=targets,
            thresholds={name: working_threshold(net) for name, net in self._surrogates.items()},
            emotion=emotion,
            ssim_budget=self._config.protection.ssim_budget,
        )
        with self._accelerator.autocast():
            embeddings = {k: net(region, landmarks).float() for k, net in self._surrogates.items()}
            logits = {k: net(region, landmarks).float() for k, net in self._encoders.items()}
        candidate = Candidate(crop, region, embeddings, logits, noise=None)
        values = {
            o.name: o.loss(candidate, goal)
            for o in objectives
            if o.weight > 0 and o.symbol != "L_SM"
        }
        return values, success_rates(candidate, goal)

    def _change(self, rows: Tensor, told: Condition) -> Tensor:
        protection = self._config.protection
        with self._accelerator.autocast():
            generated = diffusion.generate(
                self._model.unet,
                self._scheduler,
                self._faces.starts[rows].float(),
                protection.start_timestep,
                protection.num_inference_steps,
                self._model.conditioner(told),
            )
        found = diffusion.to_crop(generated.float(), self._patch)
        return found - self._faces.reconstructions[rows].float()

    def _draw_targets(
        self, source: dict[str, Tensor], rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Targets as users choose them: a similar composite, any composite, somebody's photo."""
        chance = torch.rand(len(rows), generator=generator).to(rows.device)
        names = list(source)
        bank = self._composites[names[0]]
        nearest = (source[names[0]] @ bank.T).argmax(1)
        some = torch.randint(len(bank), (len(rows),), generator=generator).to(rows.device)
        other = torch.randint(len(self._faces), (len(rows),), generator=generator).to(rows.device)
        composite = torch.where(chance < NEAREST, nearest, some)
        built_in = (chance < NEAREST + ANY_COMPOSITE)[:, None]
        people = {name: value[other] for name, value in self._faces.embeddings.items()}
        return {
            name: torch.where(built_in, self._composites[name][composite], people[name])
            for name in names
        }

    def _draw_emotions(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        seen = self._faces.labels.emotions[rows]
        some = torch.randint(len(EMOTIONS), (len(rows),), generator=generator).to(rows.device)
        keep = torch.rand(len(rows), generator=generator).to(rows.device) < OWN_EMOTION
        return torch.where(keep & (seen.sum(1) > 0), seen.argmax(1), some)


def no_target(labels: Batch, rows: Tensor) -> Condition:
    """What the network is told of a face as it is: its shape and colour."""
    return Condition(
        torch.zeros_like(labels.emotions[rows]),
        labels.contours[rows],
        labels.has_contour[rows].float(),
        labels.grey[rows].float(),
    )


def surroundings(crops: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Crops `[B,3,s,s]` with a reflected margin, and their landmarks `[B,5,2]` in it."""
    margin = MARGIN * crops.shape[-1] // 128
    return F.pad(crops, [margin] * 4, mode="reflect"), landmarks + margin


def success_rates(candidate: Candidate, goal: Goal) -> dict[str, float]:
    """Share of faces that impersonate and dodge, mean over the surrogates."""
    rates: dict[Side | str, list[Tensor]] = {"impersonates": [], "dodges": []}
    for name, embedding in candidate.embeddings.items():
        limit = goal.thresholds[name]
        to_target = (embedding * goal.target_embeddings[name]).sum(1)
        to_source = (embedding * goal.source_embeddings[name]).sum(1)
        rates["impersonates"].append((to_target >= limit).float().mean())
        rates["dodges"].append((to_source < limit).float().mean())
    return {name: torch.stack(values).mean().detach() for name, values in rates.items()}


def _mean(values: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    return {k: sum(float(v[k]) for v in values) / len(values) for k in values[0]}


def _save(
    out: Path,
    unet: UNet2DModel,
    conditioner: FaceConditioner,
    scheduler: DDIMScheduler,
    config: MAPTrainingConfig,
    reports: list[dict[str, float]],
) -> None:
    told = {"date": time.strftime("%Y-%m-%d"), "config": asdict(config), "reports": reports}
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out) as folder:
        unet.save_pretrained(folder / "unet")
        conditioner.save_pretrained(folder / "conditioner")
        scheduler.save_pretrained(folder / "scheduler")
        (folder / "training_map.json").write_text(json.dumps(told, indent=2))
