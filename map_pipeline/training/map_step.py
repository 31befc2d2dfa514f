"""One step of training the MAP network: a random batch, its losses, and how many are protected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import Condition
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import patch_size, patchify, unpatchify
from map_pipeline.expression.classifiers import ExpressionClassifier
from map_pipeline.expression.motion import FaceMotions, count_motions, face_motions, limit
from map_pipeline.expression.outline import outlines
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.expression.warp import GRID, deform, deform_crop
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.paste import feather_mask, quiet_features
from map_pipeline.identity.objectives import (
    Goals,
    Objective,
    RefineState,
    RefineTarget,
)
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.identity.tone import as_shading
from map_pipeline.identity.views import jitter_landmarks, random_view
from map_pipeline.training.augment import Batch, mirror
from map_pipeline.training.config import MAPTrainingConfig
from map_pipeline.training.faces import FaceSet
from map_pipeline.training.score_model import ScoreModel

# Surroundings of the crop that recognisers look at, made by reflection, px of 128.
MARGIN = 24
OWN_EMOTION = 0.75  # share of faces asked for the emotion they already show
SCORED = 4  # L_SM looks at one face for so many that are protected: it costs a pass of its own
HIDDEN = 0.5  # share of batches without any target
NEAREST, ANY_COMPOSITE = 0.6, 0.2  # shares of targets; the rest are other training faces


@dataclass(frozen=True, eq=False)
class Prepared:
    """Training faces with everything that stays the same, on the training device.

    Attributes:
        labels: emotions, landmarks68 and so on; `images` is empty.
        pixels: `uint8 [N,3,s,s]`.
        starts: `float16 [N,C,h,w]`, inverted with the prior.
        reconstructions: `float16 [N,3,s,s]`, generated back with the prior.
        landmarks: `[N,5,2]` crop px.
        masks: `float16 [N,1,s,s]`, how much of a residual is kept where.
        motions: `float16 [N,K,2,c,c]`, see `FaceMotions`; zeros where landmarks weren't found.
        embeddings: surrogate or teacher name -> `[N,D]`.
    """

    labels: Batch
    pixels: Tensor
    starts: Tensor
    reconstructions: Tensor
    landmarks: Tensor
    masks: Tensor
    motions: Tensor
    embeddings: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.pixels)


def random_subset(count: int, wanted: int, seed: int) -> Tensor:
    """Indices of at most `wanted` of `count` faces, always alike for one seed."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:wanted].sort().values


