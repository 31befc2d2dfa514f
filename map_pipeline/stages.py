"""The stages of one face: its expression, its identity, and the paste into the photo.

Letters in shape comments: H/W photo, s side of the aligned crop, h/w region around the face.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.config import EMOTIONS, MAPConfig
from map_pipeline.copying import ShownExpression
from map_pipeline.diffusion.conditioner import FaceConditioner, describe
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.expression.classifiers import ClassifierEnsemble
from map_pipeline.expression.composed import classifier_emotion, ingredients
from map_pipeline.expression.editor import (
    FINE,
    EditableFace,
    ExpressionEdit,
    ExpressionModel,
    apply_edit,
    edit_expression,
    fine_alignment,
    move_edit,
    no_edit,
)
from map_pipeline.expression.motion import face_motions
from map_pipeline.expression.outline import within_outline
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import (
    Alignment,
    affine_scale,
    apply_affine,
    compose_affine,
    extract_region,
    invert_affine,
    warp_affine,
)
from map_pipeline.faces.face import Face
from map_pipeline.faces.landmarks import LandmarkFinder, five_points
from map_pipeline.faces.mesh import FaceMesh
from map_pipeline.faces.paste import feather_mask, paste_residual, quiet_features
from map_pipeline.faces.quality import quality_issues
from map_pipeline.identity.objectives import (
    Goals,
    Objective,
    RefineTarget,
    active,
    needs,
    objectives_for,
)
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.identity.refine import CropGeometry, Networks, StepCallback, refine
from map_pipeline.identity.targets import Target
from map_pipeline.images import to_array, to_pil, uint8_tensor
from map_pipeline.measure import (
    FacesAgain,
    compare_expressions,
    compare_identities,
    image_quality,
    view_face,
)
from map_pipeline.report import FaceReport

# Distance of the eyes in the picture that an expression is edited on, px: that of a crop of 256 px.
EDIT_FACE_PX = 90.0

FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class Plan:
    """What one call does to every face.

    Attributes:
        emotion: what people shall see, one of `EXPRESSIONS`.
        surrogates: names of the recognisers to tune on.
        objectives: losses and weights.
        config: all other settings.
        map_network: what the fine-tuning starts from instead of the prior.
        action_units: single movements besides the emotion, see `expression.action_units`.
        shown: another photo's expression, copied in place of the emotion.
    """

    emotion: str
    surrogates: Sequence[str]
    objectives: Sequence[Objective]
    config: MAPConfig
    map_network: MAPNetwork | None = None
    action_units: Mapping[str, float] = field(default_factory=dict)
    shown: ShownExpression | None = None

    @property
    def shown_emotion(self) -> str:
        """What people shall see, also where it is copied, one of `EXPRESSIONS`."""
        return self.emotion if self.shown is None else self.shown.emotion or self.emotion

    def networks_used(self, classifiers: Iterable[str]) -> set[str]:
        """Names of the networks that steer the result, now or in training."""
        used = set(self.surrogates if active(self.objectives, "identity") else ())
        if needs(self.objectives, "logits") or self.map_network is not None:
            used |= set(classifiers)
        return used


def make_plan(
    emotion: str,
    surrogates: Sequence[str],
    objectives: Sequence[Objective] | None,
    config: MAPConfig,
    map_network: MAPNetwork | None,
    hide: bool = False,
) -> Plan:
    """Fill in the objectives, and decide whether the trained network may be the start.

    A recogniser that is left out of the surrogates must have been left out of its training.

    Args:
        objectives: those of `config` if None.
        hide: there is no target.
    """
    if objectives is None:
        objectives = objectives_for(config, hide)
    elif hide:
        objectives = [one for one in objectives if one.name != "impersonation"]
    usable = (
        map_network is not None
        and config.use_map_network
        and set(map_network.surrogates) <= set(surrogates)
        and bool(active(objectives, "identity"))
    )
    if not usable:
        return Plan(emotion, surrogates, objectives, config)
    saved = config.steps_saved if hide else config.steps_saved // 2
    fewer = replace(config, refine_steps=config.refine_steps - saved, steps_saved=0)
    return Plan(emotion, surrogates, objectives, fewer, map_network)


@dataclass(frozen=True)
class FaceTask:
    """One face to protect.

    Attributes:
        face: a face found in the photo.
        source: recogniser name -> embedding `[1,D]` of this face, unprotected.
        target: what recognisers shall see; None if it is only to be hidden.
        plan: how it is protected.
    """

    face: Face
    source: Mapping[str, Tensor]
    target: Target | None
    plan: Plan


@dataclass(frozen=True, eq=False)
class FoundChange:
    """What protects a face of a photo, and how it's laid on it.

    Attributes:
        residual: `[1,3,s,s]` in [-1,1], not yet masked.
        mask: `[1,1,s,s]` in [0,1], how much of it is kept where.
        flow: `[1,2,2s,2s]` crop px, how the features move; None if they don't.
    """

    residual: Tensor
    mask: Tensor
    flow: Tensor | None


@dataclass(frozen=True)
class FaceStages:
    """What the stages need of a pipeline.

    Attributes:
        unet, scheduler, conditioner, face_mesh, expression_space, mouth_painter, recognisers,
            expression_classifiers: its components; see `MAPPipeline`.
        template: `[5,2]`, where eyes, nose and mouth corners lie in the crop, crop px.
        landmark_finder: finds the 68 landmarks.
        device: where the networks run.
    """

    unet: UNet2DModel
    scheduler: DDIMScheduler
    conditioner: FaceConditioner | None
    face_mesh: FaceMesh | None
    expression_space: ExpressionSpace | None
    mouth_painter: UNet2DModel | None
    recognisers: RecogniserEnsemble
    expression_classifiers: ClassifierEnsemble
    template: Tensor
    landmark_finder: LandmarkFinder
    device: torch.device

    def align(self, face: Face) -> Alignment:
        """Where the score network's crop lies in the photo of a face."""
        size = crop_size(self.unet)
        return Alignment.from_landmarks(torch.as_tensor(face.landmarks), self.template, size)

    def express(
        self, photo: np.ndarray, alignment: Alignment, task: FaceTask
    ) -> ExpressionEdit | None:
        """The asked expression for a face of a photo `uint8 [H,W,3]`; None if none is possible."""
        plan, strength = task.plan, task.plan.config.expression_strength
        if self.expression_space is None or not (strength or plan.action_units):
            return None
        face = self.editable(photo, alignment)
        if face is None:
            return None
        model = None
        if plan.shown is not None:
            model = plan.shown.model_for(task.source, self.recognisers)
        return self.edit(face, plan.emotion, strength, plan.action_units, model)

    def edit(
        self,
        face: EditableFace,
        emotion: str,
        strength: float,
        action_units: Mapping[str, float],
        model: ExpressionModel | None = None,
    ) -> ExpressionEdit:
        """The asked expression for a face; there must be an `expression_space`."""
        start, movements = ingredients(emotion, strength, action_units, model is not None)
        return edit_expression(
            cast(ExpressionSpace, self.expression_space),
            self.mouth_painter,
            face,
            start,
            strength,
            movements,
            model,
        )

    def editable(self, photo: np.ndarray, alignment: Alignment) -> EditableFace | None:
        """What an edit needs of a face; None without a mesh network, or of a half hidden face."""
        _, landmarks68 = self.aligned_crop(photo, alignment)
        if self.face_mesh is None or landmarks68 is None:
            return None
        points = apply_affine(alignment.crop_to_image, self.template)
        region = extract_region(uint8_tensor(photo), points, max_face_px=EDIT_FACE_PX)
        image = region.image.to(self.device)
        fine = compose_affine(fine_alignment(alignment).crop_to_image, region.photo_to_region)
        size = (FINE * alignment.size, FINE * alignment.size)
        crop = warp_affine(image, fine[None], size, "reflection")
        five = torch.from_numpy(five_points(landmarks68.numpy()))
        in_region = compose_affine(alignment.crop_to_image, region.photo_to_region)
        there = apply_affine(in_region, five)[None].to(image)
        mesh = self.face_mesh.find_in_depth(image, there)[0].cpu()
        in_crop = apply_affine(invert_affine(in_region), mesh[:, :2])
        shape, depth = torch.cat([landmarks68.float(), in_crop]), mesh[:, 2]
        return EditableFace(alignment, crop, shape, depth / affine_scale(in_region))

    def change_identity(
        self,
        photo: np.ndarray,
        alignment: Alignment,
        edit: ExpressionEdit | None,
        task: FaceTask,
        generator: torch.Generator,
        on_step: StepCallback | None = None,
    ) -> np.ndarray:
        """The photo `uint8 [H,W,3]` with the face protected.

        Args:
            photo: `uint8 [H,W,3]`, the face as it was; edit: its expression, see `express`.
        """
        fade = feather_mask(alignment.size)
        shown = photo if edit is None else apply_edit(photo, alignment, edit, fade)
        found = self.find_change(shown, alignment, task, generator, on_step)
        if found.flow is not None:
            # Expression and motion are one deformation, so that the photo is resampled once.
            edit = move_edit(no_edit(alignment.size) if edit is None else edit, found.flow)
            shown = apply_edit(photo, alignment, edit, fade)
        own = shown is not photo
        return paste_residual(shown, found.residual, alignment, found.mask, in_place=own)

    def find_change(
        self,
        shown: np.ndarray,
        alignment: Alignment,
        task: FaceTask,
        generator: torch.Generator,
        on_step: StepCallback | None = None,
    ) -> FoundChange:
        """What protects a face of a photo `uint8 [H,W,3]` that has its expression already."""
        crop, landmarks68 = self.aligned_crop(shown, alignment)
        landmarks = torch.as_tensor(task.face.landmarks)
        if landmarks68 is not None:  # corners of the mouth have moved
            points = torch.from_numpy(five_points(landmarks68.numpy()))
            landmarks = apply_affine(alignment.crop_to_image, points)
        region = extract_region(uint8_tensor(shown), landmarks)
        region_to_crop = compose_affine(region.region_to_photo, alignment.image_to_crop)
        in_crop = apply_affine(alignment.image_to_crop, landmarks.float())
        mask = feather_mask(alignment.size) * quiet_features(in_crop[None], alignment.size)
        if landmarks68 is not None:
            mask = mask * within_outline(landmarks68, alignment.size)
        motions = None
        if landmarks68 is not None and self.expression_space is not None:
            most = task.plan.config.max_shift
            motions = face_motions(self.expression_space, landmarks68[None], alignment.size, most)
        geometry = CropGeometry(
            landmarks=region.landmarks[None].to(self.device),
            region_to_crop=region_to_crop[None].to(self.device),
            mask=mask.to(self.device),
            motions=motions,
        )
        source_region = region.image.to(self.device)  # [1,3,h,w]
        target = self._refine_target(source_region, crop, landmarks68, task)
        classifiers: Any = (
            self.expression_classifiers if needs(task.plan.objectives, "logits") else {}
        )
        tuned = {name: self.recognisers[name] for name in task.plan.surrogates}
        networks = Networks(self.unet, self.scheduler, tuned, classifiers, task.plan.map_network)
        change = refine(
            networks, target, geometry, task.plan.objectives, task.plan.config, generator, on_step
        )
        moves = motions is not None and change.motion.any()
        flow = motions.flow(change.motion.cpu()) if motions is not None and moves else None
        return FoundChange(change.residual.cpu(), mask, flow)

    def _refine_target(
        self, region: Tensor, crop: Tensor, landmarks68: Tensor | None, task: FaceTask
    ) -> RefineTarget:
        surrogates, config = task.plan.surrogates, task.plan.config
        source_cond, target_cond = self._conditions(crop, landmarks68, task)
        targets = {} if task.target is None else task.target.embeddings
        return RefineTarget(
            source_region=region,
            source_crop=crop,
            source_embeddings={name: task.source[name] for name in surrogates},
            target_embeddings={name: targets[name] for name in surrogates if targets},
            goals={name: Goals.of(self.recognisers[name], config.margin) for name in surrogates},
            emotion=classifier_emotion(task.plan.shown_emotion),
            source_cond=source_cond,
            target_cond=target_cond,
        )

    def report(
        self,
        before: np.ndarray,
        after: np.ndarray,
        task: FaceTask,
        seconds: float,
        again: FacesAgain,
        used: Collection[str],
    ) -> FaceReport:
        """Measure one face on the finished photo, with landmarks found anew as a recogniser would.

        Args:
            before: `uint8 [H,W,3]` original; after: the protected photo.
            seconds: time spent on this face.
            again: the faces of `after`.
            used: names of the networks that the optimisation differentiated through.
        """
        face, target = task.face, task.target
        views = (
            view_face(before, face.landmarks, self.device),
            view_face(after, again.landmarks(face), self.device),
        )
        same_place = view_face(after, face.landmarks, self.device).image
        similarity, noise_ratio = image_quality(views[0].image, same_place)
        return FaceReport(
            box=cast(FourNumbers, tuple(float(v) for v in face.box)),
            detector=again.detector.name,
            emotion=task.plan.shown_emotion,
            action_units={k: float(v) for k, v in task.plan.action_units.items() if v},
            expression_of=None if task.plan.shown is None else task.plan.shown.name,
            target=None if target is None else target.name,
            ssim=similarity,
            psnr=noise_ratio,
            seconds=seconds,
            problems=list(quality_issues(face, before)),
            recognisers=[
                compare_identities(
                    name,
                    net,
                    name in used,
                    task.source[name],
                    views[1],
                    None if target is None else target.embeddings[name],
                )
                for name, net in self.recognisers.items()
            ],
            expressions=[
                compare_expressions(name, net, name in used, *views)
                for name, net in self.expression_classifiers.items()
            ],
        )

    def aligned_crop(self, photo: np.ndarray, alignment: Alignment) -> tuple[Tensor, Tensor | None]:
        """The score network's crop `[1,3,s,s]` of a photo, and its 68 landmarks `[68,2]`, crop px.

        The landmarks are None where they can't be found.
        """
        size = alignment.size
        landmarks = apply_affine(alignment.crop_to_image, self.template)
        region = extract_region(uint8_tensor(photo), landmarks)
        crop_to_region = compose_affine(alignment.crop_to_image, region.photo_to_region)
        crop = warp_affine(
            region.image.to(self.device),
            crop_to_region[None].to(self.device),
            (size, size),
            "reflection",
        )
        found = self.landmark_finder.find_aligned(to_array(to_pil(crop)), self.template.numpy())
        return crop, None if found is None else torch.from_numpy(found)

    def _conditions(
        self, crop: Tensor, landmarks68: Tensor | None, task: FaceTask
    ) -> tuple[Tensor | None, Tensor | None]:
        """What conditions the score network, `[1,width]`: the face as it is, and as it shall be."""
        source_cond = target_cond = None
        if self.conditioner is not None:
            present = describe(crop, landmarks68)
            emotion = torch.tensor([classifier_emotion(task.plan.shown_emotion)])
            asked = F.one_hot(emotion, len(EMOTIONS)).to(crop)
            source_cond = self.conditioner(present).float()
            target_cond = self.conditioner(replace(present, emotion=asked)).float()
        if task.plan.map_network is not None:
            targets = {} if task.target is None else task.target.embeddings
            margin = task.plan.config.margin
            identity = task.plan.map_network.encode(task.source, targets, margin).float()
            target_cond = identity if target_cond is None else target_cond + identity
        return source_cond, target_cond
