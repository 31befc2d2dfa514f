"""`MAPPipeline`: a photo in, a protected photo and a report out."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import PIL.Image
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import BaseOutput, replace_example_docstring
from huggingface_hub import snapshot_download
from torch import Tensor

from map_pipeline.checksums import FILE_NAME, check_folder
from map_pipeline.config import CHANGE_AT_FULL_STRENGTH, DEFAULT_MODE, EMOTIONS, MODES, MAPConfig
from map_pipeline.diffusion import ddim as diffusion
from map_pipeline.diffusion.conditioner import FaceConditioner, describe
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.errors import CheckpointError, GPUMemoryError, MAPError, UnknownOptionError
from map_pipeline.expression.classifiers import (
    ExpressionClassifier,
    TransformersExpressionClassifier,
    mean_probabilities,
)
from map_pipeline.expression.editor import ExpressionShapes, apply_edit, edit_expression
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    Alignment,
    apply_affine,
    compose_affine,
    extract_region,
    warp_affine,
)
from map_pipeline.faces.detect import Face, FaceDetector, load_detector, select_faces
from map_pipeline.faces.landmarks import LandmarkFinder, five_points
from map_pipeline.faces.paste import feather_mask, paste_residual
from map_pipeline.faces.quality import quality_issues
from map_pipeline.identity.objectives import (
    Objective,
    RefineTarget,
    active,
    mode_objectives,
    sees_expression,
)
from map_pipeline.identity.recognisers import FaceRecogniser, find_arcface
from map_pipeline.identity.refine import CropGeometry, Networks, Step, refine
from map_pipeline.identity.targets import TargetBank, choose_target
from map_pipeline.images import ImageInput, load_image, to_array, to_pil, to_tensor, uint8_tensor
from map_pipeline.measure import (
    FAR,
    View,
    compare_expressions,
    compare_identities,
    image_quality,
    redetect_landmarks,
    working_threshold,
)
from map_pipeline.report import FaceReport

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

OUT_OF_MEMORY = (
    "The GPU must have more free memory for this photo. Choose mode 'fast', which needs less, "
    "close other programs that use the GPU, or work on the CPU."
)
FaceChoice = Literal["largest", "all"] | Sequence[Sequence[float]]
MAP_NETWORKS = (
    "map_network",
    "map_network_without_dlib_resnet",
    "map_network_without_mobilefacenet",
    "map_network_without_faceres",
)
# Files of a checkpoint; Python and pickles are never fetched.
CHECKPOINT_PATTERNS = ["*.json", "*/*.json", "*/*.safetensors", "README.md", FILE_NAME]


@dataclass
class MAPPipelineOutput(BaseOutput):
    """Result of `MAPPipeline`.

    Attributes:
        images: protected photos in the order and size of the input: PIL images, `uint8`
            arrays `[H,W,3]`, or float tensors `[3,H,W]` in [0,1].
        reports: for each photo one `FaceReport` per protected face.
    """

    images: list[PIL.Image.Image] | list[np.ndarray] | list[Tensor]
    reports: list[list[FaceReport]]


@dataclass(frozen=True)
class Target:
    """A target identity: its name and recogniser name -> embedding `[1,D]`."""

    name: str
    embeddings: dict[str, Tensor]


def bundled_checkpoint() -> Path:
    """Folder of the checkpoint that comes with the package."""
    return Path(str(resources.files("map_pipeline") / "checkpoint"))


class MAPPipeline(DiffusionPipeline):
    """Protects faces in photos by fine-tuning a score network towards another identity.

    Args:
        unet: score network of aligned face crops, the prior; `in_channels` = 3 p^2 for p x p pixel
            patches.
        scheduler: its noise schedule.
        conditioner: tells the score network emotion and shape of a face; without it the network
            knows nothing but the picture.
        map_network: what training on many faces changes in the prior: what it makes of a face in
            one pass is the start of the steps; without it they start from the prior.
        map_network_without_dlib_resnet, map_network_without_mobilefacenet,
            map_network_without_faceres: the same, trained without one recogniser, which can judge
            it then; see `network_for`.
        expression_shapes: where emotions move landmarks; without it or the conditioner the
            expression is not edited before the protection.
        targets: built-in target identities.
        dlib_resnet, mobilefacenet, faceres, mobileface, arcface: recognisers. All that are present
            report; `surrogates` names those that the protection is tuned on.
        mini_xception, face_api_expression, expression_encoder: expression networks; all that are
            present steer the expression. `expression_encoder` is the slot for your own.
        alignment_template: `[5][2]`, where eyes, nose and mouth corners lie in the score network's
            crop, in units of its side; default ArcFace's.
        surrogates: names of the recognisers used in the optimisation by default; all if None.
        target_ranker: name of the recogniser that ranks the targets for "auto"; the first
            surrogate if None.
        detector: "auto" (insightface if its model pack is on disk, else the bundled one),
            "bundled", "insightface" or "insightface-download"; see `faces.detect.load_detector`.
        weights_date: when the prior was trained, YYYY-MM-DD; told with every evaluation.
    """

    _optional_components = [  # noqa: RUF012 (diffusers reads this class attribute as a list)
        "conditioner",
        "expression_shapes",
        *MAP_NETWORKS,
        "targets",
        "dlib_resnet",
        "mobilefacenet",
        "faceres",
        "mobileface",
        "arcface",
        "mini_xception",
        "face_api_expression",
        "expression_encoder",
    ]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDIMScheduler,
        conditioner: FaceConditioner | None = None,
        expression_shapes: ExpressionShapes | None = None,
        map_network: MAPNetwork | None = None,
        map_network_without_dlib_resnet: MAPNetwork | None = None,
        map_network_without_mobilefacenet: MAPNetwork | None = None,
        map_network_without_faceres: MAPNetwork | None = None,
        targets: TargetBank | None = None,
        dlib_resnet: FaceRecogniser | None = None,
        mobilefacenet: FaceRecogniser | None = None,
        faceres: FaceRecogniser | None = None,
        mobileface: FaceRecogniser | None = None,
        arcface: FaceRecogniser | None = None,
        mini_xception: ExpressionClassifier | None = None,
        face_api_expression: ExpressionClassifier | None = None,
        expression_encoder: TransformersExpressionClassifier | None = None,
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
            expression_shapes=expression_shapes,
            map_network=map_network,
            map_network_without_dlib_resnet=map_network_without_dlib_resnet,
            map_network_without_mobilefacenet=map_network_without_mobilefacenet,
            map_network_without_faceres=map_network_without_faceres,
            targets=targets,
            dlib_resnet=dlib_resnet,
            mobilefacenet=mobilefacenet,
            faceres=faceres,
            mobileface=mobileface,
            arcface=arcface,
            mini_xception=mini_xception,
            face_api_expression=face_api_expression,
            expression_encoder=expression_encoder,
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None = None, **kwargs: Any
    ) -> Self:
        """Load a checkpoint: the bundled one, a local folder, or a Hub repository "user/repo".

        Only JSON and safetensors are read. insightface's ArcFace joins the recognisers when its
        model pack is on disk (its weights are for non-commercial use).

        Raises:
            CheckpointError: neither a Hub id nor a folder that holds a `model_index.json`; or
                the Hub can't be reached; or a file is missing, damaged or not the one listed in
                the checkpoint's `SHA256SUMS`.
        """
        path = pretrained_model_name_or_path or bundled_checkpoint()
        is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not Path(path).exists()
        if not is_hub_id and not (Path(path) / "model_index.json").is_file():
            raise CheckpointError(
                "`checkpoint` must be a Hub id such as user/repo or a folder with "
                f"model_index.json, got {path}."
            )
        kwargs.setdefault("dtype", torch.float32)
        kwargs.setdefault("use_safetensors", True)
        if "unet" in kwargs:  # the networks are changes of the checkpoint's own
            kwargs = dict.fromkeys(MAP_NETWORKS) | kwargs
        if not is_hub_id:
            check_folder(Path(path))
        if "arcface" not in kwargs and (arcface := find_arcface()) is not None:
            kwargs["arcface"] = arcface
        try:
            return super().from_pretrained(str(path), **kwargs)
        except (MAPError, TypeError):  # TypeError: a keyword that doesn't exist
            raise
        except Exception as error:  # diffusers, safetensors and json each have their own
            raise CheckpointError(
                f"`checkpoint` must be whole and fit this version, got {path}: {error}"
            ) from error

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a checkpoint from the Hub and return its local folder.

        diffusers refuses Hub repositories whose components live in an installed package; a plain
        snapshot of JSON and safetensors needs no remote code.
        """
        keys = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        chosen = {key: kwargs[key] for key in keys if kwargs.get(key) is not None}
        try:
            folder = snapshot_download(
                pretrained_model_name, allow_patterns=CHECKPOINT_PATTERNS, **chosen
            )
        except Exception as error:  # huggingface_hub lets those of its HTTP library through
            raise CheckpointError(
                f"`checkpoint` must be a Hub repository that can be fetched or was before, got "
                f"{pretrained_model_name}: {error}"
            ) from error
        check_folder(Path(folder))
        return folder

    @property
    def recognisers(self) -> dict[str, FaceRecogniser]:
        """The recognisers that are present, by component name."""
        return {k: v for k, v in self.components.items() if isinstance(v, FaceRecogniser)}

    @property
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""
        return list(self.config.surrogates or self.recognisers)

    @property
    def expression_classifiers(
        self,
    ) -> dict[str, ExpressionClassifier | TransformersExpressionClassifier]:
        """The expression networks that are present, by component name."""
        kinds = (ExpressionClassifier, TransformersExpressionClassifier)
        return {k: v for k, v in self.components.items() if isinstance(v, kinds)}

    @property
    def map_networks(self) -> dict[str, MAPNetwork]:
        """The trained networks that are present, by component name."""
        return {k: v for k, v in self.components.items() if isinstance(v, MAPNetwork)}

    def network_for(self, surrogates: Collection[str]) -> MAPNetwork | None:
        """The trained network that saw most of these recognisers and no other, if there is one.

        So a recogniser that is left out of the surrogates is left out of the network, too.
        """
        trained = self.map_networks.values()
        fitting = [net for net in trained if set(net.surrogates) <= set(surrogates)]
        return max(fitting, key=lambda net: len(net.surrogates), default=None)

    @cached_property
    def face_detector(self) -> FaceDetector:
        """The detector named by the `detector` setting, loaded on first use."""
        return load_detector(self.config.detector)

    @cached_property
    def _landmark_finder(self) -> LandmarkFinder:
        return LandmarkFinder()

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        emotion: str = "happy",
        target: str | ImageInput = "auto",
        faces: FaceChoice = "largest",
        mode: str = DEFAULT_MODE,
        strength: float | None = None,
        expression_strength: float | None = None,
        num_inversion_steps: int | None = None,
        num_inference_steps: int | None = None,
        refine_steps: int | None = None,
        surrogates: Sequence[str] | None = None,
        objectives: Sequence[Objective] | None = None,
        config: MAPConfig | None = None,
        generator: torch.Generator | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["MAPPipeline", int, int, Step], None] | None = None,
    ) -> MAPPipelineOutput | tuple:
        r"""Protect the faces of one or several photos.

        Args:
            image: path, bytes, PIL image, array or tensor (see `map_pipeline.images.load_image`),
                or a list of them. Any size up to 50 megapixels.
            emotion: angry, disgust, fear, happy, neutral, sad or surprise.
            target: name of a built-in composite, "auto" (one that resembles the person without
                matching them), or a picture with a face. Use only pictures of people who agreed.
            faces: "largest", "all", or a list of boxes (x0, y0, x1, y1) in px.
            mode: "fast", few and larger fine-tuning steps with one gradient of all losses, or
                "strong", more steps that look at more views and project the two objectives onto
                each other; see `config.MODES`.
            strength: visible change that protection may cost, in (0,1]: the structural similarity
                of the aligned face may fall to `1 - CHANGE_AT_FULL_STRENGTH * strength`.
                Default 0.5.
            expression_strength: how far the expression is changed, in [0,1]; 0 leaves it to what
                the protection does. Default 0.5.
            num_inversion_steps: network calls of the DDIM inversion, >= 2; default that of `mode`.
            num_inference_steps: network calls of one generation, >= 1. Default 1.
            refine_steps: fine-tuning steps on each face, >= 0; default those of `mode`. 0 takes one
                pass of the trained network, which serves built-in targets only: with a picture as
                target, the face gets its expression, but no protection.
            surrogates: names of the recognisers to tune on; default the checkpoint's setting. The
                trained network is one that saw no others, see `network_for`.
            objectives: losses and weights; default `guidance.mode_objectives(mode)`.
            config: all other settings instead of the mode's; arguments given here take precedence.
            generator: source of randomness; the same seed gives the same result.
            output_type: "pil", "np" (`uint8 [H,W,3]`) or "pt" (float `[3,H,W]` in [0,1]).
            return_dict: False returns the tuple `(images, reports)`.
            callback_on_step_end: called as `callback(pipe, step, steps, info)` after each of the
                `steps` optimisation steps of all faces; raise an exception in it to cancel.

        Returns:
            MAPPipelineOutput: photos of unchanged size, bit for bit the input outside the faces.

        Raises:
            InvalidImageError, NoFaceError, FaceTooSmallError, UnknownOptionError: see their texts.
            GPUMemoryError: the GPU ran out of memory; the pipeline can be used again.
            ValueError: a number outside its range.

        Examples:
        """
        # 0. Check everything that can be checked without running a network.
        config = self._resolve_config(
            config,
            mode,
            strength,
            expression_strength=expression_strength,
            num_inversion_steps=num_inversion_steps,
            num_inference_steps=num_inference_steps,
            refine_steps=refine_steps,
        )
        surrogates = list(self.surrogates if surrogates is None else surrogates)
        self.check_inputs(emotion, surrogates, output_type)
        objectives = mode_objectives(mode) if objectives is None else objectives
        used = set(surrogates if active(objectives, "identity") else ())
        used |= set(self.expression_classifiers if sees_expression(objectives) else ())
        # Without one, `torch.manual_seed` decides, as in diffusers.
        generator = generator or torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        images = image if isinstance(image, list | tuple) else [image]

        # 1. Read the photos and find the faces to protect.
        photos = [to_array(load_image(one)) for one in images]
        chosen = [select_faces(self.face_detector.detect(photo), faces) for photo in photos]
        own_target = self._own_target(target)
        network = None
        # It was trained towards the built-in targets; to others the steps go from the prior.
        if config.use_map_network and own_target is None and active(objectives, "identity"):
            network = self.network_for(surrogates)
        if network is not None:
            config = replace(
                config, refine_steps=config.refine_steps - config.steps_saved, steps_saved=0
            )
            used |= set(self.expression_classifiers)  # in training

        # 2. Protect face after face; each works on the photo as the one before left it.
        total = sum(len(one) for one in chosen) * config.refine_steps
        done = 0
        results, reports = [], []
        with self.progress_bar(total=total) as progress:

            def on_step(_index: int, step: Step) -> None:
                nonlocal done
                progress.update()
                if callback_on_step_end is not None:
                    callback_on_step_end(self, done, total, step)
                done += 1

            for photo, photo_faces in zip(photos, chosen, strict=True):
                result, finished = photo, []
                for face in photo_faces:
                    started = time.perf_counter()
                    try:
                        source = self.embed(self.view(photo, face.landmarks))
                        face_target = own_target or self.built_in_target(target, source)
                        result = self.protect_face(
                            result,
                            face,
                            source,
                            EMOTIONS.index(emotion),
                            face_target,
                            surrogates,
                            objectives,
                            config,
                            generator,
                            on_step,
                            network,
                        )
                    except torch.OutOfMemoryError:
                        raise GPUMemoryError(OUT_OF_MEMORY) from None
                    finished.append((face, source, face_target, time.perf_counter() - started))
                # 3. Measure on the finished photo, when all its faces are done.
                reports.append(
                    [
                        self.report_face(
                            photo, result, face, source, face_target, emotion, used, seconds
                        )
                        for face, source, face_target, seconds in finished
                    ]
                )
                results.append(result)

        # 4. Convert.
        outputs = [_convert(result, output_type) for result in results]
        self.maybe_free_model_hooks()
        if not return_dict:
            return outputs, reports
        return MAPPipelineOutput(images=outputs, reports=reports)

    def check_inputs(self, emotion: str, surrogates: Sequence[str], output_type: str) -> None:
        """Raise `UnknownOptionError` for a name that isn't among the choices."""
        if emotion not in EMOTIONS:
            raise UnknownOptionError(
                f"`emotion` must be one of {', '.join(EMOTIONS)}; got {emotion!r}."
            )
        unknown = [name for name in surrogates if name not in self.recognisers]
        if unknown or not surrogates:
            raise UnknownOptionError(
                f"`surrogates` must name some of {', '.join(self.recognisers)}; "
                f"got {unknown or 'none'}."
            )
        if output_type not in ("pil", "np", "pt"):
            raise UnknownOptionError(f"`output_type` must be pil, np or pt; got {output_type!r}.")

    def built_in_target(self, name: str, source: dict[str, Tensor]) -> Target:
        """Look up a composite, or choose one if `name` is "auto".

        Args:
            source: recogniser name -> embedding `[1,D]` of the face to protect; for "auto" only.
        """
        if self.targets is None:
            raise UnknownOptionError("`target` must be an image: this checkpoint has no targets.")
        stored = {key: self._bank_embeddings(key) for key in self.recognisers}
        if name == "auto":
            limits = {
                key: self.recognisers[key].threshold(FAR)
                for key in self.surrogates
                if self.recognisers[key].config.thresholds
            }
            ranker = self.config.target_ranker or self.surrogates[0]
            name = self.targets.names[choose_target(source, stored, limits, ranker)]
        index = self.targets.index(name)
        return Target(name, {key: value[index : index + 1] for key, value in stored.items()})

    def embed(self, view: View) -> dict[str, Tensor]:
        """Recogniser name -> L2-normalised embedding `[1,D]` of a face."""
        return {k: net(view.image, view.landmarks).float() for k, net in self.recognisers.items()}

    def protect_face(
        self,
        photo: np.ndarray,
        face: Face,
        source: dict[str, Tensor],
        emotion: int,
        target: Target,
        surrogates: Sequence[str],
        objectives: Sequence[Objective],
        config: MAPConfig,
        generator: torch.Generator,
        on_step: Callable[[int, Step], None] | None = None,
        network: MAPNetwork | None = None,
    ) -> np.ndarray:
        """Protect one face of a photo `uint8 [H,W,3]` and return the changed photo.

        Args:
            face: a detected face of this photo.
            source: recogniser name -> embedding `[1,D]` of this face, unprotected.
            emotion: index in `EMOTIONS`.
            network: what the fine-tuning starts from instead of the prior.
        """
        size = diffusion.crop_size(self.unet)
        template = torch.tensor(self.config.alignment_template) * size
        alignment = Alignment.from_landmarks(torch.as_tensor(face.landmarks), template, size)
        mask = feather_mask(size).to(self._execution_device)
        edited = self._express(photo, alignment, emotion, config, mask)
        crop, landmarks68 = self.aligned_crop(edited, alignment)
        landmarks = torch.as_tensor(face.landmarks)
        if landmarks68 is not None:  # corners of the mouth have moved
            landmarks = apply_affine(alignment.crop_to_image, _five_points(landmarks68))
        region = extract_region(uint8_tensor(edited), landmarks)
        region_to_crop = compose_affine(region.region_to_photo, alignment.image_to_crop)
        source_region = region.image.to(self._execution_device)
        placement = CropGeometry(
            landmarks=region.landmarks[None].to(self._execution_device),
            region_to_crop=region_to_crop[None].to(self._execution_device),
            mask=mask,
        )
        tuned = {name: self.recognisers[name] for name in surrogates}
        target_embeddings = {name: target.embeddings[name] for name in tuned}
        source_cond, target_cond = self._encode_conditions(crop, landmarks68, emotion)
        if network is not None:
            identity = network.encode(target.embeddings).float()
            target_cond = identity if target_cond is None else target_cond + identity
        goal = RefineTarget(
            source_region=source_region,
            source_crop=crop,
            source_embeddings={name: source[name] for name in tuned},
            target_embeddings=target_embeddings,
            thresholds={name: working_threshold(net) for name, net in tuned.items()},
            emotion=emotion,
            ssim_budget=config.ssim_budget,
            source_cond=source_cond,
            target_cond=target_cond,
        )
        classifiers = self.expression_classifiers if sees_expression(objectives) else {}
        networks = Networks(self.unet, self.scheduler, tuned, classifiers, network)
        residual = refine(networks, goal, placement, objectives, config, generator, on_step)
        return paste_residual(edited, residual.cpu(), alignment, mask.cpu())

    def _express(
        self, photo: np.ndarray, alignment: Alignment, emotion: int, config: MAPConfig, mask: Tensor
    ) -> np.ndarray:
        """The photo `uint8 [H,W,3]` with the asked expression, before any protection."""
        if config.expression_strength == 0 or None in (self.conditioner, self.expression_shapes):
            return photo
        crop, landmarks68 = self.aligned_crop(photo, alignment)
        if landmarks68 is None:  # half hidden: nothing to move
            return photo
        edit = edit_expression(
            self.unet,
            self.conditioner,
            self.scheduler,
            self.expression_shapes,
            crop,
            landmarks68,
            emotion,
            config.expression_strength,
            present=self._present_emotion(crop),
            autocast_dtype=torch.bfloat16 if config.autocast == "bf16" else None,
        )
        return apply_edit(photo, alignment, edit, mask.cpu())

    def _present_emotion(self, crop: Tensor) -> Tensor | None:
        """Probabilities `[7]` of the expression of a crop `[1,3,s,s]`; None without a network."""
        if not self.expression_classifiers:
            return None
        landmarks = torch.tensor(self.config.alignment_template).to(crop)[None] * crop.shape[-1]
        return mean_probabilities(self.expression_classifiers.values(), crop, landmarks)[0]

    def aligned_crop(self, photo: np.ndarray, alignment: Alignment) -> tuple[Tensor, Tensor | None]:
        """The score network's crop `[1,3,s,s]` of a photo and its 68 landmarks, crop px."""
        size = alignment.size
        template = torch.tensor(self.config.alignment_template) * size
        landmarks = apply_affine(alignment.crop_to_image, template)
        region = extract_region(uint8_tensor(photo), landmarks)
        crop_to_region = compose_affine(alignment.crop_to_image, region.photo_to_region)
        region_image = region.image.to(self._execution_device)
        crop = warp_affine(
            region_image,
            crop_to_region[None].to(self._execution_device),
            (size, size),
            "reflection",
        )
        landmarks68 = self._landmark_finder.find_aligned(to_array(to_pil(crop)), template.numpy())
        return crop, None if landmarks68 is None else torch.from_numpy(landmarks68)

    def _encode_conditions(
        self, crop: Tensor, landmarks68: Tensor | None, emotion: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the score network is told of a crop `[1,3,s,s]` as it is, and as it is to become."""
        if self.conditioner is None:
            return None, None
        present = describe(crop, landmarks68)
        asked = torch.nn.functional.one_hot(torch.tensor([emotion]), len(EMOTIONS)).to(crop)
        wanted = replace(present, emotion=asked)
        return self.conditioner(present).float(), self.conditioner(wanted).float()

    def report_face(
        self,
        before: np.ndarray,
        after: np.ndarray,
        face: Face,
        source: dict[str, Tensor],
        target: Target,
        emotion: str,
        used: Collection[str],
        seconds: float,
    ) -> FaceReport:
        """Measure one face on the finished photo, with landmarks found anew as a recogniser would.

        Args:
            before: `uint8 [H,W,3]` original; after: the protected photo.
            source: recogniser name -> embedding `[1,D]` of the face in the original.
            used: names of the networks that the optimisation differentiated through.
        """
        again = redetect_landmarks(self.face_detector, after, face)
        views = (self.view(before, face.landmarks), self.view(after, again))
        same_place = self.view(after, face.landmarks).image
        similarity, noise_ratio = image_quality(views[0].image, same_place)
        return FaceReport(
            box=tuple(float(v) for v in face.box),
            detector=self.face_detector.name,
            emotion=emotion,
            target=target.name,
            ssim=similarity,
            psnr=noise_ratio,
            seconds=seconds,
            problems=list(quality_issues(face, before)),
            recognisers=[
                compare_identities(
                    name, net, name in used, source[name], views[1], target.embeddings[name]
                )
                for name, net in self.recognisers.items()
            ],
            expressions=[
                compare_expressions(name, net, name in used, *views)
                for name, net in self.expression_classifiers.items()
            ],
        )

    def _resolve_config(
        self, config: MAPConfig | None, mode: str, strength: float | None, **given: float | None
    ) -> MAPConfig:
        """`config` with the arguments given to a call, checked."""
        if mode not in MODES:
            raise UnknownOptionError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r}.")
        if strength is not None:
            if not 0 < strength <= 1:
                raise ValueError(f"`strength` must be in (0, 1], got {strength}.")
            given["ssim_budget"] = 1 - CHANGE_AT_FULL_STRENGTH * strength
        if given["refine_steps"] is not None:
            given["steps_saved"] = 0
        given = {name: value for name, value in given.items() if value is not None}
        base = MODES[mode] if config is None else config
        resolved = replace(base, **given)
        levels = self.scheduler.config.num_train_timesteps
        if resolved.start_timestep >= levels:
            raise ValueError(
                f"`start_timestep` must be in [1, {levels}), got {resolved.start_timestep}."
            )
        return resolved

    def _own_target(self, target: str | ImageInput) -> Target | None:
        """Embed a user's own target picture; None if `target` is a name."""
        if isinstance(target, str) and not Path(target).is_file():
            if target != "auto" and self.targets is not None:
                self.targets.index(target)  # an unknown name is told before any work
            return None
        photo = to_array(load_image(target))
        try:
            [face] = select_faces(self.face_detector.detect(photo), "largest")
        except MAPError as error:
            raise type(error)(str(error).replace("`image`", "`target`")) from None
        return Target("own image", self.embed(self.view(photo, face.landmarks)))

    def _bank_embeddings(self, recogniser: str) -> Tensor:
        """`[N,D]` of the built-in targets: stored, or computed for a recogniser added later."""
        stored = self.targets.embeddings(recogniser)
        if stored is not None:
            return stored.to(self._execution_device).float()
        size = self.targets.config.image_size
        landmarks = torch.tensor(self.config.alignment_template)[None] * size
        images = self.targets.images.to(self._execution_device).float() / 255
        landmarks = landmarks.expand(len(images), -1, -1).to(images)
        return self.recognisers[recogniser](images, landmarks).float()

    def view(self, photo: np.ndarray, landmarks: np.ndarray) -> View:
        """The surroundings of a face in a photo `uint8 [H,W,3]`, on the pipeline's device."""
        region = extract_region(uint8_tensor(photo), torch.as_tensor(landmarks))
        device = self._execution_device
        return View(region.image.to(device), region.landmarks[None].to(device))


def _five_points(landmarks68: Tensor) -> Tensor:
    """Eyes, nose tip and mouth corners `[5,2]` of 68 landmarks."""
    return torch.from_numpy(five_points(landmarks68.numpy()))


def _convert(photo: np.ndarray, output_type: str) -> PIL.Image.Image | np.ndarray | Tensor:
    if output_type == "pil":
        return to_pil(photo)
    return photo if output_type == "np" else to_tensor(photo)[0]
