"""Networks that don't ship with this package and judge how alike two expressions are.

Each maps a face to numbers `[N]`; the smaller their Euclidean distance, the more alike.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from map_pipeline.errors import CheckpointError
from map_pipeline.evaluation.features import SIDE, TEMPLATE, FeatureNetwork, crop_at
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    compose_affine,
    similarity_transform,
)
from map_pipeline.faces.landmarks import five_points

Judge = Callable[[np.ndarray, Tensor], Tensor]
"""A photo `uint8 [H,W,3]` and its 68 landmarks px in, numbers `[N]` out."""

# The 146 of 478 landmarks that MediaPipe's blendshape network takes (Apache-2.0,
# mediapipe/tasks/cc/vision/face_landmarker/face_blendshapes_graph.cc).
# fmt: off
BLENDSHAPE_POINTS = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66,
    67, 70, 78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144,
    145, 146, 148, 149, 150, 152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173,
    176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284,
    285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332,
    334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473,
    474, 475, 476, 477,
)
# fmt: on
NO_EXPRESSION = (0, *range(11, 19))  # among the 52: a constant, and where the eyes look
MESH_SIDE, MESH_MARGIN = 256, 1.5  # px of the mesh's crop, and its side as a multiple of the face
MESH_LOOKS = 2  # the first shows where the face lies

# Eyes with brows, and the mouth, as shares of the features' crop, which ArcFace's template fills:
# left, top, right, bottom.
PARTS = ((0.16, 0.28, 0.84, 0.58), (0.22, 0.66, 0.78, 1.0))


def blendshapes(path: Path) -> Judge:
    """MediaPipe's blendshapes in [0,1] but for the eyes' direction, from `face_landmarker.task`.

    It needs the package `ai-edge-litert`.

    Raises:
        CheckpointError: it isn't that file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = ("face_landmarks_detector.tflite", "face_blendshapes.tflite")
            contents = [archive.read(name) for name in names]
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(
            f"`blendshapes` must be MediaPipe's face_landmarker.task, got {path} ({error})."
        ) from None
    from ai_edge_litert.interpreter import Interpreter

    networks = [Interpreter(model_content=content) for content in contents]
    for network in networks:
        network.allocate_tensors()

    def ask(network: Interpreter, values: np.ndarray) -> np.ndarray:
        network.set_tensor(network.get_input_details()[0]["index"], values)
        network.invoke()
        return network.get_tensor(network.get_output_details()[0]["index"])

    def judge(photo: np.ndarray, landmarks68: Tensor) -> Tensor:
        template = ARCFACE_TEMPLATE_112 * (MESH_SIDE / 2 / 112) + MESH_SIDE / 4
        five = torch.from_numpy(five_points(landmarks68.numpy()))
        crop_to_photo = similarity_transform(template, five)
        for _ in range(MESH_LOOKS):
            crop = crop_at(photo, five, crop_to_photo, MESH_SIDE)
            output = ask(networks[0], crop.permute(0, 2, 3, 1).contiguous().numpy())
            mesh = output.reshape(-1, 3)[:, :2]
            low, high = mesh.min(0), mesh.max(0)
            scale = float((high - low).max()) * MESH_MARGIN / MESH_SIDE
            corner = torch.from_numpy((low + high) / 2 - scale * (MESH_SIDE - 1) / 2)
            next_to_crop = torch.cat([torch.eye(2) * scale, corner[:, None]], 1)
            crop_to_photo = compose_affine(next_to_crop, crop_to_photo)
        values = ask(networks[1], mesh[None, list(BLENDSHAPE_POINTS)])
        return torch.from_numpy(np.delete(values, NO_EXPRESSION))

    return judge


def part_features() -> Judge:
    """Features of eyes and mouth, see `FeatureNetwork`; each of its blocks has the same weight."""
    network = FeatureNetwork()

    def judge(photo: np.ndarray, landmarks68: Tensor) -> Tensor:
        five = torch.from_numpy(five_points(landmarks68.numpy()))
        # The mouth is what moves, so eyes and nose alone say where the face is.
        crop = crop_at(photo, five, similarity_transform(TEMPLATE[:3], five[:3]), SIDE)
        maps, _ = network.see(crop)
        return torch.cat([_part(one, box) for one in maps for box in PARTS])

    return judge


def _part(maps: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """What lies in a box of `[1,C,s,s]`, flat; the mean over its positions has weight 1."""
    left, top, right, bottom = (round(share * maps.shape[-1]) for share in box)
    part = maps[..., top:bottom, left:right]
    return part.flatten() / part[0, 0].numel() ** 0.5
