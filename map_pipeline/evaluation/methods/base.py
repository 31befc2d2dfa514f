"""What all protection methods share: their task, and the face and the target they work on.

Every method sees the face that `MAPPipeline` protects (the largest), the same target and, where it
looks through recognisers, the same surrogates on the same region of the photo.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from map_pipeline.diffusion.unet import crop_size
from map_pipeline.errors import NoFaceError
from map_pipeline.faces.align import (
    Alignment,
    FaceRegion,
    affine_scale,
    apply_affine,
    extract_region,
    warp_affine,
)
from map_pipeline.faces.detect import select_faces
from map_pipeline.faces.face import Face
from map_pipeline.faces.paste import feather_mask
from map_pipeline.identity.targets import Target
from map_pipeline.images import uint8_tensor
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Task:
    """One photo to protect.

    Attributes:
        photo: `uint8 [H,W,3]`.
        emotion: asked expression; methods that change none ignore it.
        target: picture of the target `uint8 [H,W,3]`, the name of a composite, "auto", or "none".
        surrogates: names of the recognisers that may be used in the optimisation.
        seed: of all randomness.
    """

    photo: np.ndarray
    emotion: str
    target: np.ndarray | str
    surrogates: tuple[str, ...]
    seed: int


class Method(Protocol):
    """A way to protect a photo.

    Attributes:
        name: how the command line calls it; title: what tables call it.
        surrogates: how many of the task's it looks at, the first ones; None for all.
    """

    name: str
    title: str
    surrogates: int | None

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:
        """Return the protected photo, `uint8 [H,W,3]` of the size of `task.photo`.

        Raises:
            MAPError: the photo can't be protected, e.g. `NoFaceError`.
        """
        ...


@dataclass(frozen=True)
class Unprotected:
    """The photo as it is: what every other method is compared with."""

    name: str = "none"
    title: str = "no protection"
    surrogates: ClassVar = 0

    def protect(self, pipe: MAPPipeline, task: Task) -> np.ndarray:  # noqa: ARG002 (interface)
        """Return a copy of the photo."""
        return task.photo.copy()


@dataclass(frozen=True)
class FacePlace:
    """Where the face to protect lies in its photo.

    Attributes:
        face: as detected.
        region: its surroundings, reduced as for MAP's losses.
        crop_size: side of MAP's face crop, px; template: `[5,2]`, its landmarks, px.
    """

    face: Face
    region: FaceRegion
    crop_size: int
    template: Tensor

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes in photo px, of the fitted face: the measure of its size.

        The template's proportions are fixed, so a turned head isn't taken for a small one.
        """
        crop_to_photo = self._alignment(self.face.landmarks).crop_to_image
        return float(affine_scale(crop_to_photo) * (self.template[1] - self.template[0]).norm())

    def mask_in_region(self) -> Tensor:
        """Which pixels of the region MAP may change: 0 or 1, `[1,1,h,w]` float32."""
        height, width = self.region.image.shape[-2:]
        return self._mask(self.region.landmarks, (height, width))

    def mask_in_box(self) -> np.ndarray:
        """The same for `region.box` in the full-resolution photo: bool `[y1-y0,x1-x0]`."""
        x0, y0, x1, y1 = self.region.box
        landmarks = self.face.landmarks - np.float32([x0, y0])
        return self._mask(landmarks, (y1 - y0, x1 - x0))[0, 0].numpy() > 0

    def _alignment(self, landmarks: Tensor | np.ndarray) -> Alignment:
        return Alignment.from_landmarks(torch.as_tensor(landmarks), self.template, self.crop_size)

    def _mask(self, landmarks: Tensor | np.ndarray, size: tuple[int, int]) -> Tensor:
        # All of the feathered area, at full budget: comparisons shall not suffer from our feather.
        image_to_crop = self._alignment(landmarks).image_to_crop[None]
        return (warp_affine(feather_mask(self.crop_size), image_to_crop, size) > 0).float()


def find_face(pipe: MAPPipeline, photo: np.ndarray) -> FacePlace:
    """Find the face of a photo `uint8 [H,W,3]` that `MAPPipeline` would protect.

    Raises:
        NoFaceError, FaceTooSmallError: there is none.
    """
    [face] = select_faces(pipe.face_detector.detect(photo), "largest")
    size = crop_size(pipe.unet)
    return FacePlace(
        face=face,
        region=extract_region(uint8_tensor(photo), torch.as_tensor(face.landmarks)),
        crop_size=size,
        template=torch.tensor(pipe.config.alignment_template) * size,
    )


def find_shape(pipe: MAPPipeline, photo: np.ndarray, place: FacePlace) -> Tensor:
    """The 68 landmarks `[68,2]` of a face, px of its region.

    Raises:
        NoFaceError: they can't be found.
    """
    shape = place.face.landmarks68
    if shape is None:
        shape = pipe.stages.landmark_finder.find_aligned(photo, place.face.landmarks)
    if shape is None:
        raise NoFaceError("`image` must show a face whose 68 landmarks can be found, got none.")
    return apply_affine(place.region.photo_to_region, torch.as_tensor(shape))


@torch.no_grad()
def find_target(pipe: MAPPipeline, task: Task, place: FacePlace) -> Target | None:
    """The target of a task, as `MAPPipeline` would choose it for this face; None for "none".

    Raises:
        NoFaceError: the target's picture shows no face.
        UnknownOptionError: there is no composite of that name.
    """
    choice = pipe.read_target(task.target)
    source = {}
    if choice.name == "auto":
        source = pipe.embed(pipe.view(task.photo, place.face.landmarks))
    return pipe.target_of(choice, source, task.surrogates)
