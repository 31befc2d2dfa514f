import numpy as np
import pytest
import torch
from clips import portrait, turned
from made_up_space import BROWS, SMILE, mean_face, tiny_space

from map_pipeline.expression.editor import EditableFace, lip_gap
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import Alignment
from map_pipeline.faces.paste import feather_mask
from map_pipeline.stages import FoundChange
from map_pipeline.video.change import (
    ADDED,
    FLOW,
    SHADING,
    KeyChange,
    express,
    follow,
    joined,
    keep_lips,
    show,
    unchanged,
)

SIZE = 128


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    return tiny_space()


@pytest.fixture(scope="module")
def shape() -> torch.Tensor:
    return mean_face() * SIZE


def alignment(scale: float = 1.0, x: float = 64.0, y: float = 64.0) -> Alignment:
    """A crop at a place of a frame, with so many frame px for each of its own."""
    to_image = torch.tensor([[scale, 0, x], [0, scale, y]])
    to_crop = torch.tensor([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale]])
    return Alignment(to_crop, to_image, SIZE)


def expression(space: ExpressionSpace, shape: torch.Tensor, **axes: float) -> KeyChange:
    amounts = torch.zeros(4)
    amounts[[SMILE, BROWS]] = torch.tensor([axes.get("smile", 0.0), axes.get("brows", 0.0)])
    face = EditableFace(alignment(), torch.zeros(1, 3, 2 * SIZE, 2 * SIZE), shape)
    return express(space, face, (space.move(amounts), space.shade(amounts)))


def spot(landmarks: torch.Tensor, x: int, y: int) -> KeyChange:
    """A change that adds a bright spot at a place of the crop."""
    residual = torch.zeros(1, 3, SIZE, SIZE)
    residual[..., y - 3 : y + 4, x - 3 : x + 4] = 0.3
    found = FoundChange(residual, torch.ones(1, 1, SIZE, SIZE), None)
    return joined(unchanged(landmarks, SIZE), found)


def middle(picture: np.ndarray) -> np.ndarray:
    """Where what was added to black lies, x and y."""
    weights = picture.astype(float).sum(-1)
    rows, columns = np.indices(weights.shape)
    return np.array([(weights * one).sum() for one in (columns, rows)]) / weights.sum()


def test_an_expression_moves_what_it_asks_for(space: ExpressionSpace, shape: torch.Tensor) -> None:
    key = expression(space, shape, smile=1.5)
    asked = space.moving[SMILE, [48, 54]] * 1.5 * SIZE
    assert torch.allclose(key.moved[[48, 54]], asked, atol=1.5)
    assert key.layers[:, SHADING].min() < -0.1
    assert not key.layers[:, ADDED].any()


def test_lips_part_no_more_than_they_did(space: ExpressionSpace, shape: torch.Tensor) -> None:
    before = shape[:68]
    key = expression(space, shape, smile=1.5)
    assert float(lip_gap(before + key.moved)) == pytest.approx(float(lip_gap(before)), abs=0.6)
    wide = before.clone()
    wide[[65, 66, 67], 1] += 9
    assert float(lip_gap(keep_lips(before, wide))) == pytest.approx(float(lip_gap(before)))


def test_on_its_own_frame_a_change_is_itself(space: ExpressionSpace, shape: torch.Tensor) -> None:
    key = expression(space, shape, smile=1.0, brows=1.0)
    again = follow([key], [1.0], shape[:68], 0)
    assert torch.allclose(again.layers, key.layers, atol=1e-4)
    assert torch.allclose(again.landmarks, key.landmarks, atol=1e-4)


def test_layers_go_where_the_face_goes(shape: torch.Tensor) -> None:
    landmarks, black = shape[:68], np.zeros((256, 256, 3), np.uint8)
    x, y = (int(v) for v in landmarks[48])  # a corner of the mouth
    key = spot(landmarks, x, y)
    moved = landmarks.clone()
    moved[48:] += torch.tensor([0.0, 5.0])  # the jaw drops
    first = middle(show(black, alignment(), key))
    second = middle(show(black, alignment(), follow([key], [1.0], moved, 1)))
    np.testing.assert_allclose(first, [x + 64, y + 64], atol=0.3)
    np.testing.assert_allclose(second - first, [0, 5], atol=1.2)


