"""`MAPPipeline.edit_expression`: another expression alone, without protection."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from map_pipeline.config import FAR, MAPConfig
from map_pipeline.errors import CheckpointError, NoFaceError, naming_photo
from map_pipeline.expression.action_units import check_action_units
from map_pipeline.expression.composed import check_emotion
from map_pipeline.expression.editor import EditableFace, ExpressionModel, apply_edit
from map_pipeline.faces.detect import FaceChoice, check_choice, select_faces
from map_pipeline.faces.face import Face
from map_pipeline.faces.paste import feather_mask
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.images import ImageInput, as_picture, load_photo, to_array
from map_pipeline.measure import View
from map_pipeline.photos import name_photos
from map_pipeline.stages import FaceStages


class EditingMixin:
    """The expression editor of `MAPPipeline`; stands before `DiffusionPipeline`."""

    # Of the pipeline itself.
    find_faces: Callable[[np.ndarray], list[Face]]
    view: Callable[[np.ndarray, np.ndarray], View]
    embed: Callable[[View], dict[str, Tensor]]
    recognisers: RecogniserEnsemble
    maybe_free_model_hooks: Callable[[], None]

    @property
    @abstractmethod
    def stages(self) -> FaceStages:
        """The stages of one face."""

    def edit_expression(
        self,
        image: ImageInput | Sequence[ImageInput],
        emotion: str = "happy",
        strength: float = MAPConfig.expression_strength,
        faces: FaceChoice | None = "largest",
        action_units: Mapping[str, float] | None = None,
        expression_of: ImageInput | None = None,
    ) -> list[Image.Image]:
        """Give faces another expression without protecting them; nothing in it is random.

        Args:
            image: a photo or a list of them, as for a protection.
            emotion: one of `EMOTIONS`.
            strength: how far the expression is changed, 0 to 1 (as far as people do) or 1.5.
            faces: which ones, as for a protection. Half hidden ones stay as they are.
            action_units: single movements besides the emotion, such as `{"smile": 0.5}`; see
                `expression.action_units.ACTION_UNITS`.
            expression_of: another photo, whose largest face's expression is copied in place of the
                emotion; best one of the same person.

        Returns:
            Photos of unchanged size, RGB, or RGBA where they are transparent; bit for bit the
            input outside the faces.

        Raises:
            CheckpointError: the checkpoint can't edit expressions.
            InvalidImageError, NoFaceError, FaceTooSmallError, UnknownOptionError: see their texts.
        """
        choice, edited = check_choice(faces), []
        other = None if expression_of is None else to_array(load_photo(expression_of).pixels)
        images, names = name_photos(image)
        for one, name in zip(images, names, strict=True):
            with naming_photo(name):
                read = load_photo(one)
                photo = to_array(read.pixels)  # [H,W,3]
                chosen = select_faces(self.find_faces(photo), choice)
                model = None if other is None else self.expression_model(other, photo, chosen[0])
                prepared = self.prepare_faces(photo, chosen)
                after = self.express_faces(photo, prepared, emotion, strength, action_units, model)
                edited.append(as_picture(after, photo, read.cutout))
        self.maybe_free_model_hooks()
        return edited

    @torch.no_grad()
    def expression_model(self, other: np.ndarray, photo: np.ndarray, face: Face) -> ExpressionModel:
        """The largest face of a photo `uint8 [H,W,3]`, to copy its expression to a face of another.

        It's the same person if most recognisers say so.

        Raises:
            NoFaceError: the other photo shows no face, or only a half hidden one.
        """
        with naming_photo("`expression_of`"):
            [shown] = select_faces(self.find_faces(other), "largest")
        prepared = self.prepare_faces(other, [shown])
        if not prepared:
            raise NoFaceError("`expression_of` must show a face that isn't half hidden.")
        first = self.embed(self.view(photo, face.landmarks))
        second = self.embed(self.view(other, shown.landmarks))
        matches = [
            float((first[name] * second[name]).sum()) >= net.threshold(FAR)
            for name, net in self.recognisers.items()
        ]
        return ExpressionModel(prepared[0], 2 * sum(matches) > len(matches))

    @torch.no_grad()
    def prepare_faces(self, photo: np.ndarray, faces: Sequence[Face]) -> list[EditableFace]:
        """What an edit needs of faces of a photo `uint8 [H,W,3]`; half hidden ones are left out."""
        stages = self.stages
        found = [stages.editable(photo, stages.align(face)) for face in faces]
        return [face for face in found if face is not None]

    @torch.no_grad()
    def express_faces(
        self,
        photo: np.ndarray,
        faces: Sequence[EditableFace],
        emotion: str,
        strength: float,
        action_units: Mapping[str, float] | None = None,
        model: ExpressionModel | None = None,
    ) -> np.ndarray:
        """The photo `uint8 [H,W,3]` with another expression of faces from `prepare_faces`.

        Raises:
            CheckpointError: the checkpoint can't edit expressions.
            UnknownOptionError: there is no such emotion or action unit, or a number is out of its
                range.
        """
        check_emotion(emotion)
        MAPConfig(expression_strength=strength)  # which checks it
        check_action_units(action_units or {})
        stages = self.stages
        if stages.face_mesh is None or stages.expression_space is None:
            raise CheckpointError(
                "`checkpoint` must have a face mesh and an expression space to edit expressions."
            )
        for face in faces:
            edit = stages.edit(face, emotion, strength, action_units or {}, model)
            photo = apply_edit(photo, face.alignment, edit, feather_mask(face.alignment.size))
        return photo
