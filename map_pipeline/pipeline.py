"""`MAPPipeline`: a photo in, a protected photo and a report out.

Letters in shape comments: H/W photo, s side of the aligned crop, D length of an embedding.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import replace_example_docstring
from torch import Tensor
from torch.profiler import record_function

from map_pipeline.callbacks import Callback, check_tensor_inputs, step_callback
from map_pipeline.config import DEFAULT_MODE, FAR, HIDE, MAPConfig, check_emotion, resolve_config
from map_pipeline.diffusion.conditioner import FaceConditioner
from map_pipeline.diffusion.ddim import check_scheduler
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import crop_size
from map_pipeline.editing import EditingMixin
from map_pipeline.errors import GPUMemoryError, UnknownOptionError, naming_photo
from map_pipeline.expression.action_units import check_action_units
from map_pipeline.expression.classifiers import ClassifierEnsemble
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.faces.detect import (
    FaceChoice,
    FaceDetector,
    check_choice,
    load_detector,
    select_faces,
)
from map_pipeline.faces.doubts import DoubtFinder
from map_pipeline.faces.face import Face
from map_pipeline.faces.landmarks import LandmarkFinder
from map_pipeline.faces.mesh import FaceMesh
from map_pipeline.faces.quality import quality_issues
from map_pipeline.identity.objectives import Objective
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.identity.targets import Target, TargetBank, choose_target
from map_pipeline.identity.views import photo_generators
from map_pipeline.images import ImageInput, load_image, load_photo, to_array
from map_pipeline.loading import CheckpointMixin
from map_pipeline.measure import View, view_face
from map_pipeline.output import MAPPipelineOutput, convert_photos
from map_pipeline.photos import PhotoTask, emotion_of_each, name_photos
from map_pipeline.report import with_notes
from map_pipeline.stages import FaceStages, FaceTask, make_plan

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

OUT_OF_MEMORY = """The GPU must have more free memory for this photo. Choose mode 'fast', which \
needs less, close other programs that use the GPU, or work on the CPU."""


class MAPPipeline(CheckpointMixin, EditingMixin, DiffusionPipeline):
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
            None.
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
    _optional_components = [  # noqa: RUF012
        "conditioner",
        "map_network",
        "face_mesh",
        "expression_space",
        "mouth_painter",
        "targets",
        "recognisers",
        "expression_classifiers",
    ]
    _callback_tensor_inputs = [  # noqa: RUF012
        "latents",
        "residual",
        "losses",
        "conflict",
    ]

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
        target: str | ImageInput | None = "auto",
        faces: FaceChoice | None = "largest",
        mode: str = DEFAULT_MODE,
        margin: str | float | None = None,
        expression_strength: float | None = None,
        action_units: Mapping[str, float] | None = None,
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
            emotion: angry, disgust, fear, happy, neutral, sad or surprise; or one for each of the
                chosen faces, in their order.
            target: what recognisers shall see: name of a built-in composite, "auto" (one that
                resembles the person without matching them), a picture with a face (only of people
                who agreed), or None, which only hides the person.
            faces: "largest" (also None), "all", or boxes `[N,4]` (x0, y0, x1, y1 px) as a list,
                array or tensor. The reports count the faces that are left unprotected.
            mode: "fast" or "strong", the settings of `config.MODES`.
            margin: how sure the protection shall be: "normal", "high" or a number, see
                `MAPConfig.margin`; more of it is more visible.
            expression_strength: how far the expression is changed: 0 leaves it to what the
                protection does, 1 is as far as people go, at most 1.5.
            action_units: single movements besides the emotion, such as `{"smile": 0.5}`; see
                `expression.action_units.ACTION_UNITS`.
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
        # diffusers' own callbacks say by themselves what they ask for.
        tensor_inputs = getattr(
            callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs
        )
        self.check_inputs(emotion, surrogates, output_type, tensor_inputs)
        check_action_units(action_units or {})
        choice = check_choice(faces)
        images, names = name_photos(image)
        generators = photo_generators(generator, len(images))

        # 1. Read the photos and find the faces to protect.
        tasks: list[PhotoTask] = []
        for one, name in zip(images, names, strict=True):
            with naming_photo(name), record_function("detect"):
                read = load_photo(one)
                photo, cutout, lost = to_array(read.pixels), read.cutout, read.notes  # [H,W,3]
                del read  # a copy of the pixels
                found = self.find_faces(photo, rotate)
                chosen = select_faces(found, choice)
                asked = emotion_of_each(emotion, len(chosen))
                tasks.append(PhotoTask(name, photo, cutout, found, chosen, asked, lost))
        if target is None:
            target = HIDE
        hide = isinstance(target, str) and target == HIDE
        own_target = self._own_target(target)
        network = self.map_network
        common = tasks[0].emotions[0]
        plan = make_plan(common, surrogates, objectives, config, network, own_target, hide)
        plan = replace(plan, action_units=action_units or {})
        used = plan.networks_used(self.expression_classifiers)
        self._num_timesteps = sum(len(one.chosen) for one in tasks) * plan.config.refine_steps
        self._interrupt = False
        stages, results, reports = self.stages, [], []

        with self.progress_bar(total=self._num_timesteps) as progress:
            timestep = plan.config.start_timestep
            on_step = step_callback(self, progress, timestep, callback_on_step_end, tensor_inputs)
            for one, source_of_noise in zip(tasks, generators, strict=True):
                with naming_photo(one.name):
                    result, finished = one.photo, []
                    for face, own in zip(one.chosen, one.emotions, strict=True):
                        started = time.perf_counter()
                        # 2. Embed the face and choose its target.
                        source = self.embed(self.view(one.photo, face.landmarks))
                        face_target = own_target
                        if not hide and own_target is None:
                            face_target = self.built_in_target(str(target), source)
                        task = FaceTask(face, source, face_target, replace(plan, emotion=own))
                        alignment = stages.align(face)
                        try:
                            # 3. Find the expression, on the photo as the face before left it.
                            with record_function("express"):
                                edit = stages.express(result, alignment, task)
                            # 4. Change its identity, and put both into the photo.
                            result = stages.change_identity(
                                result, alignment, edit, task, source_of_noise, on_step
                            )
                        except torch.OutOfMemoryError:
                            raise GPUMemoryError(OUT_OF_MEMORY) from None
                        finished.append((task, time.perf_counter() - started))
                    # 5. Measure on the finished photo, when all its faces are done.
                    with record_function("report"):
                        detector = self.face_detector
                        whole = one.report(self._doubt_finder)
                        measured = [
                            stages.report(one.photo, result, *each, detector, used)
                            for each in finished
                        ]
                        measured = [replace(face, photo=whole) for face in measured]
                        reports.append(with_notes(measured, own_target.notes if own_target else ()))
                    results.append(result)

        # 6. Convert.
        outputs = convert_photos(results, tasks, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return outputs, reports
        return MAPPipelineOutput(images=outputs, reports=reports)

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
        unknown = [name for name in surrogates if name not in self.recognisers]
        if unknown or not surrogates:
            raise UnknownOptionError(
                f"`surrogates` must name some of {', '.join(self.recognisers)}; "
                f"got {unknown or 'none'}."
            )
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
            expression_space=self.expression_space,
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

    def built_in_target(self, name: str, source: Mapping[str, Tensor]) -> Target:
        """Look up a composite, or choose one if `name` is "auto".

        Args:
            source: recogniser name -> embedding `[1,D]` of the face to protect; for "auto" only.
        """
        if self.targets is None:
            raise UnknownOptionError("`target` must be an image: this checkpoint has no targets.")
        template = torch.tensor(self.config.alignment_template)
        known = {
            key: self.targets.embed_with(key, net, template, self._execution_device)
            for key, net in self.recognisers.items()
        }
        if name == "auto":
            judges = {key: self.recognisers[key] for key in self.surrogates}
            limits = {k: net.threshold(FAR) for k, net in judges.items() if net.config.thresholds}
            ranker = self.config.target_ranker or self.surrogates[0]
            name = self.targets.names[choose_target(source, known, limits, ranker)]
        index = self.targets.index(name)
        return Target(name, {key: value[index : index + 1] for key, value in known.items()})

    def _own_target(self, target: str | ImageInput) -> Target | None:
        """Embed a user's own target picture; None if `target` is a name."""
        if isinstance(target, str) and not Path(target).is_file():
            if target not in ("auto", HIDE) and self.targets is not None:
                self.targets.index(target)  # an unknown name is an error before any work
            return None
        with naming_photo("`target`"):
            lost: list[str] = []
            photo = to_array(load_image(target, lost))
            found = self.find_faces(photo)
            [face] = select_faces(found, "largest")
        notes = [f"target picture: {note}" for note in lost]
        if len(found) > 1:
            notes.append(f"the target picture shows {len(found)} faces; the largest was taken")
        if problems := quality_issues(face, photo):
            notes.append(f"the face in the target picture is {', '.join(problems)}")
        return Target("own image", self.embed(self.view(photo, face.landmarks)), tuple(notes))
