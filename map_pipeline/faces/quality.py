"""Why a found face can't be protected well: reported before anybody relies on the result.

Recognisers and expression networks were trained on whole faces that look roughly at the camera.
Outside of that what they measure means little, so a good verdict would promise too much. The limits
are set on 200 CelebA-HQ photos of many poses, of which none is named, and on these with plain masks
and dark glasses painted on, cut or made small, of which most are. A cover with a pattern and a hand
before the face often go unnoticed.
"""

from __future__ import annotations

import numpy as np
import torch

from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    affine_scale,
    apply_affine,
    similarity_transform,
)
from map_pipeline.faces.face import MIN_FACE_SIDE, Face, turn_face

# Distance between the eyes, px, of a face of `MIN_FACE_SIDE` px: .44 of the box on CelebA-HQ.
MIN_EYE_DISTANCE = 0.44 * MIN_FACE_SIDE
# How far the nose tip lies off the middle of eyes and mouth, in eye distances. It stands out before
# them by about .39 of these (the usual generic 3D head), so this is a turn of some 50 degrees.
MAX_NOSE_OFFSET = 0.45
# Share of the recognisers' crop that lies outside the photo, where there is nothing to see.
MAX_CUT_OFF = 0.15
# The bundled detector gives .99 and more to clear faces; SCRFD's scores aren't comparable.
MIN_BUNDLED_SCORE = 0.95
# Landmarks that disagree more with their mirror image, in eye distances, are mostly of half
# profiles and may lie beside the face; 99 of 100 disagree less.
MAX_CLEAR_UNCERTAINTY = 0.055
# Spread of the brightness relative to its mean within an eye and the mouth. Faces reach .12 and .06
# even blurred or overexposed; plain sunglasses, masks and hair stay below.
MIN_EYE_DETAIL, MIN_MOUTH_DETAIL = 0.08, 0.045
# Half width and height of the patch around an eye or the mouth, in eye distances.
PATCH = (0.35, 0.25)
TEMPLATE_EYE_DISTANCE = float(torch.dist(ARCFACE_TEMPLATE_112[0], ARCFACE_TEMPLATE_112[1]))
BLACK_LEVEL = 4.0  # keeps the relative spread of black patches, grey values, from being noise


def quality_issues(face: Face, photo: np.ndarray) -> tuple[str, ...]:
    """Plain-word reasons why a face can't be protected well; empty for a clear face.

    Args:
        face: a face found in `photo`.
        photo: uint8 RGB `[H, W, 3]`.
    """
    # The patches around eyes and mouth are wider than high, so the face must stand upright.
    face, photo = turn_face(face, face.turns, photo), np.rot90(photo, face.turns)
    landmarks = np.asarray(face.landmarks, np.float32)
    template_to_photo = similarity_transform(
        ARCFACE_TEMPLATE_112, torch.from_numpy(landmarks)[None]
    )[0]
    scale = float(affine_scale(template_to_photo))
    eye_distance = scale * TEMPLATE_EYE_DISTANCE  # of the fitted face: a turn doesn't shorten it
    problems = []
    if min(face.size) < MIN_FACE_SIDE or eye_distance < MIN_EYE_DISTANCE:
        problems.append(f"too small: {eye_distance:.0f} px between the eyes")
    if nose_offset(landmarks) > MAX_NOSE_OFFSET:
        problems.append("turned to the side")
    cut_off = share_outside(template_to_photo, photo.shape[1], photo.shape[0])
    if cut_off > MAX_CUT_OFF:
        problems.append(f"cut off by the edge of the photo: {cut_off:.0%} of it is missing")
    if _hidden(face, landmarks, eye_distance, photo):
        problems.append("partly hidden or hard to make out")
    return tuple(problems)


def nose_offset(landmarks: np.ndarray) -> float:
    """How far the nose tip lies off the line from the eyes' to the mouth's middle, >= 0.

    In distances between the eyes, along their line; about 0 for a face that looks at the camera.

    Args:
        landmarks: `[5, 2]` px: eyes, nose tip, mouth corners, image left first.
    """
    eyes = landmarks[1] - landmarks[0]
    middle = (landmarks[:2].mean(0) + landmarks[3:].mean(0)) / 2
    return abs(float((landmarks[2] - middle) @ eyes) / max(float(eyes @ eyes), 1e-6))


def share_outside(template_to_photo: torch.Tensor, width: int, height: int) -> float:
    """Share in [0, 1] of the recognisers' crop that lies outside a photo.

    Args:
        template_to_photo: affine `[2, 3]` from `ARCFACE_TEMPLATE_112`.
        width: of the photo, px; height: likewise.
    """
    ticks = torch.linspace(0, 112, 29)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
    x, y = apply_affine(template_to_photo, grid).unbind(-1)
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    return 1 - float(inside.float().mean())


def _hidden(face: Face, landmarks: np.ndarray, eye_distance: float, photo: np.ndarray) -> bool:
    if face.landmarks68 is not None and face.score < MIN_BUNDLED_SCORE:
        return True
    if face.uncertainty > MAX_CLEAR_UNCERTAINTY:
        return True
    eyes = [_detail(photo, eye, eye_distance) for eye in landmarks[:2]]
    mouth = _detail(photo, landmarks[3:].mean(0), eye_distance)
    return min(eyes) < MIN_EYE_DETAIL or mouth < MIN_MOUTH_DETAIL


def _detail(photo: np.ndarray, centre: np.ndarray, eye_distance: float) -> float:
    """Spread of the brightness around `centre` relative to its mean; 0 outside the photo."""
    reach = np.array(PATCH) * eye_distance
    x0, y0 = np.maximum(centre - reach, 0).astype(int)
    x1, y1 = (centre + reach).astype(int) + 1
    patch = photo[y0 : max(y1, 0), x0 : max(x1, 0)].astype(np.float32)
    if not patch.size:
        return 0.0
    grey = patch @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(grey.std() / (grey.mean() + BLACK_LEVEL))
