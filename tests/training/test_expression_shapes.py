"""Shapes of expressions: the action units' table and what is measured on labelled faces."""

import pytest
import torch
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import MAPError
from map_pipeline.faces.landmarks import MIRRORED
from map_pipeline.training import expression_shapes as shapes_module
from map_pipeline.training.expression_shapes import (
    RECIPES,
    action_units,
    measure_shapes,
    mirrored,
)
from map_pipeline.training.faces import FaceSet

SMILE = EMOTIONS.index("happy")
CORNERS = [48, 54]
# Three people with three expressions each.
PEOPLE = {
    str(person): {
        emotion: [torch.rand(68, 2, generator=torch.Generator().manual_seed(10 * person + seed))]
        for seed, emotion in enumerate(("neutral", "happy", "sad"))
    }
    for person in range(3)
}


def face_set(count: int = 400) -> tuple[FaceSet, Tensor]:
    """Faces of random identity, some with a smile of random size `[N]` (side)."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.linspace(0, 6, 68)
    base = 0.5 + 0.3 * torch.stack([angles.cos(), angles.sin()], 1)
    base = (base + mirrored(base[None])[0]) / 2
    identity = 0.01 * torch.randn(count, 68, 2, generator=generator)
    landmarks68 = base + identity
    smiling = torch.arange(count) % 2 == 0
    size = torch.where(smiling, 0.03 + 0.02 * torch.rand(count, generator=generator), 0.0)
    landmarks68[:, CORNERS, 1] -= size[:, None]
    emotions = torch.zeros(count, 7)
    emotions[smiling, SMILE] = 1
    emotions[~smiling, EMOTIONS.index("neutral")] = 1
    for row, name in enumerate(n for n in EMOTIONS if n not in ("happy", "neutral")):
        emotions[10 * row + 1] = 0
        emotions[10 * row + 1, EMOTIONS.index(name)] = 1
    yes = torch.ones(count).bool()
    names = [str(i) for i in range(count)]
    return FaceSet(names, torch.zeros(count, 1), emotions, landmarks68, yes, ~yes), size


def test_action_units_are_symmetric() -> None:
    moved = action_units(RECIPES["fear"].units)
    other = moved[torch.as_tensor(MIRRORED)] * moved.new_tensor([-1, 1])
    torch.testing.assert_close(moved, other)


def test_action_units_do_what_their_names_say() -> None:
    up = lambda name, point: -float(action_units({name: 1.0})[point, 1])  # noqa: E731
    assert up("inner brow raiser (1)", 21) > 0
    assert up("inner brow raiser (1)", 22) > 0  # the mirror image
    assert up("brow lowerer (4)", 21) < 0
    assert up("lip corner depressor (15)", 54) < 0
    assert up("jaw drop (26)", 8) == -5 * shapes_module.UNIT
    stretched = action_units({"lip stretcher (20)": 1.0})
    assert stretched[48, 0] < 0 < stretched[54, 0]


def test_measured_smile_raises_the_corners() -> None:
    faces, _ = face_set()
    found = measure_shapes(faces, PEOPLE, 2)
    smile = found.displacements[SMILE]
    assert (smile[CORNERS, 1] < -0.03).all()
    assert found.displacements[EMOTIONS.index("neutral")].abs().max() == 0


def test_present_expression_is_seen() -> None:
    faces, size = face_set()
    shapes = measure_shapes(faces, PEOPLE, 2)
    straight, _ = shapes_module.straighten(faces.landmarks68, shapes.neutral)
    corner = torch.stack([-shapes.present(s)[CORNERS, 1].mean() for s in straight])
    assert torch.corrcoef(torch.stack([corner, size]))[0, 1] > 0.9
    smiling = size > 0
    assert (corner[smiling].mean() - size[smiling].mean()).abs() < 0.01


@pytest.mark.parametrize("absent", ["happy", "neutral"])
def test_an_emotion_that_nobody_shows_is_told(absent: str) -> None:
    """Its mean would be no number, and saved as such."""
    faces, _ = face_set()
    faces.emotions[faces.emotions[:, EMOTIONS.index(absent)] == 1] = 0
    with pytest.raises(MAPError, match=f"must show each of .*{absent}.* got no {absent}"):
        measure_shapes(faces, PEOPLE, 2)


def test_faces_without_landmarks_or_label_do_not_count() -> None:
    faces, _ = face_set()
    wrong = FaceSet(
        faces.names * 2,
        faces.images.repeat(2, 1),
        torch.cat([faces.emotions, faces.emotions * 0.5]),
        torch.cat([faces.landmarks68, faces.landmarks68 + 1]),
        faces.has_landmarks.repeat(2),
        faces.grey.repeat(2),
    )
    found, expected = (measure_shapes(one, PEOPLE, 2).displacements for one in (wrong, faces))
    torch.testing.assert_close(found, expected)
