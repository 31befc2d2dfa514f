import pytest
import torch
from torch import Tensor

from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.identity.views import jitter_landmarks, random_view, uniform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(batch: int = 3) -> Tensor:
    return (ARCFACE_TEMPLATE_112 + 20).expand(batch, 5, 2)


def test_uniform_stays_between_its_limits() -> None:
    draws = [uniform(-2, 3, source) for source in [generator()] for _ in range(500)]
    assert -2 <= min(draws) < -1.5
    assert 2.5 < max(draws) <= 3


@pytest.mark.parametrize("shape", [(1, 3, 40, 40), (2, 3, 33, 57), (1, 3, 1, 2)])
def test_view_keeps_shape_and_range(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape)
    for seed in range(20):
        view = random_view(image, generator(seed))
        assert view.shape == image.shape
        assert view.min() >= 0
        assert view.max() <= 1


def test_view_resembles_its_picture() -> None:
    ramp = torch.linspace(0.2, 0.8, 48).expand(1, 3, 48, 48)
    for seed in range(20):
        view = random_view(ramp, generator(seed))
        assert not torch.equal(view, ramp)
        together = torch.stack([view.flatten(), ramp.flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.95


def test_randomness_comes_from_the_generator_alone() -> None:
    image = torch.rand(1, 3, 32, 32)
    state = torch.get_rng_state()
    views = [random_view(image, generator(seed)) for seed in (1, 1, 2)]
    moved = [jitter_landmarks(points(), generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    for first, again, other in (views, moved):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_gradients_reach_the_picture() -> None:
    image = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    random_view(image, generator()).sum().backward()
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.9


def test_jitter_is_a_small_similarity() -> None:
    moved = jitter_landmarks(points(64), generator())
    assert moved.shape == (64, 5, 2)
    distances, before = torch.cdist(moved, moved), torch.cdist(points(1), points(1))
    ratio = distances[:, ~torch.eye(5, dtype=bool)] / before[:, ~torch.eye(5, dtype=bool)]
    assert (ratio.std(1) < 1e-3).all()  # one scale for all five points of a face
    assert ratio.mean(1).std() > 0.005  # another one for each face
    turn = moved[:, 1] - moved[:, 0]
    angles = torch.atan2(turn[:, 1], turn[:, 0])
    assert 0.01 < angles.std() < 0.2  # rad
    # Not mirrored: the nose stays below the eyes, the right eye right of the left one.
    assert (moved[:, 2, 1] > moved[:, :2, 1].amax(1)).all()
    assert (moved[:, 1, 0] > moved[:, 0, 0]).all()
    shift = (moved - points(64)).norm(dim=-1).mean()
    assert 0.2 < shift < 0.2 * (points()[0, 1] - points()[0, 0]).norm()
