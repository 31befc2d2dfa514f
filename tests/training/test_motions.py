from pathlib import Path

import numpy as np
import pytest
import torch
from people_zip import write_people
from torch import Tensor

from map_pipeline.errors import MAPError
from map_pipeline.expression.people import PeoplePhotos, split_of
from map_pipeline.faces.detect import Face
from map_pipeline.faces.landmarks import MIRRORED
from map_pipeline.training.motions import (
    FACING_LIDS,
    FACING_LIPS,
    FIXED,
    People,
    measure_motions,
    read_people,
)

LID_SHARE = 0.5


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


class Detector:
    """Finds a face in any picture that isn't black."""

    name = "fixed"

    def detect(self, photo: np.ndarray) -> list[Face]:
        if not photo.any():
            return []
        points = np.full((68, 2), photo[0, 0, 0], np.float32)
        return [Face((0, 0, 9, 9), points[:5], 1.0, landmarks68=points)]


def test_people_to_tune_on_are_read_with_their_emotions(tmp_path: Path) -> None:
    named = {split_of(str(n)): str(n) for n in range(20)}
    one, kept = named["tuning"], named["kept"]
    pictures = [
        (subject, emotion, np.full((64, 64, 3), grey, np.uint8))
        for subject, emotion, grey in (
            (one, "happy", 9),
            (one, "neutral", 7),
            (one, "sad", 0),
            (kept, "happy", 5),
        )
    ]
    path = write_people(tmp_path / "people.zip", pictures)
    found = read_people(PeoplePhotos(path, "tuning"), Detector())
    assert set(found) == {one}
    assert set(found[one]) == {"happy", "neutral"}
    assert found[one]["happy"][0].unique().tolist() == [9]
    assert found[one]["neutral"][0].unique().tolist() == [7]
