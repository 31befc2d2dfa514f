"""`MAPPipeline.edit_expression`: another expression alone, without protection."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from map_pipeline.config import EMOTIONS, MAPConfig, check_emotion
from map_pipeline.copying import ShownExpression, picture_name
from map_pipeline.errors import CheckpointError, NoFaceError, naming_photo
from map_pipeline.expression.action_units import check_action_units
from map_pipeline.expression.classifiers import ClassifierEnsemble, mean_probabilities
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
    expression_classifiers: ClassifierEnsemble
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
        expression_of: ImageInput | ShownExpression | None = None,
    ) -> list[Image.Image]:
        """Give faces another expression without protecting them; nothing in it is random.

        Args:
            image: a photo or a list of them, as for a protection.
            emotion: one of `EXPRESSIONS`.
            strength: how far the expression is changed, 0 to 1 (as far as people do) or 1.5.
            faces: which ones, as for a protection. Half hidden ones stay as they are.
            action_units: single movements besides the emotion, such as `{"smile": 0.5}`; see
                `expression.action_units.ACTION_UNITS`.
            expression_of: another photo, whose largest face's expression is copied in place of the
                emotion, or what `read_expression` made of it; best one of the same person.

        Returns:
            Photos of unchanged size, RGB, or RGBA where they are transparent; bit for bit the
            input outside the faces.

        Raises:
            CheckpointError: the checkpoint can't edit expressions.
            InvalidImageError, NoFaceError, FaceTooSmallError, UnknownOptionError: see their texts.
        """
        choice, edited = check_choice(faces), []
        shown = None if expression_of is None else self.read_expression(expression_of)
        images, names = name_photos(image)
        for one, name in zip(images, names, strict=True):
            with naming_photo(name):
                read = load_photo(one)
                photo = to_array(read.pixels)  # [H,W,3]
                after = photo
                for face in select_faces(self.find_faces(photo), choice):
                    model = None if shown is None else self.model_for(shown, photo, face)
                    after = self.express_faces(
                        after,
                        self.prepare_faces(photo, [face]),
                        emotion,
                        strength,
                        action_units,
                        model,
                    )
                edited.append(as_picture(after, photo, read.cutout))
        self.maybe_free_model_hooks()
        return edited

    @torch.no_grad()
    def read_expression(self, photo: ImageInput | ShownExpression) -> ShownExpression:
        """The expression of the largest face of a photo, to copy it to faces of others.

        Read once, it serves for any number of calls.

        Raises:
            CheckpointError: the checkpoint can't edit expressions.
            NoFaceError: the photo shows no face, or only a half hidden one.
        """
        if isinstance(photo, ShownExpression):
            return photo
        self._check_editor()
        with naming_photo("`expression_of`"):
            pixels = to_array(load_photo(photo).pixels)
            [face] = select_faces(self.find_faces(pixels), "largest")
        prepared = self.prepare_faces(pixels, [face])
        if not prepared:
            raise NoFaceError("`expression_of` must show a face that isn't half hidden.")
        view, emotion = self.view(pixels, face.landmarks), None
        if len(self.expression_classifiers):
            seen = mean_probabilities(self.expression_classifiers.values(), *view)[0]
            emotion = EMOTIONS[int(seen.argmax())]
        return ShownExpression(picture_name(photo), prepared[0], self.embed(view), emotion)

    @torch.no_grad()
    def model_for(self, shown: ShownExpression, photo: np.ndarray, face: Face) -> ExpressionModel:
        """What is copied to a face of a photo `uint8 [H,W,3]`."""
        return shown.model_for(self.embed(self.view(photo, face.landmarks)), self.recognisers)

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
        self._check_editor()
        stages = self.stages
        for face in faces:
            edit = stages.edit(face, emotion, strength, action_units or {}, model)
            photo = apply_edit(photo, face.alignment, edit, feather_mask(face.alignment.size))
        return photo

    def _check_editor(self) -> None:
        if self.stages.face_mesh is None or self.stages.expression_space is None:
            raise CheckpointError(
                "`checkpoint` must have a face mesh and an expression space to edit expressions."
            )
