"""Expression networks: an image and five landmarks in, seven emotion logits out.

Like a recogniser, an encoder owns its whole preprocessing. All classifiers answer in the order of
`EMOTIONS`, whatever the order of the network inside.
"""

# ruff: noqa: ARG002 (diffusers registers constructor arguments; they are read from self.config)

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import CheckpointError
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112, aligned_crop
from map_pipeline.graph.ensemble import Ensemble
from map_pipeline.graph.executor import GraphNetwork

# What other networks call the same seven.
SYNONYMS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "joy": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
}
# Crop of networks trained on FER-2013 (`expression_template`). Chosen with mini-Xception on 133
# labelled faces, 13 to 20 of each emotion: accuracy .47 here, .42 to .49 for zooms of 1.0 to 1.2.
FER_ZOOM, FER_RAISE = 1.1, 0.04
# ITU-R BT.601, as in OpenCV, which the grey training images were made with.
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def expression_template(size: int, zoom: float, raise_by: float = 0.0) -> list[list[float]]:
    """Five landmark positions (px) in a crop of `size` px for networks trained on other crops.

    Args:
        size: side of the crop, px.
        zoom: size of the face relative to ArcFace's crop, about the middle of the crop.
        raise_by: how much higher the face sits, as a share of the side.
    """
    unit = (ARCFACE_TEMPLATE_112 / 112 - 0.5) * zoom + 0.5
    unit = unit - torch.tensor([0.0, raise_by])
    return [[round(value, 4) for value in point] for point in (unit * size).tolist()]


def label_order(labels: Sequence[str]) -> list[int]:
    """Where each of `EMOTIONS` stands in a network's own `labels` (synonyms are understood)."""
    names = [label.strip().lower() for label in labels]
    names = [SYNONYMS.get(name, name) for name in names]
    missing = [emotion for emotion in EMOTIONS if emotion not in names]
    if missing:
        raise CheckpointError(
            f"`labels` must contain all of {', '.join(EMOTIONS)}, got {', '.join(labels)}: "
            f"{', '.join(missing)} missing."
        )
    return [names.index(emotion) for emotion in EMOTIONS]


def to_grey(images: Tensor) -> Tensor:
    """[B,3,H,W] RGB -> [B,1,H,W] luma."""
    weights = images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


