"""Train the MAP network: one for every face, emotion and target.

The method of `map_pipeline.identity.refine`, amortised over a labelled set of faces:

    invert x to x_t0 with the prior; generate x^ from x_t0 with the network, told the emotion and
    the target; L_A, L_E and the prior terms on x^; gradients projected onto each other per layer
    with an EMA; L_SM on faces as they are keeps the network one of faces.
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Adam

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import Condition, FaceConditioner
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import compile_network, patch_size, patchify, unpatchify
from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.classifiers import ExpressionClassifier
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.paste import feather_mask
from map_pipeline.identity.gradients import GradientCombiner, objective_gradient
from map_pipeline.identity.objectives import (
    Objective,
    RefineState,
    RefineTarget,
    Side,
    active,
    default_objectives,
)
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.identity.views import jitter_landmarks, random_view
from map_pipeline.measure import working_threshold
from map_pipeline.training.augment import Batch, mirror
from map_pipeline.training.config import MAPTrainingConfig, PriorConfig
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.prior import noise_loss
from map_pipeline.training.run_state import Progress, find_state, replacing, save_state
from map_pipeline.training.sampling import FaceSampler, mixed_seed
from map_pipeline.training.score_model import ScoreModel

SUMMARY = "training_map.json"
# Settings with which a run may go on.
RESUMABLE_FIELDS = {"minutes", "updates", "report_every", "compile", "mixed_precision"}
# Surroundings of the crop that recognisers look at, made by reflection, px of 128.
MARGIN = 24
OWN_EMOTION = 0.75  # share of faces asked for the emotion they already show
SCORED = 4  # L_SM looks at one face for so many that are protected: it costs a pass of its own
NEAREST, ANY_COMPOSITE = 0.4, 0.4  # shares of targets; the rest are other training faces


@dataclass(frozen=True, eq=False)
class Prepared:
    """Training faces with everything that stays the same, on the training device.

    Attributes:
        labels: emotions, landmarks68 and so on; `images` is empty.
        pixels: `uint8 [N,3,s,s]`.
        starts: `float16 [N,C,h,w]`, inverted with the prior.
        reconstructions: `float16 [N,3,s,s]`, generated back with the prior.
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
    classifiers: Mapping[str, ExpressionClassifier],
    composites: Mapping[str, Tensor],
    template: Tensor,
    say: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train until the time or the updates are used up; the same call goes on after a stop.

    (The gradients' EMA, a few updates long, starts anew then.)

    Writes to `out`: the `MAPNetwork` (averaged weights, in fp16 as all of a checkpoint),
    `training_map.json` (settings and reports) and `state/` to resume from. Every file is whole
    whenever the process is killed.

    Args:
        faces: training faces.
        prior: U-Net, conditioner and noise schedule to start from; they stay as they are.
        surrogates: by name, those that `config` names; classifiers: expression networks by name.
        composites: surrogate name -> `[M,D]` embeddings of the built-in targets.
        template: `[5,2]`, where the faces have eyes, nose and mouth corners, in units of the side.

    Returns:
        one entry a report: mean of each loss, share of conflicting layers, success rates.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise UnknownOptionError(
            f"`train map` must run as one process, got {accelerator.num_processes}."
        )
    device = accelerator.device
    torch.manual_seed(config.seed)
    objectives = [
        replace(o, weight=config.weights.get(o.name, o.weight)) for o in default_objectives()
    ]
    check_state(config, out)
    # 1. What stays the same: the faces, inverted and embedded.
    unet, conditioner, scheduler = prior
    surrogates = {name: net.to(device) for name, net in surrogates.items()}
    classifiers = {name: net.to(device) for name, net in classifiers.items()}
    composites = {name: value.to(device).float() for name, value in composites.items()}
    model = copy.deepcopy(ScoreModel(unet, conditioner)).float().to(device).requires_grad_(False)
    if config.compile:
        compile_network(model.unet)
    faces = faces.select(random_subset(len(faces), config.max_faces, config.seed))
    prepared = prepare(model, scheduler, faces, surrogates, template, config, accelerator)
    say(f"{len(prepared)} faces prepared")

    # 2. What changes.
    dims = {name: net.config.embedding_dim for name, net in surrogates.items()}
    network = MAPNetwork.for_unet(model.unet, dims, config.rank).to(device)
    network.attach(model.unet)
    parameters, layers = grouped_parameters(network)
    optimizer = accelerator.prepare(Adam(parameters, config.learning_rate, betas=(0.9, 0.99)))
    average = EMAModel(parameters, decay=config.average_decay, foreach=True)
    clock, reports = Progress(config), Reports()
    accelerator.register_for_checkpointing(network, average, clock, reports)
    if (state := find_state(out / "state")) is not None:
        accelerator.load_state(str(state))
        average.to(device)  # accelerate loads it on the CPU
        say(f"resumed at update {clock.update}")

    # 3. Train.
    combine = GradientCombiner(config.protection, layers)
    few = max(config.batch_size // SCORED, 1)
    sampling = PriorConfig(patch=patch_size(unet), batch_size=few, seed=config.seed)
    draw = FaceSampler(faces, sampling, device, config.seed)
    weighs_noise = any(o.symbol == "L_SM" and o.weight > 0 for o in objectives)
    alphas = scheduler.alphas_cumprod.to(device)
    step = Step(
        model,
        network,
        scheduler,
        surrogates,
        classifiers,
        composites,
        prepared,
        config,
        accelerator,
    )

    def report() -> None:
        reports.close(clock)
        save_state(accelerator, out / "state")
        average.store(parameters)
        average.copy_to(parameters)
        _save(out, network, config, reports.done)
        average.restore(parameters)
        say(", ".join(f"{k} {v:.3f}" for k, v in reports.done[-1].items()))

    clock.start()
    while clock.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * clock.rate
        draw.seek(clock.update)
        values, rates = step(objectives, generator_of(config.seed, clock.update))
        if weighs_noise:
            batch = draw()
            with accelerator.autocast():
                values["score_matching"] = noise_loss(
                    model, alphas, batch, sampling, draw.generator
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
        reports.add({k: v.detach() for k, v in values.items()} | rates | {"conflict": conflict})
        if clock.update % config.report_every == 0:
            report()
    if reports.pending:
        report()
    return reports.done


def generator_of(seed: int, update: int) -> torch.Generator:
    """The randomness of one update, the same in every run with this seed."""
    return torch.Generator().manual_seed(mixed_seed(seed, update, 1))  # not `FaceSampler`'s


def check_state(config: MAPTrainingConfig, out: Path) -> None:
    """Raise `UnknownOptionError` if `out` holds a run that these settings can't go on."""
    if not (out / SUMMARY).exists():
        return
    if find_state(out / "state") is None:
        raise UnknownOptionError(
            f"`out` must be new or hold the state of its run, got {out}, which holds weights only."
        )
    before = json.loads((out / SUMMARY).read_text())["config"]
    now = json.loads(json.dumps(asdict(config)))  # tuples as lists
    for name in sorted(set(now) - RESUMABLE_FIELDS):
        if before[name] != now[name]:
            raise UnknownOptionError(
                f"`{name}` must stay {before[name]}, as in the run that {out} holds, "
                f"got {now[name]}."
            )


class Reports:
    """What a run tells: the mean of every `report_every` updates."""

    def __init__(self) -> None:
        self.done: list[dict[str, float]] = []
        self.pending: list[dict[str, Tensor | float]] = []

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Note one update."""
        self.pending.append(values)

    def close(self, clock: Progress) -> None:
        """Take the mean of what was noted."""
        count = len(self.pending)
        mean = {k: sum(float(v[k]) for v in self.pending) / count for k in self.pending[0]}
        self.done.append(mean | {"update": clock.update, "minutes": clock.minutes})
        self.pending = []

    def state_dict(self) -> dict[str, list]:
        """For accelerate's checkpoints."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Go on where `state_dict` was taken."""
        self.done, self.pending = list(state["done"]), []


def grouped_parameters(network: MAPNetwork) -> tuple[list[nn.Parameter], list[int]]:
    """The parameters, and for each the index of its layer; a change's two belong to one."""
    parameters: list[nn.Parameter] = []
    layers: list[int] = []
    modules = [*network.target_in.values(), network.target_out]
    groups = [*zip(network.down, network.up, strict=True), *(m.parameters() for m in modules)]
    for index, group in enumerate(groups):
        own = list(group)
        parameters += own
        layers += [index] * len(own)
    return parameters, layers


def random_subset(count: int, wanted: int, seed: int) -> Tensor:
    """Indices of at most `wanted` of `count` faces, always alike for one seed."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:wanted].sort().values


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
    patch = patch_size(prior.unet)
    half = torch.rand(len(faces), generator=torch.Generator().manual_seed(config.seed)) < 0.5
    pixels, landmarks68 = mirror(faces.images, faces.landmarks68, half)
    side = pixels.shape[-1]
    known = [torch.from_numpy(five_points(c.numpy())) for c in landmarks68 * side]
    landmarks = torch.where(
        faces.has_landmarks[:, None, None], torch.stack(known), template[None] * side
    ).to(device)
    labels = Batch(
        torch.empty(0, device=device),
        *(v.to(device) for v in (faces.emotions, landmarks68, faces.has_landmarks, faces.grey)),
    )
    starts, back = [], []
    embeddings: dict[str, list[Tensor]] = {name: [] for name in surrogates}
    for rows in torch.arange(len(faces)).split(128):
        crops = pixels[rows].to(device).float() / 255
        told = prior.conditioner(source_condition(labels, rows.to(device)))
        schedule = protection.start_timestep
        with accelerator.autocast():
            start = invert(
                prior.unet,
                scheduler,
                patchify(crops, patch),
                schedule,
                protection.num_inversion_steps,
                told,
            )
            found = generate(
                prior.unet, scheduler, start, schedule, protection.num_generation_steps, told
            )
        starts.append(start.half())
        back.append(unpatchify(found, patch).half())
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
        network: MAPNetwork,
        scheduler: DDIMScheduler,
        surrogates: Mapping[str, FaceRecogniser],
        classifiers: Mapping[str, ExpressionClassifier],
        composites: Mapping[str, Tensor],
        faces: Prepared,
        config: MAPTrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._network, self._scheduler = model, network, scheduler
        self._surrogates, self._encoders = surrogates, classifiers
        self._composites, self._faces = composites, faces
        self._config, self._accelerator = config, accelerator
        self._patch = patch_size(model.unet)
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
            source_condition(faces.labels, rows), emotion=F.one_hot(emotion, len(EMOTIONS)).float()
        )
        change = self._change(rows, told, targets)
        crop = (crops + change * self._mask).clamp(0, 1)
        region, landmarks = surroundings(crop, faces.landmarks[rows])
        region = random_view(region, generator)
        landmarks = jitter_landmarks(landmarks, generator)
        goal = RefineTarget(
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
        candidate = RefineState(crop, region, embeddings, logits, noise=None)
        values = {
            o.name: o.loss(candidate, goal)
            for o in objectives
            if o.weight > 0 and o.symbol != "L_SM"
        }
        return values, success_rates(candidate, goal)

    def _change(self, rows: Tensor, told: Condition, targets: Mapping[str, Tensor]) -> Tensor:
        protection = self._config.protection
        with self._accelerator.autocast():
            generated = generate(
                self._model.unet,
                self._scheduler,
                self._faces.starts[rows].float(),
                protection.start_timestep,
                protection.num_generation_steps,
                self._model.conditioner(told) + self._network.encode(targets),
            )
        found = unpatchify(generated.float(), self._patch)
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


def source_condition(labels: Batch, rows: Tensor) -> Condition:
    """What the network is told of faces as they are: their shape and colour."""
    return Condition(
        torch.zeros_like(labels.emotions[rows]),
        labels.landmarks68[rows],
        labels.has_landmarks[rows].float(),
        labels.grey[rows].float(),
    )


def surroundings(crops: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Crops `[B,3,s,s]` with a reflected margin, and their landmarks `[B,5,2]` in it."""
    margin = MARGIN * crops.shape[-1] // 128
    return F.pad(crops, [margin] * 4, mode="reflect"), landmarks + margin


def success_rates(candidate: RefineState, goal: RefineTarget) -> dict[str, float]:
    """Share of faces that impersonate and dodge, mean over the surrogates."""
    rates: dict[Side | str, list[Tensor]] = {"impersonates": [], "dodges": []}
    for name, embedding in candidate.embeddings.items():
        limit = goal.thresholds[name]
        to_target = (embedding * goal.target_embeddings[name]).sum(1)
        to_source = (embedding * goal.source_embeddings[name]).sum(1)
        rates["impersonates"].append((to_target >= limit).float().mean())
        rates["dodges"].append((to_source < limit).float().mean())
    return {name: torch.stack(values).mean().detach() for name, values in rates.items()}


def _save(
    out: Path, network: MAPNetwork, config: MAPTrainingConfig, reports: list[dict[str, float]]
) -> None:
    told = {"date": time.strftime("%Y-%m-%d"), "config": asdict(config), "reports": reports}
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out) as folder:
        copy.deepcopy(network).half().save_pretrained(folder)
        (folder / SUMMARY).write_text(json.dumps(told, indent=2))
