import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ASTRONAUT, TINY_INPUT, TINY_TEMPLATE
from scipy.ndimage import gaussian_filter
from torch import Tensor

from map_pipeline import FaceRecogniser, MAPPipeline, default_objectives
from map_pipeline.config import MARGINS
from map_pipeline.errors import NotFiniteError
from map_pipeline.evaluation.methods import create, gradients, noise
from map_pipeline.evaluation.methods.base import FacePlace, Task, find_face
from map_pipeline.evaluation.methods.gradients import (
    SMALLEST_SIZE,
    bend_and_turn,
    descend,
    resize_and_pad,
)
from map_pipeline.evaluation.methods.identity import identity_loss
from map_pipeline.evaluation.methods.noise import MIFGSM, PGD, TIDIM, TIPIM, Noise, add_noise
from map_pipeline.faces.align import FaceRegion
from map_pipeline.identity.objectives import Goals
from map_pipeline.identity.targets import Target
from map_pipeline.images import load_image, to_array

ATTACKS = (PGD, MIFGSM, TIDIM, TIPIM)
SIZE = 24


@pytest.fixture
def image() -> Tensor:
    """A picture away from black and white, so that only the budget limits."""
    return torch.rand(1, 3, SIZE, SIZE) * 0.6 + 0.2


@pytest.fixture
def mask() -> Tensor:
    one = torch.zeros(1, 1, SIZE, SIZE)
    one[..., 5:20, 3:18] = 1
    return one


@pytest.fixture
def weights() -> Tensor:
    return torch.randn(1, 3, SIZE, SIZE)


@pytest.fixture
def without_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "bend_and_turn", lambda picture, _generator: picture)
    monkeypatch.setattr(noise, "resize_and_pad", lambda picture, _generator: picture)


def perturb(attack: Noise, loss: object, image: Tensor, mask: Tensor, seed: int = 0) -> Tensor:
    return attack.perturb(loss, image, mask, torch.Generator().manual_seed(seed))


def linear(weights: Tensor) -> object:
    return lambda picture: (weights * picture).sum()


# The attacks on losses whose gradient is known.


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize("attack", [PGD, MIFGSM])
def test_a_linear_loss_ends_at_the_border(
    attack: type[Noise], steps: int, image: Tensor, mask: Tensor, weights: Tensor
) -> None:
    """Against the sign of the gradient, from any start."""
    change = perturb(attack(steps=steps), linear(weights), image, mask)
    torch.testing.assert_close(change, -8 / 255 * weights.sign() * mask)


def test_step_size_of_pgd(image: Tensor, mask: Tensor, weights: Tensor) -> None:
    seen: list[Tensor] = []
    loss = lambda picture: seen.append(picture.detach()) or linear(weights)(picture)  # noqa: E731
    perturb(PGD(eps=8, steps=10), loss, image, mask)
    assert float((seen[1] - seen[0]).abs().max()) == pytest.approx(2.5 * 8 / 255 / 10, rel=1e-3)


def test_pgd_starts_at_random(image: Tensor, mask: Tensor) -> None:
    """Uniformly within the budget and the mask; a flat loss leaves it there."""
    change, other = (
        perturb(PGD(eps=16), lambda picture: picture.sum() * 0, image, mask, seed) * 255
        for seed in (0, 1)
    )
    inside = change[mask.expand_as(change) > 0]
    assert change[mask.expand_as(change) == 0].abs().max() == 0
    assert inside.abs().max() <= 16
    assert inside.std() == pytest.approx(32 / math.sqrt(12), rel=0.1)
    assert not torch.equal(change, other)


def test_mifgsm_against_a_second_implementation(image: Tensor, mask: Tensor) -> None:
    """Dong et al. 2018, Alg. 1, on a loss whose gradient turns: |x - goal|^4."""
    goal = torch.rand_like(image)
    change = perturb(MIFGSM(steps=7), lambda x: ((x - goal) ** 4).sum(), image, mask)
    x0, c, m = (t.double().numpy() for t in (image, goal, mask))
    x, g, alpha = x0.copy(), np.zeros_like(x0), 8 / 255 / 7
    for _ in range(7):
        gradient = 4 * (x - c) ** 3 * m
        g = g + gradient / np.abs(gradient).sum()
        x = np.clip(x - alpha * np.sign(g), x0 - 8 / 255, x0 + 8 / 255).clip(0, 1)
    np.testing.assert_allclose(change.numpy(), (x - x0) * m, atol=1e-6)


