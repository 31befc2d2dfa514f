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
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from map_pipeline import MAPPipeline
from map_pipeline.errors import (
    CheckpointError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.evaluation import metrics
from map_pipeline.evaluation.metrics import (
    Fid,
    Lpips,
    load_inception,
    load_lpips,
    ms_ssim_weights,
    naturalness,
    pair_quality,
)
from map_pipeline.images import load_image, to_array
from map_pipeline.images.degradations import TRANSFORMS, add_noise, blur
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


def test_psnr_of_a_constant_difference() -> None:
    source = np.full((64, 80, 3), 100, np.uint8)
    assert pair_quality(source, source + 5)["psnr"] == pytest.approx(20 * math.log10(255 / 5))


def test_ssim_of_flat_photos_is_their_luminance_term() -> None:
    source, result = (np.full((64, 64, 3), value, np.uint8) for value in (100, 150))
    expected = (2 * 100 * 150 + 2.55**2) / (100**2 + 150**2 + 2.55**2)
    assert pair_quality(source, result)["ssim"] == pytest.approx(expected, abs=5e-4)


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


def plain_ms_ssim(first: np.ndarray, second: np.ndarray, weights: tuple[float, ...]) -> float:
    """MS-SSIM after Wang et al. 2003 in numpy."""
    axis = np.arange(-5, 6)
    kernel = np.exp(-(axis**2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")

    x, y = first / 255, second / 255
    score = 1.0
    for scale, weight in enumerate(weights):
        if scale:
            height, width = (side // 2 * 2 for side in x.shape[:2])
            x, y = (
                z[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
                for z in (x, y)
            )
        mu_x, mu_y = mean(x), mean(y)
        covariance = mean(x * y) - mu_x * mu_y
        variances = mean(x * x) - mu_x**2 + mean(y * y) - mu_y**2
        structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale < len(weights) - 1:
            score *= structure[5:-5, 5:-5].mean() ** weight
        else:
            luminance = (2 * mu_x * mu_y + 0.01**2) / (mu_x**2 + mu_y**2 + 0.01**2)
            score *= (luminance * structure).mean() ** weight
    return score


@pytest.mark.parametrize(("side", "scales"), [(40, 2), (44, 3), (98, 3), (99, 4), (176, 5)])
def test_ms_ssim_agrees_with_its_definition(
    side: int, scales: int, photo: np.ndarray, worse: np.ndarray
) -> None:
    weights = ms_ssim_weights(side)
    assert len(weights) == scales
    assert sum(weights) == pytest.approx(1)
    first, second = (np.ascontiguousarray(one[50 : 50 + side, 150:370]) for one in (photo, worse))
    expected = plain_ms_ssim(first, second, weights)
    assert pair_quality(first, second)["ms_ssim"] == pytest.approx(expected, abs=1e-4)
    assert expected < 0.98


def test_the_scales_have_the_weights_of_the_paper() -> None:
    np.testing.assert_allclose(ms_ssim_weights(1024), metrics.MS_SSIM_WEIGHTS, atol=1e-4)


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


def test_lpips_agrees_with_the_reference_implementation(
    network: nn.Sequential, alexnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchmetrics' copy of Zhang et al.'s code, with the network that it would take torchvision for
    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", lambda *_, **__: network)
    reference = reference_lpips._LPIPS(net="alex")
    first, second = torch.rand(2, 2, 3, 70, 96)
    expected = reference(first, second, normalize=True).flatten()
    actual = load_lpips(alexnet_file)(first, second)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert actual.min() > 1e-4


def test_lpips_is_a_symmetric_distance(alexnet_file: Path) -> None:
    lpips = load_lpips(alexnet_file)
    first, second = torch.rand(2, 1, 3, 64, 64)
    assert lpips(first, first) == 0
    torch.testing.assert_close(lpips(first, second), lpips(second, first))
    nearer = first + 0.3 * (second - first)
    assert lpips(first, nearer) < lpips(first, second)


def test_lpips_reads_safetensors_too(alexnet_file: Path, tmp_path: Path) -> None:
    save_file(torch.load(alexnet_file), tmp_path / "alexnet.safetensors")
    first, second = torch.rand(2, 1, 3, 64, 64)
    expected = load_lpips(alexnet_file)(first, second)
    actual = load_lpips(str(tmp_path / "alexnet.safetensors"))(first, second)
    torch.testing.assert_close(actual, expected)


def test_without_weights_there_is_a_text_to_show() -> None:
    assert load_lpips() == load_inception() == "not computed: weights absent"


@pytest.mark.parametrize("load", [load_lpips, load_inception])
def test_a_missing_file_of_weights_is_named(load: Callable, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"existing file of weights, got 'none\.pth'"):
        load(tmp_path / "none.pth")


@JIT_IS_DEPRECATED
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("load", [load_lpips, load_inception])
def test_a_file_of_something_else_is_refused(load: Callable, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
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


def test_lpips_refuses_tensors_of_other_shapes(network: nn.Sequential) -> None:
    state = {**network.state_dict(), "0.bias": torch.zeros(63)}
    with pytest.raises(CheckpointError, match="AlexNet's convolutions"):
        Lpips(state)


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


def test_fid_of_a_shift_is_its_squared_length() -> None:
    colours = np.random.default_rng(0).integers(20, 200, (12, 3))
    assert fid(coloured(colours), coloured(colours + np.array([10, 20, 5]))) == pytest.approx(
        525, rel=1e-6
    )


def test_fid_of_the_same_photos_is_zero() -> None:
    photos = coloured(np.random.default_rng(0).integers(0, 256, (12, 3)))
    assert fid(photos, photos[::-1]) == pytest.approx(0, abs=1e-6)


def test_fid_of_a_scaling_of_one_axis() -> None:
    colours = np.zeros((9, 3), int)
    colours[:, 0] = np.arange(9) * 4
    wider = colours * [3, 1, 1]
    mean = (wider.mean(0) - colours.mean(0))[0] ** 2
    spread = (wider[:, 0].std(ddof=1) - colours[:, 0].std(ddof=1)) ** 2
    assert fid(coloured(colours), coloured(wider)) == pytest.approx(mean + spread, rel=1e-6)


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


def test_fid_over_a_recogniser(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    network = metrics.FaceEmbedding(tiny_pipeline, "dlib_resnet")
    metric = Fid(network)
    worse = [add_noise(photo, 40.0, seed) for seed in (0, 1)]
    for one in worse:
        metric.update(photo, one)
    [face] = tiny_pipeline.face_detector.detect(photo)
    expected = tiny_pipeline.embed(tiny_pipeline.view(photo, face.landmarks))["dlib_resnet"]
    torch.testing.assert_close(
        network(torch.tensor(photo).permute(2, 0, 1)[None]), expected, rtol=0, atol=1e-6
    )
    shifts = [
        metrics.FaceEmbedding(tiny_pipeline, "dlib_resnet")(
            torch.tensor(one).permute(2, 0, 1)[None]
        )
        for one in worse
    ]
    # The sources have no spread, so the rest is the mean's shift and the results' variance.
    results = torch.cat(shifts).double()
    variance = results.var(0).sum()
    distance = (results.mean(0) - expected[0]).square().sum() + variance
    assert metric.compute() == pytest.approx(float(distance), rel=1e-4)
    assert float(distance) > 1e-6


def test_a_photo_without_a_face_leaves_the_fid_as_it_was(
    tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    metric = Fid(metrics.FaceEmbedding(tiny_pipeline, "dlib_resnet"))
    metric.update(photo, photo)
    with pytest.raises(NoFaceError):
        metric.update(photo, np.zeros_like(photo))
    assert metric.compute() == "not computed: fewer than two photos"
    metric.update(photo, photo)
    assert metric.compute() == pytest.approx(0, abs=1e-6)


def test_an_unknown_recogniser_is_refused(tiny_pipeline: MAPPipeline) -> None:
    with pytest.raises(UnknownOptionError, match=r"must be one of dlib_resnet, .*'x'"):
        metrics.FaceEmbedding(tiny_pipeline, "x")


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
    if isinstance(module, Script):
        script = torch.jit.script(module)
    else:
        script = torch.jit.trace(module, example)
    script.save(tmp_path / "inception.pt")
    network = load_inception(tmp_path / "inception.pt")
    torch.testing.assert_close(network(example), Colours()(example))
    colours = np.random.default_rng(0).integers(20, 200, (5, 3))
    metric = Fid(network)
    for source, result in zip(coloured(colours), coloured(colours + 2), strict=True):
        metric.update(source, result)
    assert metric.compute() == pytest.approx(12, rel=1e-6)


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


def test_a_perfect_prediction_is_as_natural_as_it_gets(
    tiny_pipeline: MAPPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        metrics,
        "predict_noise",
        lambda _unet, latents, *_: metrics.fixed_noise(latents, metrics.NATURALNESS_SEED),
    )
    assert naturalness(tiny_pipeline, photo) == pytest.approx(100, abs=1)


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
