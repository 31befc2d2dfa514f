"""How good a protected photo looks: fidelity to the source, and naturalness without it.

PSNR, SSIM, MS-SSIM and FID are torchmetrics'. LPIPS and the usual FID need networks trained on
ImageNet, which aren't bundled and are never downloaded: without their files, `load_lpips` and
`load_inception` return the text `WEIGHTS_ABSENT`, which reports show in place of a number.
"""

from importlib import resources
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from map_pipeline.diffusion.ddim import ddim_step
from map_pipeline.diffusion.unet import patch_size, patchify, predict_noise, unpatchify
from map_pipeline.errors import CheckpointError, InvalidImageError
from map_pipeline.evaluation.purify import fixed_noise, largest_face_crop
from map_pipeline.images import to_tensor, uint8_tensor
from map_pipeline.pipeline import MAPPipeline

WEIGHTS_ABSENT = "not computed: weights absent"
TOO_FEW_PHOTOS = "not computed: fewer than two photos"

# Wang et al. 2003, https://doi.org/10.1109/ACSSC.2003.1292216: weights of the five scales.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SSIM_KERNEL = 11  # px; Gaussian with sigma 1.5, Wang et al. 2004

# Noise levels at which the prior is asked: below, it sees the picture itself; above, hardly any.
NATURALNESS_LEVELS = (100, 200, 300)
NATURALNESS_SEED = 0


def pair_quality(
    source: np.ndarray, result: np.ndarray, lpips: nn.Module | None = None
) -> dict[str, float]:
    """Compare a protected photo with its source; both `uint8 [H,W,3]`, whole photos.

    Args:
        lpips: see `load_lpips`: maps two `[1,3,H,W]` in [0,1] to a distance `[1]`.

    Returns:
        "psnr" in dB (`inf` for equal photos) and "ssim", "ms_ssim" in [-1,1], higher is better;
        "lpips" from 0, lower is better, if its network is given. MS-SSIM uses as many of its five
        scales as fit into the photo; fewer than five below 176 px a side.

    Raises:
        InvalidImageError: the photos differ in size.
    """
    if source.shape != result.shape:
        raise InvalidImageError(
            f"`result` must be of the size of `source` {list(source.shape)}, "
            f"got {list(result.shape)}."
        )
    first, second = to_tensor(source), to_tensor(result)
    weights = ms_ssim_weights(min(source.shape[:2]))
    ms_ssim = multiscale_structural_similarity_index_measure(
        second, first, data_range=1.0, kernel_size=SSIM_KERNEL, betas=weights
    )
    scores = {
        "psnr": float(peak_signal_noise_ratio(second, first, data_range=1.0)),
        "ssim": float(structural_similarity_index_measure(second, first, data_range=1.0)),
        "ms_ssim": float(ms_ssim),
    }
    if lpips is not None:
        with torch.no_grad():
            scores["lpips"] = float(lpips(first, second))
    return scores


def ms_ssim_weights(side: int) -> tuple[float, ...]:
    """Weights of the finest scales that a picture of `side` px allows; their sum is 1."""
    # torchmetrics asks for `side // (scales - 1)**2` of at least the kernel's width.
    fitting = [
        scales
        for scales in range(2, len(MS_SSIM_WEIGHTS) + 1)
        if side // (scales - 1) ** 2 >= SSIM_KERNEL
    ]
    chosen = MS_SSIM_WEIGHTS[: max(fitting, default=1)]
    return tuple(weight / sum(chosen) for weight in chosen)


@torch.no_grad()
def naturalness(pipe: MAPPipeline, photo: np.ndarray) -> float | None:
    """How well the prior explains the largest face of a photo `uint8 [H,W,3]`, without a reference.

    The aligned crop is noised to `NATURALNESS_LEVELS` with always the same noise, the score network
    (unconditional) predicts the clean picture in one step, and the PSNR of that prediction is
    averaged over the levels. Higher means more like the faces of the training set: noise, blotches
    and seams lower it. So does sharp, unusual but true detail, and blur *raises* it, because smooth
    faces are easy to predict. Compare it between a source and its result: any large change, up or
    down, is a loss; never rank different people by it.

    Returns:
        dB, or None if no face is detected.
    """
    face = largest_face_crop(pipe, photo)
    if face is None:
        return None
    patch = patch_size(pipe.unet)
    clean = patchify(face.image, patch).expand(len(NATURALNESS_LEVELS), -1, -1, -1)
    levels = torch.tensor(NATURALNESS_LEVELS, device=clean.device)
    noise = fixed_noise(clean, NATURALNESS_SEED)
    noisy = pipe.scheduler.add_noise(clean, noise, levels)
    alpha = pipe.scheduler.alphas_cumprod.to(clean)[levels][:, None, None, None]
    predicted_noise = predict_noise(pipe.unet, noisy, levels)
    # A step to the level 1, where nothing of the noise is left, is the prediction of x_0.
    predicted = ddim_step(noisy, predicted_noise, alpha, torch.ones_like(alpha))
    crops = unpatchify(predicted, patch).clamp(0, 1)
    error = (crops - face.image).square().mean(dim=(1, 2, 3))
    return float(-10 * error.clamp(min=1e-10).log10().mean())  # 100 dB for a perfect prediction


