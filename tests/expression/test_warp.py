"""Properties of the landmark warp: it goes where asked, smoothly, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from map_pipeline.expression import warp
from map_pipeline.expression.warp import deform_crop, deform_photo, displacement, least_area
from map_pipeline.faces.align import Alignment, apply_affine, invert_affine

SIZE = 128


def landmarks() -> Tensor:
    """`[68,2]` spread over a face: rings of points, the lips as two small ones."""
    ring = lambda n, r, cx, cy: torch.stack(  # noqa: E731
        [
            cx + r * torch.cos(torch.arange(n) * 2 * math.pi / n),
            cy + 0.5 * r * torch.sin(torch.arange(n) * 2 * math.pi / n),
        ],
        1,
    )
    parts = [(17, 50, 64, 80), (10, 30, 64, 45), (9, 8, 64, 70), (6, 7, 44, 52), (6, 7, 84, 52)]
    lips = [(12, 17, 64, 98), (8, 12, 64, 98)]
    return torch.cat([ring(*part) for part in parts + lips])


def raised(by: float) -> Tensor:
    """The same with everything of the mouth moved up and outwards."""
    moved = landmarks()
    moved[48:] += torch.tensor([by / 2, -by])
    return moved


def random_photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def at(scale: float, degrees: float, shift: tuple[float, float]) -> Alignment:
    a = scale * math.cos(math.radians(degrees))
    b = scale * math.sin(math.radians(degrees))
    crop_to_image = torch.tensor([[a, -b, shift[0]], [b, a, shift[1]]])
    return Alignment(invert_affine(crop_to_image), crop_to_image, SIZE)


def test_flow_brings_landmarks_where_asked() -> None:
    before, after = landmarks(), raised(4.0)
    flow, reached = displacement(before, after, SIZE)
    torch.testing.assert_close(reached, after)
    assert flow.shape == (1, 2, 2 * SIZE, 2 * SIZE)
    found = after + warp._sample(flow, after)[0].T
    assert (found - before).norm(dim=1).max() < 1.5
    assert (found - before).norm(dim=1).mean() < 0.3


def test_nothing_moves_when_nothing_is_asked() -> None:
    assert displacement(landmarks(), landmarks(), SIZE)[0].abs().max() == 0


def test_flow_is_zero_at_its_border_and_far_from_what_moves() -> None:
    flow, _ = displacement(landmarks(), raised(6.0), SIZE)
    edge = [flow[..., 0, :], flow[..., -1, :], flow[..., :, 0], flow[..., :, -1]]
    assert torch.cat(edge, -1).abs().max() == 0
    assert flow[..., : SIZE // 2 + 30, :].abs().max() < 0.2  # above the eyes


@pytest.mark.parametrize("by", [3.0, 10.0, 30.0, -40.0])
def test_flow_never_folds(by: float) -> None:
    assert least_area(displacement(landmarks(), raised(by), SIZE)[0]) > 0


def test_what_would_fold_goes_only_a_part_of_the_way() -> None:
    before, after = landmarks(), raised(30.0)
    flow, reached = displacement(before, after, SIZE)
    share = (reached - before).norm() / (after - before).norm()
    assert 0 < share < 1
    torch.testing.assert_close(reached, torch.lerp(before, after, share))
    # What the flow shows at the places reached comes from the landmarks, a pixel or so apart.
    columns, rows = (reached + SIZE / 2).round().long().unbind(1)
    inside = (columns >= 0) & (columns < 2 * SIZE) & (rows >= 0) & (rows < 2 * SIZE)
    shown = reached + flow[0, :, rows.clamp(0, 2 * SIZE - 1), columns.clamp(0, 2 * SIZE - 1)].T
    moves = inside & ((after - before).norm(dim=1) > 0)
    assert (shown - before)[moves].norm(dim=1).max() < 0.2 * (reached - before).norm(dim=1).max()


def test_flow_never_folds_when_points_change_places() -> None:
    after = landmarks()
    after[[51, 57]] = after[[57, 51]]
    assert least_area(displacement(landmarks(), after, SIZE)[0]) > 0


def test_least_area_of_a_uniform_stretch() -> None:
    axis = torch.arange(16.0)
    flow = torch.zeros(1, 2, 16, 16)
    flow[0, 0] = 0.5 * axis
    assert least_area(flow) == pytest.approx(1.5)
    flow[0, 0] = -2 * axis
    assert least_area(flow) == pytest.approx(-1)


def test_deform_moves_a_spot_with_its_landmark() -> None:
    crop = torch.zeros(1, 3, SIZE, SIZE)
    before, after = landmarks(), raised(4.0)
    x, y = before[48].round().long().tolist()
    crop[..., y - 2 : y + 3, x - 2 : x + 3] = 1
    result = deform_crop(crop, displacement(before, after, SIZE)[0])[0, 0]
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    mean = torch.stack([(result * columns).sum(), (result * rows).sum()]) / result.sum()
    torch.testing.assert_close(mean, after[48], atol=1.2, rtol=0)


def test_deform_is_differentiable() -> None:
    crop = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    deform_crop(crop, displacement(landmarks(), raised(6.0), SIZE)[0]).sum().backward()
    assert crop.grad is not None
    assert crop.grad.isfinite().all()


def test_photo_keeps_its_bits_where_nothing_moves() -> None:
    photo, alignment = random_photo(300, 320), at(1.2, 10.0, (60.0, 50.0))
    flow, _ = displacement(landmarks(), raised(6.0), SIZE)
    result = deform_photo(photo, alignment, flow)
    assert (result != photo).any()
    rows, columns = np.nonzero((result != photo).any(-1))
    places = torch.tensor(np.stack([columns, rows], 1)).float()
    inside = apply_affine(alignment.image_to_crop, places)
    shift = warp._sample(flow, inside)[0].abs().amax(0)
    assert shift.min() >= warp.UNMOVED * 0.99
    np.testing.assert_array_equal(deform_photo(photo, alignment, flow * 0), photo)


def test_two_flows_in_one() -> None:
    """What is deformed twice is deformed by the joined flow at once."""
    first = displacement(landmarks(), raised(4.0), SIZE)[0]
    second = displacement(landmarks(), landmarks() + torch.tensor([1.5, -1.0]), SIZE)[0]
    x, y = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy")
    crop = ((x / 9).sin() * (y / 7).cos() / 4 + 0.5).expand(1, 3, -1, -1)
    twice = warp.deform_crop(warp.deform_crop(crop, first), second)
    once = warp.deform_crop(crop, warp.join_flows(first, second))
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (once - twice)[inner].abs().max() < 0.01 < (once - crop)[inner].abs().max()


def test_faces_of_a_batch_are_deformed_each_by_its_flow() -> None:
    flows = [displacement(landmarks(), raised(px), SIZE)[0] for px in (0.0, 3.0, 6.0)]
    crops = torch.rand(3, 3, SIZE, SIZE)
    together = warp.deform_crop(crops, torch.cat(flows))
    for crop, flow, found in zip(crops, flows, together, strict=True):
        torch.testing.assert_close(found[None], warp.deform_crop(crop[None], flow))


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, alignment = random_photo(260, 240), at(1.3, -20.0, (30.0, 60.0))
    flow, _ = displacement(landmarks(), raised(8.0), SIZE)
    whole = deform_photo(photo, alignment, flow)
    monkeypatch.setattr(warp, "STRIP_PIXELS", 5000)
    strips = deform_photo(photo, alignment, flow)
    assert np.abs(whole.astype(int) - strips).max() <= 1


def test_a_face_at_the_edge_of_the_photo() -> None:
    photo = random_photo(90, 100)
    result = deform_photo(
        photo, at(1.0, 0.0, (-40.0, -30.0)), displacement(landmarks(), raised(6.0), SIZE)[0]
    )
    assert result.shape == photo.shape
