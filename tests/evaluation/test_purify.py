import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from diffusers import UNet2DModel

from map_pipeline import MAPPipeline
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.purify import fixed_noise, largest_face_crop, purify
from map_pipeline.faces.align import apply_affine
from map_pipeline.images import load_image, to_array
from map_pipeline.images.transforms import add_noise


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


def in_crop(pipe: MAPPipeline, photo: np.ndarray) -> np.ndarray:
    """`[H,W]` pixels of the photo that lie in the face crop."""
    face = largest_face_crop(pipe, photo)
    ys, xs = np.mgrid[: photo.shape[0], : photo.shape[1]]
    points = torch.tensor(np.stack([xs, ys], -1), dtype=torch.float32)
    place = apply_affine(face.in_photo.image_to_crop, points).numpy()
    return ((place >= 0) & (place <= face.in_photo.size - 1)).all(-1)


def test_only_the_face_changes_as_the_seed_says(
    tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    before = photo.copy()
    result, again, other = (purify(tiny_pipeline, photo, 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(photo, before)
    np.testing.assert_array_equal(result, again)
    assert (result != other).any()
    changed = (result != photo).any(-1)
    inside = in_crop(tiny_pipeline, photo)
    assert changed[inside].mean() > 0.3
    assert not changed[~inside].any()


@pytest.mark.parametrize("t", [1, 100, 999])
def test_a_network_that_knew_the_noise_would_give_the_photo_back(
    t: int, tiny_pipeline: MAPPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def know(_unet: UNet2DModel, latents: torch.Tensor, *_: object) -> torch.Tensor:
        return fixed_noise(latents, seed=5)

    monkeypatch.setattr("map_pipeline.diffusion.ddim.predict_noise", know)
    result = purify(tiny_pipeline, photo, t, seed=5)
    assert abs(result.astype(int) - photo).max() <= 1
    with_other_noise = purify(tiny_pipeline, photo, t, seed=6)
    assert abs(with_other_noise.astype(int) - photo).max() > 1


def test_a_photo_without_a_face_comes_back_unchanged(tiny_pipeline: MAPPipeline) -> None:
    photo = np.full((120, 120, 3), 128, np.uint8)
    result = purify(tiny_pipeline, photo, t=100, seed=0)
    np.testing.assert_array_equal(result, photo)
    assert not np.shares_memory(result, photo)


@pytest.mark.parametrize("t", [0, -5, 1000])
def test_an_impossible_level_is_refused(t: int, tiny_pipeline: MAPPipeline) -> None:
    with pytest.raises(UnknownOptionError, match=rf"`t` must be in \[1, 1000\), got {t}\."):
        purify(tiny_pipeline, np.zeros((64, 64, 3), np.uint8), t, seed=0)


def test_noise_of_the_size_of_a_protection_drowns(
    bundled_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    inside = in_crop(bundled_pipeline, photo)
    noisy = add_noise(photo, 12.0, seed=0)

    def left_over(t: int) -> float:
        """Difference that is left of the noise, on the scale of the prior's crop (4 px)."""
        first, second = (purify(bundled_pipeline, one, t, seed=0) for one in (photo, noisy))
        difference = second.astype(float) - first
        coarse = difference.reshape(128, 4, 128, 4, 3).mean((1, 3))
        return float(abs(coarse[inside.reshape(128, 4, 128, 4).all((1, 3))]).mean())

    assert left_over(200) < 0.8 * left_over(1)
