from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from torch import Tensor

from map_pipeline.diffusion.conditioner import (
    GREY_CHROMA,
    POINTS,
    SHAPE_SPREAD,
    Condition,
    FaceConditioner,
    describe,
    embedding_width,
    is_conditional,
    is_grey,
)

WIDTH = 24


@pytest.fixture
def conditioner() -> FaceConditioner:
    """Random weights and biases everywhere, as after training."""
    conditioner = FaceConditioner(WIDTH, hidden=8)
    for parameter in conditioner.parameters():
        torch.nn.init.normal_(parameter)
    conditioner.mean_shape.copy_(torch.rand(POINTS, 2))
    return conditioner.requires_grad_(False)


def unknown(count: int = 3) -> Condition:
    return Condition(
        emotion=torch.zeros(count, 7),
        shape=torch.rand(count, POINTS, 2),  # whatever stands there
        has_shape=torch.zeros(count),
        grey=torch.zeros(count),
    )


def known(count: int = 3) -> Condition:
    return Condition(
        emotion=torch.eye(7)[:count],
        shape=torch.rand(count, POINTS, 2),
        has_shape=torch.ones(count),
        grey=torch.tensor([1.0, 0.0] * count)[:count],
    )


def test_an_unknown_face_says_exactly_nothing(conditioner: FaceConditioner) -> None:
    assert torch.equal(conditioner(unknown()), torch.zeros(3, WIDTH))


@pytest.mark.parametrize("part", ["emotion", "has_shape", "grey"])
def test_every_part_says_something_on_its_own(conditioner: FaceConditioner, part: str) -> None:
    condition = replace(unknown(), **{part: getattr(known(), part)})
    assert (conditioner(condition)[0].abs() > 0).all()


def test_the_parts_add_up(conditioner: FaceConditioner) -> None:
    everything, nothing = known(), unknown()
    nothing = replace(nothing, shape=everything.shape)
    parts = [
        conditioner(replace(nothing, **{part: getattr(everything, part)}))
        for part in ("emotion", "has_shape", "grey")
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), conditioner(everything))


def test_faces_of_a_batch_dont_mix(conditioner: FaceConditioner) -> None:
    condition = known()
    emotion = condition.emotion.clone()
    emotion[1] = 0
    before, after = conditioner(condition), conditioner(replace(condition, emotion=emotion))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_a_mixture_of_emotions_says_the_mixture(conditioner: FaceConditioner) -> None:
    pure = conditioner(replace(unknown(7), emotion=torch.eye(7)))
    shares = torch.tensor([[0.1, 0.2, 0.0, 0.4, 0.0, 0.0, 0.3]])
    torch.testing.assert_close(conditioner(replace(unknown(1), emotion=shares)), shares @ pure)


def test_shapes_are_told_as_deviations_from_the_mean(conditioner: FaceConditioner) -> None:
    moved = conditioner.mean_shape + SHAPE_SPREAD
    condition = replace(unknown(1), shape=moved[None], has_shape=torch.ones(1))
    # The difference of two float32 numbers of the mean's size, divided by the small spread.
    expected = conditioner.shape(torch.ones(1, 2 * POINTS))
    torch.testing.assert_close(conditioner(condition), expected, atol=1e-4, rtol=1e-4)


def test_saving_keeps_everything(conditioner: FaceConditioner, tmp_path: Path) -> None:
    conditioner.save_pretrained(tmp_path)
    loaded = FaceConditioner.from_pretrained(tmp_path)
    assert torch.equal(loaded.mean_shape, conditioner.mean_shape)
    condition = known()
    torch.testing.assert_close(loaded(condition), conditioner(condition))
    half = FaceConditioner.from_pretrained(tmp_path, dtype=torch.float16)
    assert half(condition).dtype == torch.float16
    assert torch.equal(half(unknown()), torch.zeros(3, WIDTH).half())


def test_a_face_as_it_is() -> None:
    crop, landmarks68 = torch.rand(1, 3, 32, 32), torch.rand(POINTS, 2) * 32
    condition = describe(crop, landmarks68)
    torch.testing.assert_close(condition.shape, landmarks68[None] / 32)
    assert condition.has_shape.tolist() == [1]
    assert condition.grey.tolist() == [0]
    assert torch.equal(condition.emotion, torch.zeros(1, 7))
    blind = describe(crop.mean(1, keepdim=True).expand(-1, 3, -1, -1), None)
    assert blind.has_shape.tolist() == [0]
    assert blind.grey.tolist() == [1]


@pytest.mark.parametrize(("distance", "grey"), [(0.0, True), (0.99, True), (1.01, False)])
def test_grey_allows_for_compression(distance: float, grey: bool) -> None:
    crops = torch.full((1, 3, 8, 8), 0.5)
    crops[:, 1] += distance * GREY_CHROMA
    assert is_grey(crops).tolist() == [grey]


def test_one_coloured_face_among_grey_ones() -> None:
    crops = torch.rand(3, 1, 8, 8).expand(-1, 3, -1, -1).clone()
    crops[1, 0] = 0
    assert is_grey(crops).tolist() == [True, False, True]


def conditional(**settings: int) -> UNet2DModel:
    config = {k: v for k, v in tiny_unet().config.items() if not k.startswith("_")}
    return UNet2DModel(**config | {"class_embed_type": "identity"} | settings).eval()


def test_width_and_kind_of_networks() -> None:
    assert not is_conditional(tiny_unet())
    assert is_conditional(conditional())
    assert embedding_width(tiny_unet()) == 64
    assert embedding_width(conditional(time_embedding_dim=40)) == 40


@pytest.mark.parametrize("settings", [{}, {"time_embedding_dim": 40}])
def test_the_vector_fits_the_network(settings: dict[str, int]) -> None:
    unet = conditional(**settings)
    conditioner = FaceConditioner(embedding_width(unet), hidden=8)

    def answer(condition: Tensor) -> Tensor:
        latents = torch.ones(3, 48, 8, 8)
        return unet(latents, 100, class_labels=condition).sample

    with torch.no_grad():
        plain, condition = answer(conditioner(unknown())), answer(conditioner(known()))
    assert plain.shape == condition.shape == (3, 48, 8, 8)
    assert (plain - condition).abs().max() > 1e-3
