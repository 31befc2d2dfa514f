import pytest
import torch

from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import apply_affine, arcface_template
from map_pipeline.faces.landmarks import five_points
from map_pipeline.hub import bundled_checkpoint
from map_pipeline.training.candidates import GROUPS, SIZE, Group
from map_pipeline.training.composites import (
    TEMPLATE_RAISE,
    Composite,
    average_faces,
    mean_shape,
    sharpen,
    trimmed_mean,
    warp_to_shape,
)

TEMPLATE = arcface_template(SIZE, TEMPLATE_RAISE)


@pytest.fixture
def landmarks68() -> torch.Tensor:
    """The mean of many neutral faces, in pixels of the picture."""
    shapes = ExpressionSpace.from_pretrained(bundled_checkpoint() / "expression_space")
    return mean_shape(shapes.neutral[None] * SIZE, TEMPLATE)


@pytest.fixture
def picture() -> torch.Tensor:
    """Smooth colourful `[3,S,S]` picture."""
    small = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(
        0.2 + 0.6 * small[None], (SIZE, SIZE), mode="bicubic", align_corners=True
    )[0].clamp(0, 1)


def dot(point: torch.Tensor) -> torch.Tensor:
    """Picture `[3,S,S]` of a bright blob around a point."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    blob = torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 8)
    return blob.expand(3, -1, -1)


def brightest(image: torch.Tensor) -> torch.Tensor:
    index = int(image[0].argmax())
    return torch.tensor([index % SIZE, index // SIZE]).float()


def test_mean_shape_of_equal_faces_ignores_size_roll_and_place(landmarks68: torch.Tensor) -> None:
    turned = apply_affine(torch.tensor([[0.9, -0.2, 11.0], [0.2, 0.9, -7.0]]), landmarks68)
    alone = mean_shape(landmarks68[None], TEMPLATE)
    both = mean_shape(torch.stack([landmarks68, turned]), TEMPLATE)
    torch.testing.assert_close(both, alone, atol=1e-3, rtol=0)


def test_mean_shape_lies_on_the_template(landmarks68: torch.Tensor) -> None:
    five = torch.from_numpy(five_points(mean_shape(landmarks68[None], TEMPLATE).numpy()))
    assert (five - TEMPLATE).abs().max() < 3


def test_warp_onto_its_own_shape_changes_nothing(
    landmarks68: torch.Tensor, picture: torch.Tensor
) -> None:
    warped = warp_to_shape(picture[None], landmarks68[None], landmarks68)[0]
    torch.testing.assert_close(warped, picture, atol=1e-3, rtol=0)


@pytest.mark.parametrize("index", [30, 39, 48, 57])
def test_warp_moves_a_landmark_where_the_shape_has_it(
    landmarks68: torch.Tensor, index: int
) -> None:
    shape = landmarks68 + torch.tensor([3.0, 0.0])
    shape[48:60] += torch.tensor([0.0, 4.0])
    warped = warp_to_shape(dot(landmarks68[index])[None], landmarks68[None], shape)[0]
    assert torch.linalg.vector_norm(brightest(warped) - shape[index]) < 1


def test_average_of_one_face_many_times_is_that_face(
    landmarks68: torch.Tensor, picture: torch.Tensor
) -> None:
    images, faces = picture.expand(6, -1, -1, -1), landmarks68.expand(6, -1, -1)
    average, members = average_faces(images, faces, TEMPLATE, keep=5)
    shape = mean_shape(landmarks68[None], TEMPLATE)
    expected = sharpen(warp_to_shape(picture[None], landmarks68[None], shape)[0])
    inner = (slice(None), slice(55, 100), slice(45, 85))  # inside of the softened surroundings
    torch.testing.assert_close(average[inner], expected[inner], atol=0.01, rtol=0)
    assert len(members) == 5


def test_average_leaves_out_the_face_unlike_the_others(
    landmarks68: torch.Tensor, picture: torch.Tensor
) -> None:
    images = torch.stack([picture, picture, 1 - picture, picture])
    _, members = average_faces(images, landmarks68.expand(4, -1, -1), TEMPLATE, keep=3)
    assert sorted(members.tolist()) == [0, 1, 3]


def test_trimmed_mean_ignores_one_extreme_in_ten() -> None:
    images = torch.full((10, 3, 4, 4), 0.5)
    images[7] = 1.0
    assert torch.equal(trimmed_mean(images), torch.full((3, 4, 4), 0.5))


def test_groups_have_unique_names_and_follow_the_labels() -> None:
    assert len({group.name for group in GROUPS}) == len(GROUPS)
    group = Group(gender=1, race=0, age="young")
    assert group.name == "woman-young-light"
    assert group.describe(12) == "Composite of 12 young women, light skin"
    label = {"gender": 1, "race": 0, "age": 30}
    assert group.includes(label)
    for wrong in ({"age": 17}, {"gender": 0}, {"race": 2}, {"age": None}):
        assert not group.includes(label | wrong)
    assert not group.includes({"source": "celeba-crops"})


def test_no_group_holds_minors() -> None:
    labels = [
        {"gender": g, "race": r, "age": a} for g in (0, 1) for r in range(5) for a in (15, 17)
    ]
    assert not any(group.includes(label) for group in GROUPS for label in labels)


@pytest.mark.parametrize(
    ("rates", "passes"),
    [
        ({"dlib_resnet": 0.01, "mobileface": 0.02}, True),
        ({"dlib_resnet": 0.015}, False),
        ({"mobileface": 0.025}, False),
        ({}, True),
    ],
)
def test_composite_passes_if_few_strangers_match(rates: dict, passes: bool) -> None:
    composite = Composite(GROUPS[0], torch.zeros(3, 2, 2), ("a",), rates)
    assert composite.passes is passes