def test_a_mix_lies_between(shape: torch.Tensor) -> None:
    landmarks, black = shape[:68], np.zeros((256, 256, 3), np.uint8)
    keys = [spot(landmarks, 40, 70), spot(landmarks, 80, 70)]
    sums = [
        int(show(black, alignment(), follow(keys, [1 - w, w], landmarks, 1))[:, :124].sum())
        for w in (0.0, 0.5, 1.0)
    ]
    assert sums[1] == pytest.approx(sums[0] / 2, rel=0.02)
    assert sums[2] == 0


def test_a_motion_that_was_found_is_joined(shape: torch.Tensor) -> None:
    flow = torch.zeros(1, 2, 2 * SIZE, 2 * SIZE)
    flow[:, 0] = -3  # everything goes 3 px to the right
    found = FoundChange(torch.zeros(1, 3, SIZE, SIZE), feather_mask(SIZE), flow)
    key = joined(unchanged(shape[:68], SIZE), found)
    assert torch.allclose(key.moved, torch.tensor([3.0, 0.0]).expand(68, 2), atol=1e-4)
    assert torch.allclose(key.landmarks, shape[:68] + key.moved, atol=1e-4)
    assert torch.equal(key.layers[:, FLOW], flow)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_what_is_added_arrives_whole_at_any_scale(shape: torch.Tensor, scale: float) -> None:
    grey = np.full((400, 400, 3), 100, np.uint8)
    key = spot(shape[:68], 64, 70)
    after = show(grey, alignment(scale), key).astype(float) - grey
    assert after.sum() == pytest.approx(0.3 * 255 * 49 * 3 * scale**2, rel=0.05)
    np.testing.assert_allclose(
        middle(after), 64 + scale * np.array([64, 70]), atol=0.6 * max(scale, 1)
    )


def test_nothing_changes_away_from_the_face(space: ExpressionSpace, shape: torch.Tensor) -> None:
    frame = turned(portrait(), 0)
    key = expression(space, shape, smile=1.0)
    after = show(frame, alignment(0.9, 70, 40), key)
    assert (after != frame).any()
    used = np.zeros((256, 256), bool)
    used[max(40 - 58, 0) : 40 + 173, 70 - 58 : 70 + 173] = True
    np.testing.assert_array_equal(after[~used], frame[~used])
    nothing = show(frame, alignment(), unchanged(shape[:68], SIZE))
    np.testing.assert_array_equal(nothing, frame)


def test_folds_on_light_skin_are_redder_than_the_skin(
    space: ExpressionSpace, shape: torch.Tensor
) -> None:
    frame = np.full((256, 256, 3), (220, 180, 155), np.uint8)
    after = show(frame, alignment(), expression(space, shape, smile=1.5)).astype(float)
    row, column = np.unravel_index(after[..., 1].argmin(), after.shape[:2])
    red, green, blue = after[row, column] / frame[row, column]
    assert blue < green < red < 1


def test_a_face_at_the_edge_is_changed_as_far_as_it_is_there(
    space: ExpressionSpace, shape: torch.Tensor
) -> None:
    key = expression(space, shape, smile=1.0)
    frame = portrait()
    assert show(frame, alignment(1.0, -90, 150), key).shape == frame.shape
    beyond = show(frame, alignment(1.0, 600, 600), key)
    assert beyond.shape == frame.shape


def test_a_shifted_crop_shows_the_same_change_shifted(
    space: ExpressionSpace, shape: torch.Tensor
) -> None:
    key = expression(space, shape, smile=1.0)
    frame = portrait()
    moved = np.roll(frame, (5, 9), (0, 1))
    first = show(frame, alignment(0.8, 60, 40), key)
    second = show(moved, alignment(0.8, 69, 45), key)
    inner = (slice(60, 180), slice(80, 200))
    difference = np.roll(first, (5, 9), (0, 1))[inner].astype(int) - second[inner]
    assert np.abs(difference).max() <= 1
