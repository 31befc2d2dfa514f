import pytest
import torch
from torch import Tensor

from map_pipeline.errors import MAPError
from map_pipeline.faces.landmarks import MIRRORED
from map_pipeline.training.motions import (
    FACING_LIDS,
    FACING_LIPS,
    FIXED,
    People,
    measure_motions,
)


def neutral_face() -> Tensor:
    """A symmetric shape in units of the side."""
    shape = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    mirror = shape[torch.as_tensor(MIRRORED)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    return (shape + mirror) / 2


def people(count: int = 6) -> People:
    generator = torch.Generator().manual_seed(1)
    shapes = lambda: [neutral_face() + 0.01 * torch.randn(68, 2, generator=generator)]  # noqa: E731
    return {str(n): {e: shapes() for e in ("neutral", "happy", "sad")} for n in range(count)}


def test_motions_are_alike_left_and_right_and_leave_nose_and_outline() -> None:
    found = measure_motions(people(), neutral_face(), 4)
    assert found.shape == (4, 68, 2)
    assert found.abs().amax((1, 2)).min() > 1e-4
    mirror = found[:, torch.as_tensor(MIRRORED)] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(found, mirror, atol=1e-6, rtol=0)
    assert found[:, list(FIXED)].abs().max() < 1e-6


def test_lips_stay_together_and_lids_half() -> None:
    found = measure_motions(people(), neutral_face(), 4)
    upper, lower = (list(points) for points in zip(*FACING_LIPS, strict=True))
    torch.testing.assert_close(found[:, upper], found[:, lower], atol=1e-6, rtol=0)
    upper, lower = (list(points) for points in zip(*FACING_LIDS, strict=True))
    assert (found[:, upper] - found[:, lower]).abs().max() > 1e-4


def test_standard_deviations_come_in_order() -> None:
    lengths = measure_motions(people(30), neutral_face(), 8).flatten(1).norm(dim=1)
    assert (lengths.diff() <= 0).all()


def test_too_few_expressions() -> None:
    with pytest.raises(MAPError, match="`people` must show at least 5 expressions, got 4"):
        measure_motions(people(2), neutral_face(), 5)
