"""The 68 facial landmarks (iBUG order) of a face box, from the bundled 64 x 64 px network.

A first look at the box's square gives rough landmarks. Further looks straighten the face by them,
which makes the result independent of roll and of how tightly the box fits, and average each look
with its mirror image. The first look is repeated at other rolls, up to upside down, until one leads
to landmarks that agree with their mirror image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from map_pipeline.faces.align import (
    affine_scale,
    apply_affine,
    bounding_box,
    compose_affine,
    crop_resize_affine,
    reduce_antialiased,
    similarity_transform,
    square_corners,
    warp_affine,
)
from map_pipeline.faces.boxes import OnnxNetwork

CROP_SIZE = 64
# Where the straightened looks put the five points, px of the crop. Position and scale chosen on
# 100 CelebA-HQ faces against dlib's 68 points (minimum of the mean error, flat around it).
CROP_TEMPLATE = torch.tensor([[20.4, 18.4], [42.6, 18.4], [31.5, 31.2], [21.6, 41.7], [41.4, 41.7]])
# The first look's square: the box's longer side, moved down by this share of it (chosen likewise).
BOX_SHIFT = 0.05
STRAIGHT_LOOKS = 2  # one is enough up to 30 degrees of roll, the second helps at 45
# Roll of the first look's square, degrees: the next is tried where the last left a doubt. The box
# network also finds people who lie on their side (3 of 4) or hang upside down.
FIRST_ROLLS = (0, 35, -35, 180, 90, -90)
# Disagreement of the landmarks with their mirror image, in eye distances. On CelebA-HQ faces, also
# small, dark or compressed ones, the right ones stay below 0.05 (0.065 at 45 degrees of roll); a
# cat, grass, logos and most badly placed boxes of the detector lie between 0.075 and 0.6. Eyes that
# are found on the mouth of a face upside down reach 0.036; 97 of 100 upright faces stay below.
GOOD_UNCERTAINTY = 0.035
MAX_UNCERTAINTY = 0.07
# A doubtful face is looked at from boxes that are moved (down, of the side) and scaled. Landmarks
# of faces end within 0.02 eye distances of the first ones (0.1 if it's half hidden), those of an
# eye or a lock of hair are mostly 0.2 to 1 off.
STEADY_BOXES = ((0.15, 1.0), (-0.15, 1.0), (0.0, 1.3), (0.0, 0.8))
STEADY_DISTANCE = 0.15
# The photo is kept this many times finer than the crop: the network likes its input crisp.
OVERSAMPLING = 2.0
# The outer lips, and both eyes, among the 68.
MOUTH, EYES = slice(48, 60), (slice(36, 42), slice(42, 48))
# Eyes, nose tip and mouth corners among the 68, as index ranges.
_LEFT_EYE, _RIGHT_EYE, _NOSE_TIP, _MOUTH_LEFT, _MOUTH_RIGHT = (
    slice(36, 42),
    slice(42, 48),
    30,
    48,
    54,
)
# Index of each point's counterpart in the mirror image.
MIRRORED = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *range(27, 31),  # bridge of the nose
        *range(35, 30, -1),  # nostrils
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *range(54, 47, -1),  # upper lip, outside
        *range(59, 54, -1),  # lower lip, outside
        *range(64, 59, -1),  # upper lip, inside
        *(67, 66, 65),  # lower lip, inside
    ]
)


class LandmarkFinder:
    """Finds the 68 landmarks of one face at a time."""

    def __init__(self) -> None:
        self._network = OnnxNetwork("landmarks68.onnx")

    def find(
        self, photo: np.ndarray, box: np.ndarray, max_turned: float = GOOD_UNCERTAINTY
    ) -> tuple[np.ndarray, float] | None:
        """Return the landmarks `[68, 2]` (float32 photo px) and their uncertainty, see `_look`.

        None if the box holds no face.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            box: x0, y0, x1, y1 photo px.
            max_turned: what the uncertainty of a face that lies on its side may be, or upside down.
        """
        best, least = None, MAX_UNCERTAINTY
        for roll in FIRST_ROLLS:
            landmarks68, uncertainty = self._find_from(photo, _box_crop(box, roll))
            if uncertainty < least and (
                abs(roll) < 90
                or (uncertainty < max_turned and self.is_steady(photo, box, landmarks68, roll))
            ):
                best, least = landmarks68, uncertainty
            if least < GOOD_UNCERTAINTY:
                break
        return None if best is None else (best, least)

    def is_steady(
        self, photo: np.ndarray, box: np.ndarray, landmarks68: np.ndarray, roll: float = 0
    ) -> bool:
        """Whether other boxes of the same face lead to the same landmarks.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            box: x0, y0, x1, y1 photo px.
            landmarks68: what it led to, `[68, 2]` photo px.
            roll: of the first look, degrees.
        """
        known = five_points(landmarks68)
        limit = STEADY_DISTANCE * np.linalg.norm(known[1] - known[0])
        for shift, scale in STEADY_BOXES:
            other, _ = self._find_from(photo, _box_crop(box, roll, shift, scale))
            if np.linalg.norm(five_points(other) - known, axis=1).mean() > limit:
                return False
        return True

    def glance(self, photo: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Rough landmarks `[68, 2]` of an upright face, right or not, and their uncertainty.

        It takes a third of the time of `find`.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            box: x0, y0, x1, y1 photo px.
        """
        return self._look(photo, _box_crop(box, 0))

    def find_aligned(self, photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """Return the landmarks `[68, 2]` of a face whose five points are known, or None.

        Cheaper than `find`, and independent of the detector that found the face.

        Args:
            photo: uint8 RGB `[H, W, 3]`.
            landmarks: `[5, 2]` photo px: eyes, nose tip, mouth corners, image left first.
        """
        start = similarity_transform(CROP_TEMPLATE, torch.as_tensor(landmarks)[None].float())[0]
        landmarks68, uncertainty = self._look(photo, start)
        return landmarks68 if uncertainty < MAX_UNCERTAINTY else None

    def _find_from(self, photo: np.ndarray, crop_to_photo: Tensor) -> tuple[np.ndarray, float]:
        """Landmarks and their uncertainty, starting with a look at this crop."""
        landmarks68, uncertainty = self._look(photo, crop_to_photo)
        for _ in range(STRAIGHT_LOOKS):
            rough = torch.from_numpy(five_points(landmarks68))
            crop_to_photo = similarity_transform(CROP_TEMPLATE, rough)
            landmarks68, uncertainty = self._look(photo, crop_to_photo)
        return landmarks68, uncertainty

    def _look(self, photo: np.ndarray, crop_to_photo: Tensor) -> tuple[np.ndarray, float]:
        """Landmarks in photo px from one crop and its mirror image, and their uncertainty.

        That is the mean distance between the two answers as a share of the eyes' distance.
        """
        crop = _grey_crop(photo, crop_to_photo)
        plain, mirrored = self._predict(crop), self._predict(crop.flip(-1))
        mirrored = mirrored[MIRRORED]
        mirrored[:, 0] = CROP_SIZE - 1 - mirrored[:, 0]
        landmarks68 = (plain + mirrored) / 2
        eyes = five_points(landmarks68)[:2]
        distance = np.linalg.norm(plain - mirrored, axis=1).mean()
        uncertainty = float(distance / max(np.linalg.norm(eyes[1] - eyes[0]), 1e-3))
        return apply_affine(crop_to_photo, torch.from_numpy(landmarks68)).numpy(), uncertainty

    def _predict(self, crop: Tensor) -> np.ndarray:
        """Landmarks `[68, 2]` in px of a grey crop `[1, 1, 64, 64]` in 0..255."""
        (output,) = self._network((crop / 256).numpy())
        return output.reshape(68, 2) * CROP_SIZE - 0.5  # the net counts from the crop's edge


def five_points(landmarks68: np.ndarray) -> np.ndarray:
    """Eye centres, nose tip and mouth corners `[...,5,2]` of the 68 points `[...,68,2]`."""
    eyes = [landmarks68[..., eye, :].mean(-2) for eye in (_LEFT_EYE, _RIGHT_EYE)]
    others = [landmarks68[..., point, :] for point in (_NOSE_TIP, _MOUTH_LEFT, _MOUTH_RIGHT)]
    return np.stack([*eyes, *others], -2)


def _box_crop(box: np.ndarray, roll: float, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """`crop_to_photo` `[2, 3]` of the square around a box, turned by `roll` degrees.

    Args:
        box: x0, y0, x1, y1 photo px.
        roll: degrees.
        shift: how far it's moved down, of its side.
        scale: its side, of the box's.
    """
    side = float(max(box[2] - box[0], box[3] - box[1]))
    angle = math.radians(roll)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre = torch.tensor([float(box[0] + box[2]), float(box[1] + box[3])]) / 2 - 0.5
    # Towards the chin, which for a tilted face is still at the bottom of the box.
    quarters = math.radians(90 * round(roll / 90))
    centre[0] -= math.sin(quarters) * BOX_SHIFT * side
    centre[1] += (math.cos(quarters) * BOX_SHIFT + shift) * side
    linear = turn * (side * scale / CROP_SIZE)
    return torch.cat([linear, (centre - linear.sum(1) * (CROP_SIZE - 1) / 2)[:, None]], 1)


def _grey_crop(photo: np.ndarray, crop_to_photo: Tensor) -> Tensor:
    """The crop `[1, 1, 64, 64]` in 0..255, without aliasing; the photo's edge is repeated."""
    centre = (CROP_SIZE - 1) / 2
    corners = apply_affine(crop_to_photo, square_corners((centre, centre), CROP_SIZE / 2))
    x0, y0, x1, y1 = bounding_box(corners, photo.shape[1], photo.shape[0])
    grey = photo[y0:y1, x0:x1].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    factor = OVERSAMPLING / float(affine_scale(crop_to_photo))
    reduced, scale = reduce_antialiased(torch.from_numpy(grey)[None, None], factor)
    crop_to_reduced = compose_affine(crop_to_photo, crop_resize_affine((x0, y0), scale))
    return warp_affine(reduced, crop_to_reduced[None], (CROP_SIZE, CROP_SIZE), "border")