@pytest.mark.usefixtures("without_diversity")
def test_tidim_smooths_the_gradient(image: Tensor, mask: Tensor, weights: Tensor) -> None:
    """First step: the sign of the gradient after a Gaussian of 15 px, which are six sigmas."""
    change = perturb(TIDIM(steps=1), linear(weights), image, mask)
    gradient = (weights * mask)[0].double().numpy()
    smooth = gaussian_filter(gradient, (0, 7 / 3, 7 / 3), mode="constant", truncate=3)
    sure = (np.abs(smooth) > 1e-5) & (mask[0].numpy() > 0)
    assert sure.sum() > 0.9 * 3 * float(mask.sum())
    np.testing.assert_allclose(change[0].numpy()[sure], -8 / 255 * np.sign(smooth)[sure], rtol=1e-4)


@pytest.mark.usefixtures("without_diversity")
def test_tipim_steps_have_one_length(image: Tensor, mask: Tensor, weights: Tensor) -> None:
    """1.5 eps / steps per value in the root mean square over the mask, against the gradient."""
    seen: list[Tensor] = []
    loss = lambda picture: seen.append(picture.detach()) or linear(weights)(picture)  # noqa: E731
    change = perturb(TIPIM(steps=100), loss, image, mask)
    step = seen[1] - seen[0]
    inside = mask.expand_as(step) > 0
    assert step[~inside].abs().max() == 0
    length = float(step[inside].square().mean().sqrt())
    assert length == pytest.approx(1.5 * 8 / 255 / 100, rel=1e-3)
    cosine = F.cosine_similarity(step.flatten(), -(weights * mask).flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)
    # In the end the large weights are at the border, and the others have followed.
    large = inside & (weights.abs() > 1)
    torch.testing.assert_close(change[large], -8 / 255 * weights.sign()[large])
    assert float((weights * change).sum()) < 0


# Their parts.


def test_gradients_that_are_not_finite(image: Tensor, mask: Tensor) -> None:
    with pytest.raises(NotFiniteError, match="finite"):
        descend(lambda x: (x * 0).sqrt().sum(), image, mask, 0.1, 1, 0.1, torch.sign)


def test_padding_anywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    plain, corners = 0, set()
    for _ in range(200):
        inside = resize_and_pad(torch.ones(1, 3, 66, 66), generator)[0, 0] > 0.5
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        assert len(rows) == len(columns) >= math.floor(66 * SMALLEST_SIZE)
        assert int(inside.sum()) == len(rows) * len(columns)
        plain += len(rows) == 66
        corners.add((int(rows[0]), int(columns[0])))
    # .3 that nothing is done, and now and then a draw that rounds to full size.
    assert 0.3 < plain / 200 < 0.5
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(7))


