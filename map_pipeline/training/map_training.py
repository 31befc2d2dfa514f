"""Train the MAP network: one for every face, emotion and target.

The method of `map_pipeline.identity.refine`, amortised over a labelled set of faces:

    invert x to x_t0 with the prior; generate x^ from x_t0 with the network, conditioned on the
    emotion, the face and the target, and let it move the features; L_A, L_E and the prior terms on
    the result; gradients combined as there; L_SM on faces as they are keeps the network one of
    faces. Some batches have no target: there the network learns to hide.
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Adam

from map_pipeline.diffusion.conditioner import FaceConditioner
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import compile_network, crop_size, patch_size
from map_pipeline.errors import InvalidImageError
from map_pipeline.expression.classifiers import ExpressionClassifier
from map_pipeline.expression.motion import count_motions
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.identity.gradients import GradientCombiner, side_gradients
from map_pipeline.identity.objectives import Objective, active, objectives_for, with_weights
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.training.config import MAPTrainingConfig, PriorConfig
from map_pipeline.training.critic import Realism
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.map_step import SCORED, Look, Step, prepare, random_subset
from map_pipeline.training.prior import noise_loss
from map_pipeline.training.run_state import (
    Progress,
    check_resumable,
    check_single_process,
    replacing,
    resume,
    save_state,
)
from map_pipeline.training.sampling import FaceSampler, mixed_seed
from map_pipeline.training.score_model import ScoreModel

SUMMARY = "training_map.json"
# Losses of the visible change, how fast their price follows the goals, and how far it goes.
CHARGED = ("smoothness", "luma", "visibility", "motion")
PRICE_PACE, PRICES = 0.01, (0.5, 10.0)
# Settings with which a run may go on.
RESUMABLE_FIELDS = {"minutes", "updates", "report_every", "compile", "mixed_precision"}


def train_map(
    config: MAPTrainingConfig,
    faces: FaceSet,
    out: Path,
    prior: tuple[UNet2DModel, FaceConditioner, DDIMScheduler],
    recognisers: Mapping[str, FaceRecogniser],
    classifiers: Mapping[str, ExpressionClassifier],
    composites: Mapping[str, Tensor],
    template: Tensor,
    shapes: ExpressionSpace,
    say: Callable[[str], None] = print,
    start: MAPNetwork | None = None,
) -> list[dict[str, float]]:
    """Train until the time or the updates are used up; the same call goes on after a stop.

    (The gradients' EMA, a few updates long, starts anew then.)

    Writes to `out`: the `MAPNetwork` (averaged weights, in fp16 as all of a checkpoint),
    `training_map.json` (settings and reports) and `state/` to resume from. Every file is whole
    whenever the process is killed.

    Args:
        faces: training faces.
        prior: U-Net, conditioner and noise schedule to start from; they stay as they are.
        recognisers: by name, the surrogates that `config` names and any further teachers;
            classifiers: expression networks by name.
        composites: recogniser name -> `[M,D]` embeddings of the built-in targets.
        template: `[5,2]`, where the faces have eyes, nose and mouth corners, in units of the side.
        shapes: what the features may do.
        start: a network to go on from; None starts from the prior.

    Returns:
        one entry a report: mean of each loss, share of conflicting layers, success rates.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    check_single_process(accelerator)
    torch.manual_seed(config.seed)
    objectives = with_weights(objectives_for(config.protection), **config.weights)
    check_resumable(out / SUMMARY, config, asdict(config).keys() - RESUMABLE_FIELDS)
    if (side := faces.images.shape[-1]) != crop_size(prior[0]):
        raise InvalidImageError(
            f"`faces` must have {crop_size(prior[0])} px a side, as the prior has, got {side}."
        )
    # 1. What stays the same: the faces, inverted and embedded.
    device, scheduler = accelerator.device, prior[2]
    recognisers, classifiers = _moved(recognisers, device), _moved(classifiers, device)
    composites = {name: value.to(device).float() for name, value in composites.items()}
    model = copy.deepcopy(ScoreModel(*prior[:2])).float().to(device).requires_grad_(False)
    if config.compile:
        compile_network(model.unet)
    faces = faces.select(random_subset(len(faces), config.max_faces, config.seed))
    prepared = prepare(model, scheduler, faces, recognisers, shapes, template, config, accelerator)
    say(f"{len(prepared)} faces prepared")

    # 2. What changes.
    network = new_network(config, model.unet, recognisers, count_motions(shapes)).to(device)
    if start is not None:
        network.start_from(start)
    network.attach(model.unet)
    parameters, layers = grouped_parameters(network)
    optimizer = accelerator.prepare(Adam(parameters, config.learning_rate, betas=(0.9, 0.99)))
    average = EMAModel(parameters, decay=config.average_decay, foreach=True)
    clock, reports, price = Progress(config), Reports(), Price(config.reached, device)
    realism = Realism(config.realism, device)
    accelerator.register_for_checkpointing(network, average, clock, reports, price, realism)
    if resume(accelerator, out / "state", average):
        say(f"resumed at update {clock.update}")
    if config.realism:
        objectives.append(realism.objective)

    # 3. Train.
    combine = GradientCombiner(config.protection, layers)
    nets = (model, network, scheduler, recognisers, classifiers)
    step = Step(*nets, composites, prepared, config, accelerator)
    noise = NoiseLoss(model, scheduler, faces, config, accelerator)

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
        look = step(objectives, *generators_of(config.seed, clock.update, device))
        values = price.charge(look.values)
        if config.realism:
            values["realism"] = realism.weigh(identity_of(objectives, look), look)
        if any(o.symbol == "L_SM" and o.weight > 0 for o in objectives):
            values["score_matching"] = noise(clock.update)
        present = [o for o in objectives if o.name in values]
        total, conflict = combine(side_gradients(present, values, parameters))
        _descend(parameters, total, optimizer)
        average.step(parameters)
        told_apart = realism.learn(look.photos, look.edited) if config.realism else 0.5
        reports.add(
            {name: value.detach() for name, value in values.items()}
            | look.rates
            | {"price": price.value, "told_apart": told_apart, "conflict": conflict}
        )
        price.follow(look.rates["reached"])
        clock.advance()
        if clock.update % config.report_every == 0:
            report()
    if reports.pending:
        report()
    return reports.done


def _moved(networks: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: net.to(device) for name, net in networks.items()}


def _descend(
    parameters: list[nn.Parameter], direction: list[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    for parameter, gradient in zip(parameters, direction, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def new_network(
    config: MAPTrainingConfig,
    unet: UNet2DModel,
    recognisers: Mapping[str, FaceRecogniser],
    motions: int,
) -> MAPNetwork:
    """A network that changes nothing yet."""
    dims = {name: recognisers[name].config.embedding_dim for name in config.surrogates}
    families = families_of(recognisers)
    return MAPNetwork.for_unet(unet, dims, config.rank, config.hidden, families, motions)


def identity_of(objectives: Sequence[Objective], look: Look) -> Tensor:
    """The weighted losses of identity, a scalar."""
    present = [o for o in active(objectives, "identity") if o.name in look.values]
    return 0 * look.residual.sum() + sum(o.weight * look.values[o.name] for o in present)


class Price:
    """What the visible change costs: more while more goals are reached than asked, else less.

    So faces differ from photos by as little as the goals allow, whatever the weights are.
    """

    def __init__(self, reached: float, device: torch.device) -> None:
        self._reached = reached
        self.value = torch.ones((), device=device)

    def charge(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses at this price."""
        return {k: v * self.value if k in CHARGED else v for k, v in values.items()}

    def follow(self, reached: Tensor) -> None:
        """Change the price after an update in which this share of goals was reached."""
        factor = ((reached - self._reached) * PRICE_PACE).exp()
        self.value = (self.value * factor).clamp(*PRICES)

    def state_dict(self) -> dict[str, Tensor]:
        """For accelerate's checkpoints."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self.value = state["value"].to(self.value)


class NoiseLoss:
    """L_SM on faces as they are, fewer of them than are protected."""

    def __init__(
        self,
        model: ScoreModel,
        scheduler: DDIMScheduler,
        faces: FaceSet,
        config: MAPTrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._accelerator = model, accelerator
        few = max(config.batch_size // SCORED, 1)
        patch = patch_size(model.unet)
        self._sampling = PriorConfig(patch=patch, batch_size=few, seed=config.seed)
        self._draw = FaceSampler(faces, self._sampling, accelerator.device, config.seed)
        self._alphas = scheduler.alphas_cumprod.to(accelerator.device)

    def __call__(self, update: int) -> Tensor:
        """The loss of an update's faces, a scalar."""
        self._draw.seek(update)
        batch = self._draw()
        with self._accelerator.autocast():
            return noise_loss(
                self._model, self._alphas, batch, self._sampling, self._draw.generator
            )


def families_of(recognisers: Mapping[str, FaceRecogniser]) -> list[str]:
    """Families of recognisers, each once: none of these can judge what they teach."""
    return sorted({net.config.family for net in recognisers.values()})


def generators_of(
    seed: int, update: int, device: torch.device
) -> tuple[torch.Generator, torch.Generator]:
    """The randomness of one update, the same in every run with this seed: CPU, and `device`.

    The global generators, which the critic uses, start anew, too.
    """
    at_home, there, everywhere = (mixed_seed(seed, update, k) for k in (1, 2, 3))
    torch.manual_seed(everywhere)
    return torch.Generator().manual_seed(at_home), torch.Generator(device).manual_seed(there)


class Reports:
    """What a run reports: the mean of every `report_every` updates."""

    def __init__(self) -> None:
        self.done: list[dict[str, float]] = []
        self.pending: list[dict[str, Tensor | float]] = []

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Note one update."""
        self.pending.append(values)

    def close(self, clock: Progress) -> None:
        """Take the mean of what was noted."""
        noted: dict[str, list[float]] = {}
        for values in self.pending:  # not every batch has a target to impersonate
            for name, value in values.items():
                noted.setdefault(name, []).append(float(value))
        mean = {name: sum(given) / len(given) for name, given in noted.items()}
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
    modules = [
        *network.source_in.values(),
        *network.target_in.values(),
        network.margin_in,
        network.condition_out,
        *([network.motion_out] if network.motion_out else []),
    ]
    groups = [*zip(network.down, network.up, strict=True), *(m.parameters() for m in modules)]
    for index, group in enumerate(groups):
        own = list(group)
        parameters += own
        layers += [index] * len(own)
    return parameters, layers


def _save(
    out: Path, network: MAPNetwork, config: MAPTrainingConfig, reports: list[dict[str, float]]
) -> None:
    condition = {"date": time.strftime("%Y-%m-%d"), "config": asdict(config), "reports": reports}
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out) as folder:
        copy.deepcopy(network).half().save_pretrained(folder)
        (folder / SUMMARY).write_text(json.dumps(condition, indent=2))