@torch.no_grad()
def prepare(
    prior: ScoreModel,
    scheduler: DDIMScheduler,
    faces: FaceSet,
    recognisers: Mapping[str, FaceRecogniser],
    shapes: ExpressionSpace,
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
    known = torch.from_numpy(five_points((landmarks68 * side).numpy()))
    landmarks = torch.where(faces.has_landmarks[:, None, None], known, template * side).to(device)
    labels = Batch(
        torch.empty(0, device=device),
        *(v.to(device) for v in (faces.emotions, landmarks68, faces.has_landmarks, faces.grey)),
    )
    starts, back = [], []
    embeddings: dict[str, list[Tensor]] = {name: [] for name in recognisers}
    for rows in torch.arange(len(faces)).split(128):
        crops = pixels[rows].to(device).float() / 255
        condition = prior.conditioner(source_condition(labels, rows.to(device)))
        schedule = protection.start_timestep
        with accelerator.autocast():
            start = invert(
                prior.unet,
                scheduler,
                patchify(crops, patch),
                schedule,
                protection.num_inversion_steps,
                condition,
            )
            found = generate(
                prior.unet, scheduler, start, schedule, protection.num_generation_steps, condition
            )
        starts.append(start.half())
        back.append(unpatchify(found, patch).half())
        for name, net in recognisers.items():
            embeddings[name].append(net(*surroundings(crops, landmarks[rows])).float())
    return Prepared(
        labels,
        pixels.to(device),
        torch.cat(starts),
        torch.cat(back),
        landmarks,
        torch.cat([quiet_features(part, side).half() for part in landmarks.split(256)])
        * feather_mask(side).to(device).half()
        * outlines(landmarks68 * side, faces.has_landmarks, side).to(device).half(),
        free_motions(shapes, faces.has_landmarks, landmarks68.to(device) * side, side),
        {name: torch.cat(parts) for name, parts in embeddings.items()},
    )


def free_motions(shapes: ExpressionSpace, known: Tensor, landmarks68: Tensor, side: int) -> Tensor:
    """`float16 [N,K,2,c,c]` for landmarks `[N,68,2]` px; zeros where they aren't `known` `[N]`."""
    coarse = 2 * side // GRID
    shape = (len(known), count_motions(shapes), 2, coarse, coarse)
    found = torch.zeros(shape, dtype=torch.float16, device=landmarks68.device)
    for rows in known.nonzero()[:, 0].split(64):
        rows = rows.to(found.device)
        found[rows] = face_motions(shapes, landmarks68[rows], side, 1.0).flows.half()
    return found


@dataclass(frozen=True)
class Look:
    """What a step saw.

    Attributes:
        values: objective name -> value with gradients.
        rates: shares of faces, for the report; `reached` is that of the goals of dodging.
        photos: `[B,3,s,s]` in [0,1], the faces as they were.
        edited: `[B,3,s,s]` in [0,1], as they are protected.
        residual: `[B,3,s,s]` in [-1,1], a part of that which all gradients pass through.
    """

    values: dict[str, Tensor]
    rates: dict[str, Tensor]
    photos: Tensor
    edited: Tensor
    residual: Tensor


class Step:
    """One look at a random batch: losses of the protected faces and how many are protected."""

    def __init__(
        self,
        model: ScoreModel,
        network: MAPNetwork,
        scheduler: DDIMScheduler,
        recognisers: Mapping[str, FaceRecogniser],
        classifiers: Mapping[str, ExpressionClassifier],
        composites: Mapping[str, Tensor],
        faces: Prepared,
        config: MAPTrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._network, self._scheduler = model, network, scheduler
        self._recognisers, self._encoders = recognisers, classifiers
        self._composites, self._faces = composites, faces
        self._config, self._accelerator = config, accelerator
        self._patch = patch_size(model.unet)

    def __call__(
        self,
        objectives: Sequence[Objective],
        generator: torch.Generator,
        of_noise: torch.Generator,
    ) -> Look:
        """The losses of a batch, all but L_SM.

        Args:
            generator: of everything random but noise, on the CPU.
            of_noise: of noise, on the training device.
        """
        faces, device = self._faces, self._accelerator.device
        rows = torch.randint(len(faces), (self._config.batch_size,), generator=generator).to(device)
        source = {name: value[rows] for name, value in faces.embeddings.items()}
        hidden = torch.rand((), generator=generator) < HIDDEN
        targets = {} if hidden else self._draw_targets(source, rows, generator)
        emotion = self._draw_emotions(rows, generator)
        crops = faces.pixels[rows].float() / 255
        condition = replace(
            source_condition(faces.labels, rows), emotion=F.one_hot(emotion, len(EMOTIONS)).float()
        )
        margins = torch.rand(len(rows), generator=generator) * self._config.highest_margin
        margins = margins.to(device)
        encoded = self._network.encode(source, targets, margins)
        condition = self._model.conditioner(condition) + encoded
        change = as_shading(self._change(rows, condition), crops) * faces.masks[rows].float()
        motion = self._network.motion(source, targets, margins).float()
        motion = limit(motion, self._config.protection.max_motion)
        moved, region, landmarks = self._move(rows, crops, motion)
        crop = (moved + change).clamp(0, 1)
        margin = (region.shape[-1] - crops.shape[-1]) // 2
        region = (region + F.pad(change, [margin] * 4)).clamp(0, 1)
        region = random_view(region, generator, of_noise)
        landmarks = jitter_landmarks(landmarks, generator)
        goal = RefineTarget(
            source_region=region,
            source_crop=crops,
            source_embeddings=source,
            target_embeddings=targets,
            goals={name: Goals.of(net, margins) for name, net in self._recognisers.items()},
            emotion=emotion,
        )
        with self._accelerator.autocast():
            embeddings = {k: net(region, landmarks).float() for k, net in self._recognisers.items()}
            logits = {k: net(region, landmarks).float() for k, net in self._encoders.items()}
        candidate = RefineState(moved, crop, motion, embeddings, logits, noise=None)
        values = {
            o.name: o.loss(candidate, goal)
            for o in objectives
            if o.weight > 0 and o.symbol != "L_SM" and (targets or o.name != "impersonation")
        }
        return Look(values, success_rates(candidate, goal), crops, crop, change)

    def _move(self, rows: Tensor, crops: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops with their features moved, their surroundings, and landmarks in these."""
        region, landmarks = surroundings(crops, self._faces.landmarks[rows])
        if not motion.numel():
            return crops, region, landmarks
        most = self._config.protection.max_shift
        motions = FaceMotions(self._faces.motions[rows].float(), crops.shape[-1], most)
        flow = motions.flow(motion)
        margin = (region.shape[-1] - crops.shape[-1]) // 2
        to_crop = torch.tensor([[1.0, 0.0, -margin], [0.0, 1.0, -margin]])
        return deform_crop(crops, flow), deform(region, to_crop, flow), landmarks

    def _change(self, rows: Tensor, condition: Tensor) -> Tensor:
        protection = self._config.protection
        with self._accelerator.autocast():
            generated = generate(
                self._model.unet,
                self._scheduler,
                self._faces.starts[rows].float(),
                protection.start_timestep,
                protection.num_generation_steps,
                condition,
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
    """The condition of faces as they are: their shape and colour."""
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


def success_rates(candidate: RefineState, goal: RefineTarget) -> dict[str, Tensor]:
    """Share of faces that dodge, that do so with the margin, and that impersonate with a target.

    Mean over the recognisers.
    """
    rates: dict[str, list[Tensor]] = {"dodges": [], "reached": []}
    if goal.target_embeddings:
        rates["impersonates"] = []
    for name, embedding in candidate.embeddings.items():
        threshold = 1 - goal.goals[name].unit
        to_source = (embedding * goal.source_embeddings[name]).sum(1)
        rates["dodges"].append((to_source < threshold).float().mean())
        rates["reached"].append((to_source <= goal.goals[name].source).float().mean())
        if goal.target_embeddings:
            to_target = (embedding * goal.target_embeddings[name]).sum(1)
            rates["impersonates"].append((to_target >= threshold).float().mean())
    return {name: torch.stack(values).mean().detach() for name, values in rates.items()}
