"""The space of expressions is measured on made-up people whose axes and shading are known."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from made_up_space import BROWS, HAPPY, NEUTRAL, OPEN, SMILE, SURPRISE, axis_motions, mean_face
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.errors import MAPError
from map_pipeline.expression.people import LabelledPhoto
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import apply_affine, invert_affine, similarity_transform
from map_pipeline.faces.detect import Face
from map_pipeline.faces.landmarks import five_points
from map_pipeline.training.expression_space import (
    GUESSED,
    SHADING_SIDE,
    by_person,
    differences,
    emotion_means,
    measure_space,
    neutral_starts,
    principal_axes,
    wiener_filter,
)

SIDE = 280  # of a photo, px
MEAN = mean_face()
TEMPLATE = torch.from_numpy(five_points(MEAN[:POINTS].numpy()))
# Axes of the emotions, and the spots `(x, y)` that are darker by a factor with each.
MOTIONS = axis_motions(MEAN)
EMOTIONS = {
    "neutral": torch.zeros(536, 2),
    "happy": 1.5 * MOTIONS[SMILE],
    "surprise": MOTIONS[OPEN] + 0.5 * MOTIONS[BROWS],
}
SPOTS = {"neutral": (), "happy": ((0.26, 0.55), (0.74, 0.55)), "surprise": ((0.5, 0.21),)}
SPOT_WIDTH, SPOT_SHADING = 0.04, -0.5
LAMP = 2.2  # photos are darker towards one side, by so much per side


def shading(emotion: str, amount: float, places: Tensor) -> Tensor:
    """Change of the logarithm of linear brightness at places `[N,2]` of the frame, `[N]`."""
    result = torch.zeros(len(places))
    for spot in SPOTS[emotion]:
        distance = (places - torch.tensor(spot)).square().sum(1)
        result += amount * SPOT_SHADING * (-distance / (2 * SPOT_WIDTH**2)).exp()
    return result


@dataclass
class MadeUpPeople:
    """Photos of people who differ in the width of the jaw and in skin, each in every emotion.

    They play the people, the detector and the mesh network at once: what is found is known.
    """

    photos: list[LabelledPhoto]
    name: str = "known"
    current: int = 0

    @classmethod
    def make(cls, subjects: int = 6) -> "MadeUpPeople":
        photos = [
            LabelledPhoto(f"{emotion}{take}", str(subject), emotion)
            for subject in range(subjects)
            for emotion in EMOTIONS
            for take in range(2)
        ]
        return cls(photos)

    def amount(self, photo: LabelledPhoto) -> float:
        return (0.8, 1.2)[int(photo.file[-1])]

    def shape(self, index: int) -> Tensor:
        """`[536,2]` of the side, upright."""
        photo = self.photos[index]
        own = torch.zeros(536, 2)
        own[:17, 0] = (0.02, -0.02)[int(photo.subject) % 2] * (MEAN[:17, 0] - 0.5).sign()
        return MEAN + own + self.amount(photo) * EMOTIONS[photo.emotion]

    def placement(self, index: int) -> Tensor:
        """Affine `[2,3]` from the frame to px of the photo: turned a little, of another size."""
        angle, scale = math.radians(7 * (index % 5 - 2)), 110 + 9 * (index % 4)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        linear = torch.tensor([[cos, -sin], [sin, cos]])
        return torch.cat([linear, (SIDE / 2 - linear @ torch.tensor([0.5, 0.5]))[:, None]], 1)

    def read(self, photo: LabelledPhoto) -> np.ndarray:
        self.current = self.photos.index(photo)
        axis = torch.arange(SIDE, dtype=torch.float32)
        pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
        places = apply_affine(invert_affine(self.placement(self.current)), pixels)
        linear = shading(photo.emotion, self.amount(photo), places)
        linear += -LAMP * (places[:, 0] - 0.5) * (self.current % 3 - 1) / 2
        skin = torch.tensor([[0.6, 0.4, 0.35], [0.2, 0.12, 0.1]])[int(photo.subject) % 2]
        colour = (linear.exp()[:, None] * skin).clamp(0, 1) ** (1 / 2.2)
        return (255 * colour).round().byte().view(SIDE, SIDE, 3).numpy()

    def detect(self, _photo: np.ndarray) -> list[Face]:
        shape = apply_affine(self.placement(self.current), self.shape(self.current))
        points = shape[:POINTS].numpy()
        return [Face((0, 0, SIDE, SIDE), five_points(points), 1.0, landmarks68=points)]

    def find(self, _images: Tensor, landmarks: Tensor) -> Tensor:
        shape = self.shape(self.current)
        five = torch.from_numpy(five_points(shape[:POINTS].numpy()))
        return apply_affine(similarity_transform(five[None], landmarks)[0], shape[POINTS:])[None]


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    people = MadeUpPeople.make()
    return measure_space(people, people, people, TEMPLATE, axes=2, motions=2)


def test_mean_is_the_neutral_face(space: ExpressionSpace) -> None:
    assert (space.mean - MEAN).norm(dim=1).max() < 0.004


@pytest.mark.parametrize(("name", "index"), [("happy", HAPPY), ("surprise", SURPRISE)])
def test_emotions_move_what_they_moved_in_people(
    space: ExpressionSpace, name: str, index: int
) -> None:
    moved = space.move(space.emotions[index])
    assert (moved - EMOTIONS[name]).norm() < 0.15 * EMOTIONS[name].norm()


def test_neutral_and_unseen_emotions_move_nothing(space: ExpressionSpace) -> None:
    others = [index for index in range(7) if index not in (HAPPY, SURPRISE)]
    assert NEUTRAL in others
    assert not space.emotions[others].any()


def test_axes_are_read_in_units_of_what_people_do(space: ExpressionSpace) -> None:
    torch.testing.assert_close(
        torch.stack([space.read(one) for one in space.moving]), torch.eye(2), atol=1e-3, rtol=0
    )
    people = MadeUpPeople.make()
    shapes = torch.stack([people.shape(index) for index in range(len(people.photos))])
    within = differences(shapes, by_person(people.photos))
    read = torch.stack([space.read(one) for one in within])
    assert read.square().mean(0).sqrt().tolist() == pytest.approx([1, 1], abs=0.1)


def test_expressions_are_told_from_people(space: ExpressionSpace) -> None:
    people = MadeUpPeople.make()
    asked = space.emotions[HAPPY]
    for index, photo in enumerate(people.photos):
        seen = float(space.present(people.shape(index)) @ asked / asked.square().sum())
        if photo.emotion == "happy":
            assert seen > 0.5
        if photo.emotion == "neutral":
            assert abs(seen) < 0.1


@pytest.mark.parametrize(("name", "index"), [("happy", HAPPY), ("surprise", SURPRISE)])
def test_shading_is_found_without_the_lamps(space: ExpressionSpace, name: str, index: int) -> None:
    axis = (torch.arange(SHADING_SIDE) + 0.5) / SHADING_SIDE
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
    given = shading(name, 1.0, places).view(SHADING_SIDE, SHADING_SIDE)
    found = space.shade(space.emotions[index])[0, 0]
    spots = given < 0.5 * SPOT_SHADING
    # The slow part of the spot itself counts as the lamp's.
    assert float(found[spots].mean() / given[spots].mean()) == pytest.approx(0.85, abs=0.2)
    together = torch.stack([found[given < -0.01], given[given < -0.01]])
    assert torch.corrcoef(together)[0, 1] > 0.9
    assert found[given > -1e-3].abs().mean() < 0.05 * abs(SPOT_SHADING)


def test_motions_for_the_protection_are_measured_too(space: ExpressionSpace) -> None:
    assert space.motions.shape == (2, POINTS, 2)
    assert space.motions.abs().amax((1, 2)).min() > 1e-3


def test_controls_are_the_landmarks_and_mesh_points_apart_from_them(
    space: ExpressionSpace,
) -> None:
    assert space.controls[:POINTS].tolist() == list(range(POINTS))
    more = space.controls[POINTS:]
    assert len(more) > 10
    distances = torch.cdist(space.mean[more], space.mean[space.controls])
    assert (distances.sort(1).values[:, 1] > 0.04).all()


def test_what_cannot_be_measured_is_told() -> None:
    people = MadeUpPeople.make(subjects=1)
    with pytest.raises(MAPError, match="more than 6 photos, some of them neutral; got 6, 2"):
        measure_space(people, people, people, TEMPLATE, axes=6)
    people.photos = [one for one in people.photos if one.emotion != "neutral"]
    with pytest.raises(MAPError, match="got 4, 0 neutral"):
        measure_space(people, people, people, TEMPLATE, axes=2)


# --- the parts ---


def test_differences_weigh_emotions_alike() -> None:
    """However often a person was photographed laughing."""
    photos = [LabelledPhoto("", "one", name) for name in ("neutral", "happy", "happy", "happy")]
    photos.append(LabelledPhoto("", "two", "neutral"))
    values = torch.tensor([[0.0], [3.0], [4.0], [5.0], [9.0]])
    found = differences(values, by_person(photos))
    assert found.flatten().tolist() == [-2, 1, 2, 3, 0]


def test_people_without_a_neutral_photo_count_less_by_a_guess() -> None:
    photos = [LabelledPhoto("", "seen", name) for name in ("neutral", "happy")]
    photos.append(LabelledPhoto("", "guessed", "happy"))
    values = torch.tensor([[1.0], [3.0], [10.0]])
    starts = neutral_starts(values, by_person(photos))
    assert (float(starts["seen"][0]), starts["seen"][1]) == (1, True)
    assert (float(starts["guessed"][0]), starts["guessed"][1]) == (8, False)
    other = {**starts, "guessed": (torch.tensor([7.0]), False)}
    means = emotion_means(values, by_person(photos), other)
    assert float(means[HAPPY]) == pytest.approx((2 + 3 * GUESSED) / (1 + GUESSED))
    assert not means[NEUTRAL].any()


def test_principal_axes_come_in_order_and_undo_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    strengths = torch.tensor([3.0, 1.0]) * torch.randn(200, 2, generator=generator)
    directions = torch.randn(2, 536, 2, generator=generator)
    within = torch.einsum("nk,kpc->npc", strengths, directions)
    reading, moving = principal_axes(within, 2)
    torch.testing.assert_close(reading @ moving.flatten(1).T, torch.eye(2), atol=1e-3, rtol=0)
    read = within.flatten(1) @ reading.T
    torch.testing.assert_close(read.square().mean(0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.einsum("nk,kpc->npc", read, moving), within, atol=0.01, rtol=0)
    assert moving[0].norm() > moving[1].norm()


def test_what_only_people_do_is_no_expression() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.tensor([2.0, 0.01]) * torch.randn(500, 2, generator=generator)
    expressions = torch.tensor([0.01, 2.0]) * torch.randn(500, 2, generator=generator)
    found = wiener_filter(people, expressions)
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.0, 1.0])), atol=0.02, rtol=0)