def test_bending_against_torchs_own(image: Tensor) -> None:
    """Same draws, then `affine_grid` and `grid_sample`, in the authors' order."""
    result = bend_and_turn(image, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    bend, turn = (0.01 + 0.09 * torch.rand((), generator=generator).item() for _ in range(2))
    matrix = torch.eye(3)
    matrix[:2] += torch.randn(2, 3, generator=generator) * bend
    angle = float(torch.randn((), generator=generator)) * turn
    rotation = torch.tensor(
        [
            [math.cos(angle), math.sin(angle), 0],
            [-math.sin(angle), math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    grid = F.affine_grid((matrix @ rotation)[None, :2], list(image.shape), align_corners=False)
    expected = F.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
    assert (result - image).abs().mean() > 0.01


# The loss through recognisers.


@pytest.fixture
def scene(tiny_pipeline: MAPPipeline) -> SimpleNamespace:
    """A face that fills its photo, one recogniser with thresholds and one without."""
    photo = torch.rand(1, 3, TINY_INPUT, TINY_INPUT) * 0.8 + 0.1
    landmarks = torch.tensor(TINY_TEMPLATE)
    region = FaceRegion(photo, landmarks, (0, 0, TINY_INPUT, TINY_INPUT), (1.0, 1.0))
    known = tiny_pipeline.recognisers["dlib_resnet"]
    unknown = FaceRecogniser.from_config({**known.config, "thresholds": {}})
    recognisers = {"one": known, "two": unknown.requires_grad_(False)}
    pipe = SimpleNamespace(recognisers=recognisers, device=torch.device("cpu"))
    task = Task(np.zeros((2, 2, 3), np.uint8), "sad", "first", ("one", "two"), 0)
    target = Target("a", {name: F.normalize(torch.randn(1, 16)) for name in recognisers})
    place = FacePlace(None, region, TINY_INPUT, landmarks)
    return SimpleNamespace(pipe=pipe, task=task, place=place, target=target, photo=photo)


def test_identity_loss_by_hand(scene: SimpleNamespace) -> None:
    """MAP's impersonation and dodging, in units of 1 - threshold."""
    loss = identity_loss(scene.pipe, scene.task, scene.place, scene.target)
    picture = torch.rand_like(scene.photo)
    expected = 0.0
    weights = {o.name: o.weight for o in default_objectives()}
    for name in ("one", "two"):
        goals = Goals.of(scene.pipe.recognisers[name], MARGINS["high"])
        recogniser = scene.pipe.recognisers[name]
        now, before = (
            recogniser(one, torch.tensor(TINY_TEMPLATE)[None])[0].double().numpy()
            for one in (picture, scene.photo)
        )
        target = scene.target.embeddings[name][0].double().numpy()
        excess, shortfall = max(now @ before - goals.source, 0), max(goals.target - now @ target, 0)
        total = weights["impersonation"] * shortfall + weights["dodging"] * excess
        expected += total / goals.unit / 2
    assert float(loss(picture)) == pytest.approx(expected, rel=1e-4)


# The 8-bit photo.


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """With black and white lines across the face, where noise is cut off."""
    one = to_array(load_image(ASTRONAUT))[:256, 96:352].copy()
    one[80:82], one[85:87] = 0, 255
    return one


@pytest.mark.parametrize("eps", [1, 4.5, 8])
@pytest.mark.parametrize("name", ["pgd", "mifgsm", "tidim", "tipim"])
def test_budget_holds_exactly(
    name: str, eps: float, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    task = Task(photo, "happy", "first", ("dlib_resnet",), 0)
    result = create(name, eps=eps, steps=4).protect(tiny_pipeline, task)
    assert np.abs(result.astype(int) - photo).max() == math.floor(eps)


@pytest.mark.parametrize("scale", [1, 3])
def test_add_noise_cannot_pass_the_budget(
    scale: int, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    """Whatever the attack says, and though enlarging overshoots; outside nothing changes."""
    large = np.repeat(np.repeat(photo, scale, 0), scale, 1)
    place = find_face(tiny_pipeline, large)
    wild = torch.randn(place.region.image.shape)
    result = add_noise(large, wild, place, eps=3)
    change = result.astype(int) - large
    assert np.abs(change).max() == 3
    x0, y0, x1, y1 = place.region.box
    mask = np.zeros(large.shape[:2], bool)
    mask[y0:y1, x0:x1] = place.mask_in_box()
    assert not change[~mask].any()
    assert (min(place.region.scale) < 1) == (scale > 1)
    # Black and white pixels only move inwards.
    assert (change[large == 0] >= 0).all()
    assert (change[large == 255] <= 0).all()


def test_diversity_is_used(image: Tensor, mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """TI-DIM shows the recognisers padded pictures, TIP-IM bent ones, the others plain ones."""
    monkeypatch.setattr(gradients, "DIVERSITY_PROBABILITY", 1.0)
    for attack in ATTACKS:
        pictures: list[Tensor] = []
        loss = lambda picture: pictures.append(picture.detach()) or picture.square().sum()  # noqa: B023, E731
        perturb(attack(steps=3), loss, image, mask)
        moved = max(float((p - image).abs().max()) for p in pictures)
        assert (moved > 0.1) == (attack in (TIDIM, TIPIM))
