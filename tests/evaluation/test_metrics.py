import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as reference_lpips
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from map_pipeline import MAPPipeline
from map_pipeline.errors import (
    CheckpointError,
    InvalidImageError,
)
from map_pipeline.evaluation import metrics
from map_pipeline.evaluation.metrics import (
    Fid,
    load_inception,
    load_lpips,
    ms_ssim_weights,
    naturalness,
    pair_quality,
)
from map_pipeline.images import load_image, to_array
from map_pipeline.images.transforms import TRANSFORMS, add_noise, blur
from tests.conftest import ASTRONAUT

# torch.export can't replace it: FID's reference network is a TorchScript file.
JIT_IS_DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


@pytest.fixture(scope="module")
def worse(photo: np.ndarray) -> np.ndarray:
    return add_noise(blur(photo, 0.003), 6.0, seed=0)


# --- PSNR, SSIM, MS-SSIM ---------------------------------------------------------------------


def test_a_photo_is_like_itself(photo: np.ndarray) -> None:
    scores = pair_quality(photo, photo)
    assert scores["psnr"] == math.inf
    assert scores["ssim"] == pytest.approx(1, abs=1e-6)
    assert scores["ms_ssim"] == pytest.approx(1, abs=1e-6)
    assert set(scores) == {"psnr", "ssim", "ms_ssim"}


def test_psnr_and_ssim_agree_with_scikit_image(photo: np.ndarray, worse: np.ndarray) -> None:
    scores = pair_quality(photo, worse)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(photo, worse), abs=1e-3)
    # scikit-image leaves out the 5 px of the border that torchmetrics mirrors.
    border = ((5, 5), (5, 5), (0, 0))
    expected = structural_similarity(
        np.pad(photo, border, "reflect"),
        np.pad(worse, border, "reflect"),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=255,
    )
    assert scores["ssim"] == pytest.approx(expected, abs=1e-4)
    assert 0.5 < expected < 0.95


@pytest.mark.parametrize(
    ("side", "scales"), [(20, 2), (44, 3), (98, 3), (99, 4), (176, 5), (512, 5)]
)
def test_ms_ssim_uses_the_scales_that_fit(
    side: int, scales: int, photo: np.ndarray, worse: np.ndarray
) -> None:
    weights = ms_ssim_weights(side)
    paper = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    np.testing.assert_allclose(weights, paper / paper.sum())
    first, second = (one[:side, 150 : 150 + side] for one in (photo, worse))
    assert 0 < pair_quality(first.copy(), second.copy())["ms_ssim"] < 1


def test_photos_of_different_sizes_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(
        InvalidImageError, match=r"size of `source` \[512, 512, 3\], got \[512, 511"
    ):
        pair_quality(photo, photo[:, 1:])


