"""`MAPPipeline`: a photo in, a protected photo and a report out.

Letters in shape comments: H/W photo, s side of the aligned crop, D length of an embedding.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import replace_example_docstring
from torch import Tensor
from torch.profiler import record_function

from map_pipeline.callbacks import Callback, check_tensor_inputs, inputs_of, step_callback
from map_pipeline.config import (
    DEFAULT_MODE,
    DEFAULT_TARGET,
    MAPConfig,
    check_emotion,
    resolve_config,
)
from map_pipeline.copying import ShownExpression
from map_pipeline.diffusion.conditioner import FaceConditioner
from map_pipeline.diffusion.ddim import check_scheduler
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.editing import EditingMixin
from map_pipeline.errors import GPUMemoryError, UnknownOptionError, naming_photo
from map_pipeline.expression.action_units import check_action_units
from map_pipeline.expression.classifiers import ClassifierEnsemble
from map_pipeline.expression.space import ExpressionSpace, on_cpu
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.faces.detect import FaceChoice, FaceDetector, check_choice, load_detector
from map_pipeline.faces.doubts import DoubtFinder
from map_pipeline.faces.face import Face
from map_pipeline.faces.landmarks import LandmarkFinder
from map_pipeline.faces.mesh import FaceMesh
from map_pipeline.identity.objectives import Objective
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.identity.refine import StepCallback
from map_pipeline.identity.targets import TargetBank
from map_pipeline.identity.views import photo_generators
from map_pipeline.images import ImageInput
from map_pipeline.loading import CheckpointMixin
from map_pipeline.measure import FacesAgain, View, view_face
from map_pipeline.output import MAPPipelineOutput, convert_photos
from map_pipeline.photos import PhotoTask, name_photos, read_photo
from map_pipeline.report import FaceReport, with_notes
from map_pipeline.stages import FaceStages, FaceTask, Plan, make_plan
from map_pipeline.targeting import TargetChoice, TargetMixin
from map_pipeline.video.protect import VideoMixin

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from map_pipeline import MAPPipeline

        >>> pipe = MAPPipeline.from_pretrained()
        >>> output = pipe("photo.jpg", emotion="happy")
        >>> output.images[0].save("protected.png")
        >>> print(output.reports[0][0].to_table())
        ```
"""