class ExpressionClassifier(ModelMixin, ConfigMixin):
    """An expression network with its preprocessing.

    Args:
        nodes: the network up to its logits, see `map_pipeline.graph.executor`.
        title: name for people.
        labels: the network's classes, in its own order.
        input_size: side of the aligned crop in px.
        template: positions of the five landmarks in the crop, px.
        greyscale: whether the network takes one grey channel.
        mean: subtracted from each channel, on the 0..255 scale.
        std: what each channel is divided by afterwards.
        licence: licence of the weights.
        source: package and file they were converted from.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(
        self,
        nodes: Sequence[dict[str, Any]],
        title: str,
        labels: Sequence[str],
        input_size: int,
        template: Sequence[Sequence[float]],
        greyscale: bool = False,
        mean: Sequence[float] = (127.5, 127.5, 127.5),
        std: Sequence[float] = (127.5, 127.5, 127.5),
        licence: str = "",
        source: str = "",
    ) -> None:
        super().__init__()
        self.order = label_order(labels)
        self.network = GraphNetwork(nodes)

    def crop(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Aligned faces [B,3,S,S] RGB in [0,1], S = `input_size`.

        Args:
            images: [B,3,H,W] float, RGB in [0,1]; reduce large faces first, see `aligned_crop`.
            landmarks: [B,5,2] px.
        """
        return aligned_crop(images, landmarks, self.config.template, self.config.input_size)

    def classify(self, crops: Tensor) -> Tensor:
        """[B,3,S,S] RGB in [0,1], already aligned -> logits [B,7] float32."""
        size = self.config.input_size
        if crops.shape[1:] != (3, size, size):
            raise ValueError(f"`crops` must be [B,3,{size},{size}], got {list(crops.shape)}.")
        pixels = crops.float() * 255
        pixels = to_grey(pixels) if self.config.greyscale else pixels
        mean, std = (
            torch.tensor(value, device=crops.device).view(1, -1, 1, 1)
            for value in (self.config.mean, self.config.std)
        )
        logits = self.network(((pixels - mean) / std).to(self.dtype))
        return logits[:, self.order].float()

    def forward(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Logits [B,7] float32 in the order of `EMOTIONS`, differentiable in `images`.

        Args:
            images: [B,3,H,W] float, RGB in [0,1].
            landmarks: [B,5,2] px: eyes, nose tip, mouth corners, image left first.
        """
        return self.classify(self.crop(images, landmarks))


class TransformersExpressionClassifier(ModelMixin, ConfigMixin):
    """Any image classifier of transformers with the seven emotions, as an encoder.

    The processors of transformers work on PIL images and would cut the gradient, so their resize
    and normalisation are done here in torch.

    Args:
        classifier: the classifier's own configuration as a dictionary (`PretrainedConfig.to_dict`);
            its `id2label` names the emotions (synonyms are understood).
        title: name for people.
        size: (height, width) of its input in px.
        mean: subtracted from each channel, on the 0..1 scale.
        std: what each channel is divided by afterwards.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    # The face is cropped at this side and then resized to what the network wants.
    CROP_SIZE = 224

    @register_to_config
    def __init__(
        self,
        classifier: Mapping[str, Any],
        title: str,
        size: Sequence[int],
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        # Imported here: only this class needs transformers, an extra.
        from transformers import AutoConfig, AutoModelForImageClassification

        settings = dict(classifier)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.model = AutoModelForImageClassification.from_config(config)
        labels: dict[Any, str] = config.id2label or {}
        self.order = label_order([labels[index] for index in sorted(labels)])
        self.template = expression_template(self.CROP_SIZE, FER_ZOOM, FER_RAISE)

    @classmethod
    def from_classifier(
        cls, name_or_path: str | Path, **options: Any
    ) -> "TransformersExpressionClassifier":
        """Wrap a classifier, with the numbers of its preprocessor_config.json.

        Args:
            name_or_path: folder or Hub repository, such as "trpakov/vit-face-expression".
            options: passed on to `AutoModelForImageClassification.from_pretrained`.
        """
        from transformers import AutoModelForImageClassification, BaseImageProcessor

        model = AutoModelForImageClassification.from_pretrained(name_or_path, **options)
        settings, _ = BaseImageProcessor.get_image_processor_dict(name_or_path)
        normalise = settings.get("do_normalize", True)
        wrapped = cls(
            classifier=model.config.to_dict(),
            title=Path(name_or_path).name,
            size=image_size(settings.get("size", 224)),
            mean=settings.get("image_mean", [0.5] * 3) if normalise else [0.0] * 3,
            std=settings.get("image_std", [0.5] * 3) if normalise else [1.0] * 3,
        )
        wrapped.model = model
        return wrapped.eval()

    def classify(self, crops: Tensor) -> Tensor:
        """[B,3,S,S] RGB in [0,1], already aligned -> logits [B,7] float32."""
        pixels = crops.float()
        size = tuple(self.config.size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(
                pixels, size, mode="bilinear", align_corners=False, antialias=True
            )
        mean, std = (
            pixels.new_tensor(value).view(1, 3, 1, 1)
            for value in (self.config.mean, self.config.std)
        )
        logits = self.model(pixel_values=((pixels - mean) / std).to(self.model.dtype)).logits
        return logits[:, self.order].float()

    def forward(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Logits [B,7] float32 in the order of `EMOTIONS`, differentiable in `images`.

        Args:
            images: [B,3,H,W] float, RGB in [0,1].
            landmarks: [B,5,2] px: eyes, nose tip, mouth corners, image left first.
        """
        return self.classify(aligned_crop(images, landmarks, self.template, self.CROP_SIZE))


class ClassifierEnsemble(Ensemble):
    """The expression classifiers of a pipeline by name. All of them steer the expression."""

    __module__ = "map_pipeline"
    member_classes = ("ExpressionClassifier", "TransformersExpressionClassifier")


def mean_probabilities(
    classifiers: Iterable[ExpressionClassifier | TransformersExpressionClassifier],
    images: Tensor,
    landmarks: Tensor,
) -> Tensor:
    """Mean opinion `[B,7]` of several networks, in the order of `EMOTIONS`.

    Args:
        classifiers: at least one.
        images: `[B,3,H,W]` RGB in [0,1]; landmarks: `[B,5,2]` px.
    """
    return torch.stack([net(images, landmarks).softmax(-1) for net in classifiers]).mean(0)


def image_size(value: int | Mapping[str, int]) -> tuple[int, int]:
    """(height, width) from the `size` entry of a preprocessor_config.json, in all its spellings."""
    if isinstance(value, int):
        return value, value
    if "shortest_edge" in value:
        return value["shortest_edge"], value["shortest_edge"]
    return value["height"], value["width"]