def test_lpips_is_measured_with_the_given_network(photo: np.ndarray, worse: np.ndarray) -> None:
    class Mean(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            assert first.min() >= 0
            assert first.max() <= 1
            return (first - second).abs().mean((1, 2, 3))

    expected = abs(photo.astype(float) - worse).mean() / 255
    assert pair_quality(photo, worse, Mean())["lpips"] == pytest.approx(expected, rel=1e-4)


# --- LPIPS -----------------------------------------------------------------------------------


def alexnet() -> nn.Sequential:
    """torchvision's `alexnet().features` with random weights."""
    relu = lambda: nn.ReLU(inplace=True)  # noqa: E731
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        relu(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        relu(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        relu(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        relu(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        relu(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return alexnet()


@pytest.fixture(scope="module")
def alexnet_file(network: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out like torchvision's file: the convolutions and the classifier."""
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    state = {f"features.{name}": value for name, value in network.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(4, 4)}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_lpips_agrees_with_the_reference_implementation(
    suffix: str, network: nn.Sequential, alexnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchmetrics' copy of Zhang et al.'s code, with the network that it would take torchvision for
    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", lambda *_, **__: network)
    reference = reference_lpips._LPIPS(net="alex")
    first, second = torch.rand(2, 2, 3, 70, 96)
    expected = reference(first, second, normalize=True).flatten()
    save_file(torch.load(alexnet_file), alexnet_file.with_suffix(".safetensors"))
    actual = load_lpips(str(alexnet_file.with_suffix(suffix)))(first, second)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert actual.min() > 1e-4


@JIT_IS_DEPRECATED
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("load", [load_lpips, load_inception])
def test_a_file_of_something_else_is_refused(load: Callable, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    with pytest.raises(CheckpointError, match="existing file of weights, got 'file"):
        load(path)
    for content in (b"", b"nothing of the kind", bytes(2000)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="got 'file"):
            load(path)


@pytest.mark.parametrize(
    "state", [{}, {"features.0.weight": torch.zeros(3, 3)}, {"conv.weight": torch.zeros(2)}, [1, 2]]
)
def test_weights_of_another_network_are_refused(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match=r"must be torchvision's AlexNet .*got 'vgg\.pth'"):
        load_lpips(tmp_path / "vgg.pth")


# --- FID -------------------------------------------------------------------------------------


class Colours(nn.Module):
    """Features of a photo: the mean of each channel on the 0..255 scale."""

    def forward(self, photos: Tensor) -> Tensor:
        assert photos.dtype == torch.uint8
        return photos.float().mean((2, 3))


def coloured(colours: np.ndarray) -> list[np.ndarray]:
    """Flat photos, of different sizes."""
    return [
        np.broadcast_to(colour.astype(np.uint8), (40 + i, 50, 3))
        for i, colour in enumerate(colours)
    ]


def fid(sources: list[np.ndarray], results: list[np.ndarray]) -> float | str:
    metric = Fid(Colours())
    for source, result in zip(sources, results, strict=True):
        metric.update(source, result)
    return metric.compute()


@pytest.mark.parametrize(("shift", "expected"), [((0, 0, 0), 0), ((10, 20, 5), 525)])
def test_fid_of_a_shift_is_its_squared_length(shift: tuple, expected: float) -> None:
    colours = np.random.default_rng(0).integers(20, 200, (12, 3))
    found = fid(coloured(colours), coloured(colours[::-1] + np.array(shift)))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_fid_agrees_with_the_frechet_distance_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    first = rng.multivariate_normal([100] * 3, np.diag([400, 100, 900]) + 50, 40).clip(0, 255) // 1
    second = rng.multivariate_normal([120, 90, 100], np.full((3, 3), 300.0), 40).clip(0, 255) // 1
    cov_1, cov_2 = np.cov(first.T), np.cov(second.T)
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(
        cov_1 + cov_2 - 2 * sqrtm(cov_1 @ cov_2).real
    )
    assert fid(coloured(first), coloured(second)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_fid_of_fewer_than_two_photos_is_a_text(n: int) -> None:
    photos = coloured(np.full((n, 3), 10))
    assert fid(photos, photos) == "not computed: fewer than two photos"


class Script(nn.Module):
    """Stands in for a TorchScript Inception."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        colours = img.float().mean((2, 3))
        return colours if return_features else colours.softmax(1)


@JIT_IS_DEPRECATED
@pytest.mark.parametrize("module", [Script(), Colours()])
def test_inception_is_a_torchscript_file_that_returns_features(
    module: nn.Module, tmp_path: Path
) -> None:
    example = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    with_option = isinstance(module, Script)
    script = torch.jit.script(module) if with_option else torch.jit.trace(module, example)
    script.save(tmp_path / "inception.pt")
    network = load_inception(tmp_path / "inception.pt")
    torch.testing.assert_close(network(example), Colours()(example))


# --- naturalness -----------------------------------------------------------------------------


def test_naturalness_of_a_network_that_errs_by_a_constant(
    tiny_pipeline: MAPPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def almost(_unet: nn.Module, latents: Tensor, levels: Tensor, *_: object) -> Tensor:
        asked.extend(levels.tolist())
        return metrics.fixed_noise(latents, metrics.NATURALNESS_SEED) + 0.02

    monkeypatch.setattr(metrics, "predict_noise", almost)
    alpha = tiny_pipeline.scheduler.alphas_cumprod[list(metrics.NATURALNESS_LEVELS)].double()
    error = 0.02 * ((1 - alpha) / alpha).sqrt() / 2  # of the clean picture, on the 0..1 scale
    expected = float(-20 * error.log10().mean())
    # The darkest pixels can't become darker, so a little of the error is clipped away.
    assert naturalness(tiny_pipeline, photo) == pytest.approx(expected, abs=0.5)
    assert asked == list(metrics.NATURALNESS_LEVELS)


def test_naturalness_needs_a_face(tiny_pipeline: MAPPipeline) -> None:
    assert naturalness(tiny_pipeline, np.full((100, 100, 3), 90, np.uint8)) is None


def test_noise_and_blotches_make_a_face_less_natural(
    bundled_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    clean = naturalness(bundled_pipeline, photo)
    assert clean == naturalness(bundled_pipeline, photo)
    rng = np.random.default_rng(0)
    coarse = torch.tensor(rng.normal(0, 25, (1, 3, 64, 64)))
    waves = F.interpolate(coarse, photo.shape[:2], mode="bicubic")[0].permute(1, 2, 0).numpy()
    blotched = np.rint(photo + waves).clip(0, 255).astype(np.uint8)
    assert naturalness(bundled_pipeline, add_noise(photo, 20.0, seed=0)) < clean - 0.3
    assert naturalness(bundled_pipeline, blotched) < clean - 0.3
    shared = naturalness(bundled_pipeline, TRANSFORMS["jpeg90"](photo, 0))
    assert shared == pytest.approx(clean, abs=0.3)