class MAPPipeline(CheckpointMixin, EditingMixin, TargetMixin, VideoMixin, DiffusionPipeline):
    """Protects faces in photos by fine-tuning a score network towards another identity.

    Args:
        unet: score network of aligned face crops, the prior; `in_channels` = 3 p^2 for p x p pixel
            patches.
        scheduler: its noise schedule, of which only the alphas are used; see `check_scheduler`.
        conditioner: encodes emotion and shape of a face for the score network; without it the
            network knows nothing but the picture.
        map_network: what training on many faces changes in the prior: what it makes of a face in
            one pass is the start of the steps. It is used where all recognisers that it was trained
            on are among the surrogates; elsewhere the steps start from the prior.
        face_mesh: finds the dense points of a face.
        expression_space: what faces do when they show an expression; without it or the mesh the
            expression is not edited before the protection.
        mouth_painter: paints teeth between lips that part, see `expression.mouth`.
        targets: built-in target identities.
        recognisers: all report; `surrogates` names those that the protection is tuned on.
        expression_classifiers: all of them steer the expression and report.
        alignment_template: `[5][2]`, where eyes, nose and mouth corners lie in the score network's
            crop, in units of its side; default ArcFace's.
        surrogates: names of the recognisers tuned on by default; all if None.
        target_ranker: name of the recogniser that ranks targets for "auto"; the first surrogate if
            it is none of them.
        detector: "auto" (insightface if its model pack is on disk, else the bundled one),
            "bundled", "insightface" or "insightface-download"; see `faces.detect.load_detector`.
        weights_date: when the prior was trained, YYYY-MM-DD.
    """

    # The score network can rest on the CPU between calls. The others are differentiated through, or
    # used without their `forward`, so they stay on the device.
    model_cpu_offload_seq = "conditioner->unet"
    _exclude_from_cpu_offload = [  # noqa: RUF012 (diffusers reads these class attributes as lists)
        "map_network",
        "face_mesh",
        "expression_space",
        "mouth_painter",
        "targets",
        "recognisers",
        "expression_classifiers",
    ]
    _optional_components = ["conditioner", *_exclude_from_cpu_offload]  # noqa: RUF012
    _callback_tensor_inputs = ["latents", "residual", "losses", "conflict"]  # noqa: RUF012

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDIMScheduler,
        conditioner: FaceConditioner | None = None,
        map_network: MAPNetwork | None = None,
        face_mesh: FaceMesh | None = None,
        expression_space: ExpressionSpace | None = None,
        mouth_painter: UNet2DModel | None = None,
        targets: TargetBank | None = None,
        recognisers: RecogniserEnsemble | None = None,
        expression_classifiers: ClassifierEnsemble | None = None,
        alignment_template: list[list[float]] | None = None,
        surrogates: list[str] | None = None,
        target_ranker: str | None = None,
        detector: str = "auto",
        weights_date: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            conditioner=conditioner,
            map_network=map_network,
            face_mesh=face_mesh,
            expression_space=expression_space,
            mouth_painter=mouth_painter,
            targets=targets,
            recognisers=RecogniserEnsemble() if recognisers is None else recognisers,
            expression_classifiers=(
                ClassifierEnsemble() if expression_classifiers is None else expression_classifiers
            ),
        )
        self.register_to_config(
            alignment_template=alignment_template or (ARCFACE_TEMPLATE_112 / 112).tolist(),
            surrogates=surrogates,
            target_ranker=target_ranker,
            detector=detector,
            weights_date=weights_date,
        )
        for component in self.components.values():
            if isinstance(component, torch.nn.Module):
                component.requires_grad_(False)  # only copies are ever trained
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""
        return list(self.config.surrogates or self.recognisers)

    @property
    def num_timesteps(self) -> int:
        """Refinement steps of the present call, over all its photos and faces."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback set `pipe._interrupt`: refinements then end with their best so far."""
        return self._interrupt

    @cached_property
    def face_detector(self) -> FaceDetector:
        """The detector named by the `detector` setting, loaded on first use."""
        return load_detector(self.config.detector)

    @cached_property
    def _doubt_finder(self) -> DoubtFinder:
        return DoubtFinder()

    @cached_property
    def _landmark_finder(self) -> LandmarkFinder:
        return LandmarkFinder()

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        emotion: str | Sequence[str] = "happy",
        target: str | ImageInput | None = DEFAULT_TARGET,
        faces: FaceChoice | None = "largest",
        mode: str = DEFAULT_MODE,
        margin: str | float | None = None,
        expression_strength: float | None = None,
        action_units: Mapping[str, float] | None = None,
        expression_of: ImageInput | ShownExpression | None = None,
        num_inversion_steps: int | None = None,
        num_generation_steps: int | None = None,
        refine_steps: int | None = None,
        surrogates: Sequence[str] | None = None,
        objectives: Sequence[Objective] | None = None,
        config: MAPConfig | None = None,
        rotate: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> MAPPipelineOutput | tuple[Any, Any]:
        r"""Protect the faces of one or several photos.

        Args:
            image: path, bytes, PIL image, array or tensor (see `map_pipeline.images.load_image`),
                or a list of them. Any size up to 120 megapixels.
            emotion: angry, disgust, fear, happy, neutral, sad, surprise, contempt or closed_smile;
                or one for each of the chosen faces, in their order.
            target: what recognisers shall see: "none" or None, which only hides the person; name of
                a built-in composite; "auto" (one that resembles the person without matching them);
                or a picture with a face (only of people who agreed).
            faces: "largest" (also None), "all", or boxes `[N,4]` (x0, y0, x1, y1 px) as a list,
                array or tensor. The reports count the faces that are left unprotected.
            mode: "fast" or "strong", the settings of `config.MODES`.
            margin: how sure the protection shall be: "normal", "high" or a number, see
                `MAPConfig.margin`; more of it is more visible.
            expression_strength: how far the expression is changed: 0 leaves it to what the
                protection does, 1 is as far as people go, at most 1.5.
            action_units: single movements besides the emotion, such as `{"smile": 0.5}`; see
                `expression.action_units.ACTION_UNITS`.
            expression_of: another photo, whose largest face's expression is copied in place of the
                emotion as far as `expression_strength` says, or what `read_expression` made of it;
                best one of the same person.
            num_inversion_steps: network calls of the DDIM inversion, >= 2.
            num_generation_steps: network calls of one generation, >= 1.
            refine_steps: most fine-tuning steps on each face, >= 0. 0 takes one pass of a trained
                `map_network`; without one, the face gets its expression, but no protection.
            surrogates: names of the recognisers to tune on; default the checkpoint's setting.
            objectives: losses and weights; default `objectives_for(config)`.
            config: settings in place of the mode's. Arguments given here go before both.
            rotate: find faces that lie on their side or are upside down also beside upright ones.
                Where no face is upright, they're found anyway.
            generator: source of randomness, one for each photo, or one from whose state each photo
                starts: a photo's result doesn't depend on the photos beside it.
            output_type: "pil", "np" or "pt"; see `MAPPipelineOutput`.
            return_dict: False returns the tuple `(images, reports)`.
            callback_on_step_end: called as `callback(pipe, step, timestep, callback_kwargs)` after
                each optimisation step of all faces, where `timestep` is the noise level that faces
                are inverted to; it returns a dictionary, from which "latents" is taken over.
            callback_on_step_end_tensor_inputs: what `callback_kwargs` holds: "latents"
                `[1,C,h,w]`, "residual" `[1,3,s,s]` in [-1,1], "losses" (a dictionary of floats by
                objective) or "conflict" (share of layers in which the two gradients conflict).

        Returns:
            MAPPipelineOutput: photos of unchanged size, bit for bit the input outside the faces.

        Raises:
            InvalidImageError, NoFaceError, FaceTooSmallError, UnknownOptionError: see their texts;
                of a photo of a list they name its place, as `image[1]`.
            GPUMemoryError: the GPU ran out of memory; the pipeline can be used again.
            ValueError: a number outside its range.

        Examples:
        """
        # 0. Check everything that can be checked without running a network.
        check_scheduler(self.scheduler)
        config = resolve_config(
            config,
            mode,
            self.scheduler.config.num_train_timesteps,
            margin=margin,
            expression_strength=expression_strength,
            num_inversion_steps=num_inversion_steps,
            num_generation_steps=num_generation_steps,
            refine_steps=refine_steps,
        )
        surrogates = list(self.surrogates if surrogates is None else surrogates)
        tensor_inputs = inputs_of(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.check_inputs(emotion, surrogates, output_type, tensor_inputs)
        check_action_units(action_units or {})
        choice = check_choice(faces)
        images, names = name_photos(image)
        generators = photo_generators(generator, len(images))

        # 1. Read the photos and find the faces to protect.
        tasks = [
            read_photo(one, name, lambda photo: self.find_faces(photo, rotate), choice, emotion)
            for one, name in zip(images, names, strict=True)
        ]

        # 2. Read the target, and plan what happens to every face.
        aim = self.read_target(target)
        shown = None if expression_of is None else self.read_expression(expression_of)
        network, common = self.map_network, tasks[0].emotions[0]
        plan = make_plan(common, surrogates, objectives, config, network, aim.hide)
        plan = replace(plan, action_units=action_units or {}, shown=shown)
        self._num_timesteps = sum(len(one.chosen) for one in tasks) * plan.config.refine_steps
        self._interrupt = False

        # 3. to 6. Protect one photo after the other.
        results, reports = [], []
        with self.progress_bar(total=self._num_timesteps) as progress:
            timestep = plan.config.start_timestep
            on_step = step_callback(self, progress, timestep, callback_on_step_end, tensor_inputs)
            for one, source_of_noise in zip(tasks, generators, strict=True):
                with naming_photo(one.name):
                    result, found = self._protect(one, aim, plan, source_of_noise, on_step)
                results.append(result)
                reports.append(found)

        # 7. Convert.
        outputs = convert_photos(results, tasks, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return outputs, reports
        return MAPPipelineOutput(images=outputs, reports=reports)

    def _protect(
        self,
        one: PhotoTask,
        aim: TargetChoice,
        plan: Plan,
        generator: torch.Generator,
        on_step: StepCallback,
    ) -> tuple[np.ndarray, list[FaceReport]]:
        """One photo with its chosen faces protected, `uint8 [H,W,3]`, and a report of each."""
        stages, result, finished = self.stages, one.photo, []
        for face, own in zip(one.chosen, one.emotions, strict=True):
            started = time.perf_counter()
            # 3. Embed the face and choose its target.
            source = self.embed(self.view(one.photo, face.landmarks))
            target = self.target_of(aim, source, plan.surrogates)
            task = FaceTask(face, source, target, replace(plan, emotion=own))
            alignment = stages.align(face)
            try:
                # 4. Find the expression, on the photo as the face before left it.
                with record_function("express"):
                    edit = stages.express(result, alignment, task)
                # 5. Change its identity, and put both into the photo.
                result = stages.change_identity(result, alignment, edit, task, generator, on_step)
            except torch.OutOfMemoryError:
                raise GPUMemoryError from None
            finished.append((task, time.perf_counter() - started))
        # 6. Measure on the finished photo, when all its faces are done.
        with record_function("report"):
            used = plan.networks_used(self.expression_classifiers)
            whole, again = one.report(self._doubt_finder), FacesAgain(self.face_detector, result)
            measured = [stages.report(one.photo, result, *each, again, used) for each in finished]
            measured = [replace(face, photo=whole) for face in measured]
            return result, with_notes(measured, aim.notes)

    def find_faces(self, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        """The faces of a photo `uint8 [H,W,3]`, biggest first; see `FaceDetector.detect`."""
        detector = self.face_detector  # perhaps one that knows nothing of turned faces
        return detector.detect(photo, rotate=True) if rotate else detector.detect(photo)

    def check_inputs(
        self,
        emotion: str | Sequence[str],
        surrogates: Sequence[str],
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
    ) -> None:
        """Raise `UnknownOptionError` for a name that isn't among the choices."""
        check_emotion(emotion)
        self.recognisers.check_surrogates(surrogates)
        if output_type not in ("pil", "np", "pt"):
            raise UnknownOptionError(f"`output_type` must be pil, np or pt; got {output_type!r}.")
        check_tensor_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)

    @property
    def stages(self) -> FaceStages:
        """The stages of one face, with the components as they are now."""
        return FaceStages(
            unet=self.unet,
            scheduler=self.scheduler,
            conditioner=self.conditioner,
            face_mesh=self.face_mesh,
            expression_space=on_cpu(self.expression_space),
            mouth_painter=self.mouth_painter,
            recognisers=self.recognisers,
            expression_classifiers=self.expression_classifiers,
            template=torch.tensor(self.config.alignment_template) * crop_size(self.unet),
            landmark_finder=self._landmark_finder,
            device=self._execution_device,
        )

    def view(self, photo: np.ndarray, landmarks: np.ndarray) -> View:
        """The surroundings of a face in a photo `uint8 [H,W,3]`, on the pipeline's device."""
        return view_face(photo, landmarks, self._execution_device)

    def embed(self, view: View) -> dict[str, Tensor]:
        """Recogniser name -> L2-normalised embedding `[1,D]` of a face."""
        return {k: net(view.image, view.landmarks).float() for k, net in self.recognisers.items()}
