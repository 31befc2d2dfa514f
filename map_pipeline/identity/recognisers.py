"""Face recognisers: an image and five landmarks in, a comparable embedding out.

A recogniser owns its whole preprocessing (alignment, crop, channel order, normalisation) and the
thresholds at which it takes two faces for the same person, so that optimisation and evaluation
can't disagree about either.
"""

# ruff: noqa: ARG002 (diffusers registers constructor arguments; they are read from self.config)

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from map_pipeline.errors import CheckpointError, UnknownOptionError
from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    aligned_crop,
)
from map_pipeline.faces.detect import insightface_folder
from map_pipeline.graph.ensemble import Ensemble
from map_pipeline.graph.executor import GraphNetwork

logger = logging.getLogger(__name__)


class FaceRecogniser(ModelMixin, ConfigMixin):
    """A face recognition network with its preprocessing and thresholds.

    Args:
        nodes: the network, see `map_pipeline.graph.executor`.
        title: name for people, such as "dlib ResNet-29".
        family: recognisers of one family (such as "mobilefacenet") were trained alike; a test on a
            black box should come from a family that wasn't optimised against.
        input_size: side of the aligned crop in px.
        template: positions of the five landmarks in the crop, px.
        mean: subtracted from each channel, on the 0..255 scale, in the order of `channel_order`.
        std: what each channel is divided by afterwards.
        embedding_dim: length D of the embedding.
        thresholds: cosine similarity from which two faces count as the same person, keyed by the
            share of strangers it lets through (FAR), such as "0.01"; empty if not measured.
        channel_order: "rgb" or "bgr".
        licence: licence of the weights.
        source: package and file they were converted from.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(
        self,
        nodes: Sequence[dict[str, Any]],
        title: str,
        family: str,
        input_size: int,
        template: Sequence[Sequence[float]],
        mean: Sequence[float],
        std: Sequence[float],
        embedding_dim: int,
        thresholds: Mapping[str, float],
        channel_order: str = "rgb",
        licence: str = "",
        source: str = "",
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise UnknownOptionError(f"`channel_order` must be rgb or bgr, got {channel_order!r}.")
        self.network = GraphNetwork(nodes)

    def threshold(self, far: float) -> float:
        """Cosine similarity from which faces match, at a false accept rate such as 0.01."""
        thresholds = self.config.thresholds
        if f"{far:g}" not in thresholds:
            known = ", ".join(sorted(thresholds)) or "none"
            raise UnknownOptionError(
                f"`far` must be one of the measured rates of {self.config.title} ({known}), "
                f"got {far:g}."
            )
        return thresholds[f"{far:g}"]

    def crop(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Aligned faces as the network sees them: [B,3,S,S] RGB in [0,1], S = `input_size`.

        Args:
            images: [B,3,H,W] float, RGB in [0,1]; reduce large faces first, see `aligned_crop`.
            landmarks: [B,5,2] px.
        """
        return aligned_crop(images, landmarks, self.config.template, self.config.input_size)

    def embed(self, crops: Tensor) -> Tensor:
        """[B,3,S,S] RGB in [0,1], already aligned -> [B,D] float32 of length 1."""
        size = self.config.input_size
        if crops.shape[1:] != (3, size, size):
            raise ValueError(f"`crops` must be [B,3,{size},{size}], got {list(crops.shape)}.")
        return F.normalize(self.raw(crops))

    def raw(self, crops: Tensor) -> Tensor:
        """What the network says of crops `[B,3,S,S]` RGB in [0,1], of any length: [B,D] float32."""
        crops = crops.flip(1) if self.config.channel_order == "bgr" else crops
        mean, std = (
            torch.tensor(value, device=crops.device).view(1, 3, 1, 1)
            for value in (self.config.mean, self.config.std)
        )
        normalised = ((crops.float() * 255 - mean) / std).to(self.dtype)
        # On a CPU, convolutions are faster with the channels last.
        return self.network(normalised.contiguous(memory_format=torch.channels_last)).float()

    def forward(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Embeddings of length 1, differentiable with respect to `images`.

        Args:
            images: [B,3,H,W] float, RGB in [0,1].
            landmarks: [B,5,2] px: eyes, nose tip, mouth corners, image left first.

        Returns:
            [B,D] float32; the dot product of two of them is their cosine similarity.
        """
        return self.embed(self.crop(images, landmarks))


class RecogniserEnsemble(Ensemble):
    """The recognisers of a pipeline by name. All report; some of them also steer the protection."""

    __module__ = "map_pipeline"
    member_classes = ("FaceRecogniser",)

    def check_surrogates(self, names: Sequence[str]) -> None:
        """Raise `UnknownOptionError` if these aren't some of the recognisers."""
        unknown = [name for name in names if name not in self]
        if unknown or not names:
            raise UnknownOptionError(
                f"`surrogates` must name some of {', '.join(self)}; got {unknown or 'none'}."
            )


def load_arcface(path: str | Path, thresholds: Mapping[str, float]) -> FaceRecogniser:
    """insightface's ArcFace network (`w600k_r50.onnx` of the pack buffalo_l) as a recogniser.

    The file is converted when it's loaded; it isn't bundled because its weights are licensed for
    non-commercial research only.

    Args:
        path: the ONNX file.
        thresholds: cosine thresholds by FAR, such as `{"0.01": ...}`; `{}` if not measured. None
            are published for this package's protocol.

    Raises:
        CheckpointError: the file isn't an ONNX network that can be converted.
    """
    # Imported here: only this function needs the `onnx` package.
    from map_pipeline.graph.convert.onnx import convert

    nodes, state = convert(Path(path))
    recogniser = FaceRecogniser(
        nodes=nodes,
        title="ArcFace IResNet-50 (w600k_r50)",
        family="arcface",
        input_size=112,
        template=ARCFACE_TEMPLATE_112.tolist(),
        mean=[127.5] * 3,
        std=[127.5] * 3,
        embedding_dim=nodes[-1].get("out_features") or nodes[-1].get("channels", 512),
        thresholds=dict(thresholds),
        licence="non-commercial research only (insightface model zoo)",
        source="insightface model pack buffalo_l, w600k_r50.onnx",
    )
    recogniser.network.load_state_dict(state)
    return recogniser.eval()


def find_arcface() -> FaceRecogniser | None:
    """The ArcFace network of an insightface pack on disk, without thresholds; None if there's none.

    See `insightface_folder` for where it's looked for.
    """
    path = insightface_folder() / "w600k_r50.onnx"
    if not path.is_file():
        return None
    try:
        return load_arcface(path, thresholds={})
    except CheckpointError as error:
        logger.warning("Going on without ArcFace: %s", error)
        return None
