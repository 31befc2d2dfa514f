"""`MAPPipeline`: a photo in, a protected photo and a report out."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import PIL.Image
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import BaseOutput, replace_example_docstring
from huggingface_hub import snapshot_download
from torch import Tensor

from map_pipeline import diffusion
from map_pipeline.config import CHANGE_AT_FULL_STRENGTH, MAPConfig
from map_pipeline.errors import CheckpointError, MAPError, UnknownOptionError
from map_pipeline.expression import EMOTIONS, ExpressionEncoder, TransformersExpressionEncoder
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    Alignment,
    extract_region,
    warp_affine,
)
from map_pipeline.faces.detect import Face, FaceDetector, load_detector, select_faces
from map_pipeline.faces.paste import feather_mask, paste_residual
from map_pipeline.guidance import Goal, Objective, active, default_objectives
from map_pipeline.images import ImageInput, load_image, to_array, to_pil, to_tensor, uint8_tensor
from map_pipeline.losses import ssim
from map_pipeline.recognition import FaceRecogniser, find_arcface
from map_pipeline.refine import Networks, Placement, Step, refine
from map_pipeline.report import ExpressionReport, FaceReport, RecogniserReport
from map_pipeline.targets import TargetBank, choose_target

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

FaceChoice = Literal["largest", "all"] | Sequence[Sequence[float]]
FAR = 0.01  # false accept rate of the field's verification protocol
# For ArcFace, whose weights come without thresholds for this protocol: near those of the field's
# ArcFace-style networks (.17 to .30 at FAR 1 %). It only scales a loss and never gives a verdict.
TYPICAL_THRESHOLD = 0.25
# Files of a checkpoint; Python and pickles are never fetched.
CHECKPOINT_PATTERNS = ["model_index.json", "*/*.json", "*/*.safetensors", "README.md"]


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


class View(NamedTuple):
    """One face as the networks see it: `[1,3,h,w]` in [0,1] and landmarks `[1,5,2]` px."""

    image: Tensor
    landmarks: Tensor


def bundled_checkpoint() -> Path:
    """Folder of the checkpoint that comes with the package."""
    return Path(str(resources.files("map_pipeline") / "checkpoint"))


class MAPPipeline(DiffusionPipeline):
    """Protects faces in photos by fine-tuning a score network towards another identity.

    Args:
        unet: score network of aligned face crops; `in_channels` = 3 p^2 for p x p pixel patches.
        scheduler: its noise schedule.
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
    """

    _optional_components = [  # noqa: RUF012 (diffusers reads this class attribute as a list)
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
        targets: TargetBank | None = None,
        dlib_resnet: FaceRecogniser | None = None,
        mobilefacenet: FaceRecogniser | None = None,
        faceres: FaceRecogniser | None = None,
        mobileface: FaceRecogniser | None = None,
        arcface: FaceRecogniser | None = None,
        mini_xception: ExpressionEncoder | None = None,
        face_api_expression: ExpressionEncoder | None = None,
        expression_encoder: TransformersExpressionEncoder | None = None,
        alignment_template: list[list[float]] | None = None,
        surrogates: list[str] | None = None,
        target_ranker: str | None = None,
        detector: str = "auto",
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
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
            CheckpointError: neither a Hub id nor a folder that holds a `model_index.json`.
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
        if "arcface" not in kwargs and (arcface := find_arcface()) is not None:
            kwargs["arcface"] = arcface
        return super().from_pretrained(str(path), **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a checkpoint from the Hub and return its local folder.

        diffusers refuses Hub repositories whose components live in an installed package; a plain
        snapshot of JSON and safetensors needs no remote code.
        """
        keys = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        chosen = {key: kwargs[key] for key in keys if kwargs.get(key) is not None}
        return snapshot_download(
            pretrained_model_name, allow_patterns=CHECKPOINT_PATTERNS, **chosen
        )

    @property
    def recognisers(self) -> dict[str, FaceRecogniser]:
        """The recognisers that are present, by component name."""
        return {k: v for k, v in self.components.items() if isinstance(v, FaceRecogniser)}

    @property
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""
        return list(self.config.surrogates or self.recognisers)

    @property
    def encoders(self) -> dict[str, ExpressionEncoder | TransformersExpressionEncoder]:
        """The expression networks that are present, by component name."""
        kinds = (ExpressionEncoder, TransformersExpressionEncoder)
        return {k: v for k, v in self.components.items() if isinstance(v, kinds)}

    @cached_property
    def face_detector(self) -> FaceDetector:
        """The detector named by the `detector` setting, loaded on first use."""
        return load_detector(self.config.detector)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        emotion: str = "happy",
        target: str | ImageInput = "auto",
        faces: FaceChoice = "largest",
        strength: float | None = None,
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
            strength: visible change that protection may cost, in (0,1]: the structural similarity
                of the aligned face may fall to `1 - CHANGE_AT_FULL_STRENGTH * strength`.
                Default 0.5.
            num_inversion_steps: network calls of the DDIM inversion, >= 2. Default 12.
            num_inference_steps: network calls of one generation, >= 2. Default 3.
            refine_steps: fine-tuning steps on each face, >= 0. Default 25.
            surrogates: names of the recognisers to tune on; default the checkpoint's setting.
            objectives: losses and weights; default `guidance.default_objectives()`.
            config: all other settings; arguments given here take precedence.
            generator: source of randomness; the same seed gives the same result.
            output_type: "pil", "np" (`uint8 [H,W,3]`) or "pt" (float `[3,H,W]` in [0,1]).
            return_dict: False returns the tuple `(images, reports)`.
            callback_on_step_end: called as `callback(pipe, step, steps, info)` after each of the
                `steps` optimisation steps of all faces; raise an exception in it to cancel.

        Returns:
            MAPPipelineOutput: photos of unchanged size, bit for bit the input outside the faces.

        Raises:
            InvalidImageError, NoFaceError, FaceTooSmallError, UnknownOptionError: see their texts.
            ValueError: a number outside its range.

        Examples:
        """
        # 0. Check everything that can be checked without running a network.
        config = self._resolve_config(
            config, strength, num_inversion_steps, num_inference_steps, refine_steps
        )
        surrogates = list(self.surrogates if surrogates is None else surrogates)
        self.check_inputs(emotion, surrogates, output_type)
        objectives = default_objectives() if objectives is None else objectives
        used = set(surrogates if active(objectives, "identity") else ())
        used |= set(self.encoders if active(objectives, "expression") else ())
        # Without one, `torch.manual_seed` decides, as in diffusers.
        generator = generator or torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        images = image if isinstance(image, list | tuple) else [image]

        # 1. Read the photos and find the faces to protect.
        photos = [to_array(load_image(one)) for one in images]
        chosen = [select_faces(self.face_detector.detect(photo), faces) for photo in photos]
        own_target = self._own_target(target)

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
                    face_target = own_target or self.built_in_target(
                        target, self.view(photo, face.landmarks)
                    )
                    result = self.protect_face(
                        result,
                        face,
                        EMOTIONS.index(emotion),
                        face_target,
                        surrogates,
                        objectives,
                        config,
                        generator,
                        on_step,
                    )
                    finished.append((face, face_target, time.perf_counter() - started))
                # 3. Measure on the finished photo, when all its faces are done.
                reports.append(
                    [
                        self.report_face(photo, result, face, emotion, face_target, used, seconds)
                        for face, face_target, seconds in finished
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

    def built_in_target(self, name: str, source: View) -> Target:
        """Look up a composite, or choose one for `source` if `name` is "auto"."""
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
            name = self.targets.names[choose_target(self.embed(source), stored, limits, ranker)]
        index = self.targets.index(name)
        return Target(name, {key: value[index : index + 1] for key, value in stored.items()})

    def embed(self, view: View) -> dict[str, Tensor]:
        """Recogniser name -> L2-normalised embedding `[1,D]` of a face."""
        return {k: net(view.image, view.landmarks).float() for k, net in self.recognisers.items()}

    def protect_face(
        self,
        photo: np.ndarray,
        face: Face,
        emotion: int,
        target: Target,
        surrogates: Sequence[str],
        objectives: Sequence[Objective],
        config: MAPConfig,
        generator: torch.Generator,
        on_step: Callable[[int, Step], None] | None = None,
    ) -> np.ndarray:
        """Protect one face of a photo `uint8 [H,W,3]` and return the changed photo.

        Args:
            face: a detected face of this photo.
            emotion: index in `EMOTIONS`.
        """
        device = self._execution_device
        landmarks = torch.as_tensor(face.landmarks)
        region = extract_region(uint8_tensor(photo), landmarks)
        size = diffusion.crop_size(self.unet)
        template = torch.tensor(self.config.alignment_template) * size
        in_region = Alignment.from_landmarks(region.landmarks, template, size)
        source_region = region.image.to(device)
        source_crop = warp_affine(
            source_region, in_region.crop_to_image[None].to(device), (size, size), "reflection"
        )
        placement = Placement(
            landmarks=region.landmarks[None].to(device),
            region_to_crop=in_region.image_to_crop[None].to(device),
            mask=feather_mask(size).to(device),
        )
        source = self.embed(View(source_region, placement.landmarks))
        tuned = {name: self.recognisers[name] for name in surrogates}
        goal = Goal(
            source_region=source_region,
            source_crop=source_crop,
            source_embeddings={name: source[name] for name in tuned},
            target_embeddings={name: target.embeddings[name] for name in tuned},
            thresholds={name: _working_threshold(net) for name, net in tuned.items()},
            emotion=emotion,
            ssim_budget=config.ssim_budget,
        )
        networks = Networks(self.unet, self.scheduler, tuned, self.encoders)
        residual = refine(networks, goal, placement, objectives, config, generator, on_step)
        in_photo = Alignment.from_landmarks(landmarks, template, size)
        return paste_residual(photo, residual.cpu(), in_photo, placement.mask.cpu())

    def report_face(
        self,
        before: np.ndarray,
        after: np.ndarray,
        face: Face,
        emotion: str,
        target: Target,
        used: Collection[str],
        seconds: float,
    ) -> FaceReport:
        """Measure one face on the finished photo, with landmarks found anew as a recogniser would.

        Args:
            before: `uint8 [H,W,3]` original; after: the protected photo.
            used: names of the networks that the optimisation differentiated through.
        """
        source = self.view(before, face.landmarks)
        result = self.view(after, self._landmarks_again(after, face))
        same_place = self.view(after, face.landmarks).image
        first, second = self.embed(source), self.embed(result)
        error = (same_place - source.image).square().mean()
        return FaceReport(
            box=tuple(float(v) for v in face.box),
            detector=self.face_detector.name,
            emotion=emotion,
            target=target.name,
            ssim=float(ssim(same_place, source.image)),
            psnr=float(-10 * error.log10()) if error > 0 else float("inf"),
            seconds=seconds,
            recognisers=[
                _recogniser_report(
                    name,
                    net,
                    name in used,
                    first[name],
                    second[name],
                    target.embeddings[name],
                )
                for name, net in self.recognisers.items()
            ],
            expressions=[
                ExpressionReport(
                    name=name,
                    title=net.config.title,
                    used_in_optimisation=name in used,
                    before=_probabilities(net, source),
                    after=_probabilities(net, result),
                )
                for name, net in self.encoders.items()
            ],
        )

    def _resolve_config(
        self,
        config: MAPConfig | None,
        strength: float | None,
        num_inversion_steps: int | None,
        num_inference_steps: int | None,
        refine_steps: int | None,
    ) -> MAPConfig:
        given = {
            "num_inversion_steps": num_inversion_steps,
            "num_inference_steps": num_inference_steps,
            "refine_steps": refine_steps,
        }
        if strength is not None:
            if not 0 < strength <= 1:
                raise ValueError(f"`strength` must be in (0, 1], got {strength}.")
            given["ssim_budget"] = 1 - CHANGE_AT_FULL_STRENGTH * strength
        given = {name: value for name, value in given.items() if value is not None}
        resolved = replace(config or MAPConfig(), **given)
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

    def _landmarks_again(self, photo: np.ndarray, face: Face) -> np.ndarray:
        """Landmarks of the detected face nearest to `face`; its own if it isn't found again."""
        found = self.face_detector.detect(photo)
        centre = face.landmarks.mean(0)
        distance = [float(np.linalg.norm(one.landmarks.mean(0) - centre)) for one in found]
        eye_distance = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
        if not distance or min(distance) > eye_distance:
            return face.landmarks
        return found[int(np.argmin(distance))].landmarks