class Lpips(nn.Module):
    """LPIPS with AlexNet: the perceptual distance of Zhang et al. 2018.

    https://arxiv.org/abs/1801.03924, version 0.1 ("alex"). torchmetrics' own class needs
    torchvision for the network; here it is spelt out, and the learned weights of its five taps are
    read from torchmetrics.

    Args:
        features: AlexNet's convolutions as in torchvision, weight and bias of the layers 0, 3, 6,
            8 and 10: `{"0.weight": [64,3,11,11], "0.bias": [64], "3.weight": ...}`.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """

    TAPS = (1, 4, 7, 9, 11)  # the layers (all ReLU) whose activations are compared

    def __init__(self, features: dict[str, Tensor]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
        try:
            self.features.load_state_dict(features)
        except RuntimeError as error:
            raise CheckpointError(
                f"`features` must be AlexNet's convolutions, got other tensors: {error}"
            ) from None
        path = resources.files("torchmetrics.functional.image") / "lpips_models" / "alex.pth"
        with resources.as_file(path) as file:
            taps = torch.load(file, map_location="cpu", weights_only=True)
        for index in range(len(self.TAPS)):
            self.register_buffer(f"tap_{index}", taps[f"lin{index}.model.1.weight"])  # [1,C,1,1]
        # Of [-1,1] RGB, as in the reference implementation.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance `[B]` from 0 of two batches of pictures `[B,3,H,W]` RGB in [0,1]."""
        x, y = ((picture * 2 - 1 - self.shift) / self.scale for picture in (first, second))
        distance = first.new_zeros(len(first))
        for index, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if index in self.TAPS:
                difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                weights = getattr(self, f"tap_{self.TAPS.index(index)}")
                distance = distance + (difference * weights).sum(1).mean((1, 2))
        return distance


def load_lpips(path: str | Path | None = None) -> Lpips | str:
    """LPIPS with the AlexNet weights of a file, or `WEIGHTS_ABSENT` without one.

    Args:
        path: torchvision's AlexNet trained on ImageNet (`AlexNet_Weights.IMAGENET1K_V1`, the file
            `alexnet-owt-7be5be79.pth`), or the same tensors as `.safetensors`. Only the ten
            tensors `features.{0,3,6,8,10}.{weight,bias}` are used. Pickled code is never run.

    Raises:
        CheckpointError: the file doesn't exist or holds something else.
    """
    if path is None:
        return WEIGHTS_ABSENT
    tensors = _load_tensors(Path(path))
    prefix = "features."
    names = [name for name in tensors if str(name).startswith(prefix)]
    features = {name.removeprefix(prefix): tensors[name] for name in names}
    try:
        return Lpips(features)
    except CheckpointError:
        raise CheckpointError(
            "`lpips weights` must be torchvision's AlexNet (alexnet-owt-7be5be79.pth), "
            f"got {Path(path).name!r} without its convolutions."
        ) from None


class Inception(nn.Module):
    """The Inception network of the usual FID, as a TorchScript program.

    Args:
        script: maps `uint8 [N,3,H,W]` to features `[N,D]` and does its own resizing; may take
            `return_features`.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script.eval()
        arguments = [one.name for one in script.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in arguments else {}

    def forward(self, photos: Tensor) -> Tensor:
        """Features `[N,D]` of photos `uint8 [N,3,H,W]`."""
        return self.script(photos, **self.options)


def load_inception(path: str | Path | None = None) -> Inception | str:
    """The feature network of FID from a file, or `WEIGHTS_ABSENT` without one.

    Args:
        path: `inception-2015-12-05.pt` of NVIDIA's stylegan2-ada-pytorch, a TorchScript file of the
            TensorFlow Inception that FID is defined with; or any TorchScript file that maps
            `uint8 [N,3,H,W]` to `[N,D]`. It is a program: load only files you trust.

    Raises:
        CheckpointError: the file doesn't exist or isn't TorchScript.
    """
    if path is None:
        return WEIGHTS_ABSENT
    path = Path(path)
    _check_exists(path)
    try:
        return Inception(torch.jit.load(str(path), map_location="cpu"))
    except RuntimeError:
        raise CheckpointError(
            f"`inception weights` must be a TorchScript file, got {path.name!r}."
        ) from None


class Fid:
    """Fréchet distance between the features of sources and results (Heusel et al. 2017).

    https://arxiv.org/abs/1706.08500. Its estimate from few photos is biased upwards, so compare it
    only between methods on the same photos.

    Args:
        network: maps `uint8 [1,3,H,W]`, H and W of any size, to features `[1,D]`; `load_inception`
            for the usual FID.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._metric: FrechetInceptionDistance | None = None  # made when D is known

    @torch.no_grad()
    def update(self, source: np.ndarray, result: np.ndarray) -> None:
        """Take in a source and its result, both `uint8 [H,W,3]`; neither if the network raises."""
        first, second = (
            self.network(uint8_tensor(np.ascontiguousarray(photo))).double().cpu()
            for photo in (source, result)
        )
        if self._metric is None:
            self._metric = FrechetInceptionDistance(_Features(first.shape[1]), normalize=True)
        self._metric.update(first, real=True)
        self._metric.update(second, real=False)

    def compute(self) -> float | str:
        """The distance from 0, lower is better; `TOO_FEW_PHOTOS` before the second photo."""
        if self._metric is None or int(self._metric.real_features_num_samples) < 2:
            return TOO_FEW_PHOTOS
        return max(float(self._metric.compute()), 0.0)  # rounding can leave -1e-12


class _Features(nn.Identity):
    """Lets torchmetrics accumulate features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or a pickled state dict, without running its code."""
    _check_exists(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError):
        raise CheckpointError(f"`path` must be a file of tensors, got {path.name!r}.") from None


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"`path` must be an existing file of weights, got {path.name!r}.")
