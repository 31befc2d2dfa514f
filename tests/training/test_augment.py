import pytest
import torch
from made_up import batch, pictures

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.training.augment import GREY_SHARE, MAX_SHIFT, Batch, augment, mirror, shift

SIDE = 32


def dotted(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Black pictures with one white pixel each, `[B,2]` (x, y), and landmarks that all lie on it.

    Returns:
        `[B,3,S,S]` and `[B,68,2]`.
    """
    images = torch.zeros(len(positions), 3, SIDE, SIDE)
    for row, (x, y) in enumerate(positions.tolist()):
        images[row, :, int(y), int(x)] = 1
    return images, (positions / SIDE)[:, None].expand(-1, POINTS, -1).clone()


def brightest(images: torch.Tensor) -> torch.Tensor:
    """`[B,2]` (x, y) of the brightest pixels."""
    index = images[:, 0].flatten(1).argmax(1)
    return torch.stack([index % SIDE, index // SIDE], 1).float()


def everyone(count: int) -> torch.Tensor:
    return torch.ones(count).bool()


def test_only_chosen_faces_are_mirrored_and_twice_is_not_at_all() -> None:
    faces, chosen = batch(6, SIDE), torch.arange(6) % 2 == 0
    once = mirror(faces.images, faces.landmarks68, chosen)
    assert torch.equal(once[0][::2], faces.images[::2].flip(-1))
    assert torch.equal(once[0][1::2], faces.images[1::2])
    assert torch.equal(once[1][1::2], faces.landmarks68[1::2])
    twice = mirror(*once, chosen)
    assert torch.equal(twice[0], faces.images)
    torch.testing.assert_close(twice[1], faces.landmarks68)


def test_left_and_right_change_places_in_the_mirror() -> None:
    """A dot at the left eye's corner is at the right eye's corner of the mirrored landmarks."""
    left, right = 36, 45
    images, _ = dotted(torch.tensor([[9.0, 12.0]]))
    landmarks68 = torch.rand(1, POINTS, 2)
    landmarks68[0, left] = torch.tensor([9.0, 12.0]) / SIDE
    images, landmarks68 = mirror(images, landmarks68, everyone(1))
    torch.testing.assert_close(landmarks68[0, right] * SIDE, brightest(images)[0])


def test_landmarks_move_with_the_pixels() -> None:
    axis = torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    shifts = torch.cartesian_prod(axis, axis)
    images, landmarks68 = dotted(torch.tensor([[12.0, 17.0]]).expand(len(shifts), -1))
    moved, points = shift(images, landmarks68, shifts)
    torch.testing.assert_close(brightest(moved), torch.tensor([12.0, 17.0]) + shifts)
    torch.testing.assert_close(points[:, 40] * SIDE, brightest(moved))


def test_the_border_is_reflected() -> None:
    ramp = torch.arange(float(SIDE)).expand(1, 3, SIDE, SIDE)
    right, _ = shift(ramp, torch.zeros(1, POINTS, 2), torch.tensor([[2, 0]]))
    assert right[0, 0, 0, :4].tolist() == [2, 1, 0, 1]
    left, _ = shift(ramp, torch.zeros(1, POINTS, 2), torch.tensor([[-3, 0]]))
    assert left[0, 0, 0, -5:].tolist() == [30, 31, 30, 29, 28]


def many(count: int = 2000) -> Batch:
    """Small faces, every second without colour."""
    images = pictures(count, 8).float() / 255
    images[::2] = images[::2].mean(1, keepdim=True)
    grey = torch.zeros(count).bool()
    grey[::2] = True
    return Batch(
        images,
        torch.eye(7)[torch.arange(count) % 7],
        torch.rand(count, POINTS, 2),
        torch.ones(count).bool(),
        grey,
    )


def test_some_faces_lose_their_colour_and_are_marked() -> None:
    before = many()
    after = augment(before, torch.Generator().manual_seed(0))
    spread = after.images.amax(1) - after.images.amin(1)
    colourless = spread.flatten(1).amax(1) < 1e-5
    assert torch.equal(after.grey, colourless)
    assert after.grey[::2].all()  # those without colour stay so
    share = after.grey[1::2].float().mean().item()
    assert share == pytest.approx(GREY_SHARE, abs=0.03)


def test_variations_are_natural_and_drawn_by_the_generator_alone() -> None:
    before = many(200)
    after = augment(before, torch.Generator().manual_seed(1))
    torch.manual_seed(1234)
    again = augment(before, torch.Generator().manual_seed(1))
    other = augment(before, torch.Generator().manual_seed(2))
    assert torch.equal(after.images, again.images)
    assert torch.equal(after.landmarks68, again.landmarks68)
    assert not torch.equal(after.images, other.images)
    assert 0 <= after.images.min() < after.images.max() <= 1
    # Labels stay with their face.
    assert torch.equal(after.emotions, before.emotions)
    assert torch.equal(after.has_landmarks, before.has_landmarks)


def test_all_that_is_known_is_told() -> None:
    faces = batch(5, SIDE)
    answer = faces.condition
    assert torch.equal(answer.emotion, faces.emotions)
    assert torch.equal(answer.shape, faces.landmarks68)
    assert answer.has_shape.tolist() == [1, 1, 1, 1, 0]
    assert answer.grey.tolist() == [0] * 5
    assert len(faces.first(2).images) == len(faces.first(2).condition.shape) == 2