def _working_threshold(net: FaceRecogniser) -> float:
    """Threshold that scales the losses; the typical one for a surrogate that has none."""
    return net.threshold(FAR) if net.config.thresholds else TYPICAL_THRESHOLD


def _recogniser_report(
    name: str, net: FaceRecogniser, used: bool, before: Tensor, after: Tensor, target: Tensor
) -> RecogniserReport:
    target_after, source_after = float(after[0] @ target[0]), float(after[0] @ before[0])
    limit = net.threshold(FAR) if net.config.thresholds else None
    return RecogniserReport(
        name=name,
        title=net.config.title,
        family=net.config.family,
        used_in_optimisation=used,
        thresholds=dict(net.config.thresholds),
        target_before=float(before[0] @ target[0]),
        target_after=target_after,
        source_after=source_after,
        impersonates=None if limit is None else target_after >= limit,
        no_longer_matches=None if limit is None else source_after < limit,
    )


def _probabilities(net: ExpressionEncoder, view: View) -> dict[str, float]:
    values = net(view.image, view.landmarks).float().softmax(-1)[0].tolist()
    return dict(zip(EMOTIONS, values, strict=True))


def _convert(photo: np.ndarray, output_type: str) -> PIL.Image.Image | np.ndarray | Tensor:
    if output_type == "pil":
        return to_pil(photo)
    return photo if output_type == "np" else to_tensor(photo)[0]
