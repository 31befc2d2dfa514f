"""The expression edit: shapes, the strength knob, determinism, where it changes a photo."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import FaceConditioner, embedding_width
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.editor import (
    WHITE_TINT,
    EditSettings,
    ExpressionEdit,
    apply_edit,
    edit_expression,
    natural_colours,
    polygon_mask,
    smooth,
)
from map_pipeline.expression.shapes import INTENSITY, ExpressionShapes, lip_gap
from map_pipeline.expression.warp import least_area
from map_pipeline.faces.align import Alignment, apply_affine
from map_pipeline.faces.paste import feather_mask
from map_pipeline.training.expression_shapes import RECIPES, action_units

SIZE = 64
SETTINGS = EditSettings(timestep=300, inversion_steps=2, generation_steps=2)
HAPPY, SAD, SURPRISE = (EMOTIONS.index(name) for name in ("happy", "sad", "surprise"))


def neutral_shape() -> Tensor:
    """A plausible face `[68,2]`, units of the side."""
    shape = torch.zeros(68, 2)
    angle = torch.linspace(3.3, -0.2, 17)
    shape[:17] = torch.stack([0.5 + 0.37 * angle.cos(), 0.55 + 0.44 * angle.sin()], 1)
    line = lambda a, b, y: torch.stack(  # noqa: E731
        [torch.linspace(a, b, 5), torch.full((5,), y)], 1
    )
    shape[17:22], shape[22:27] = line(0.2, 0.44, 0.32), line(0.56, 0.8, 0.32)
    shape[27:31] = torch.tensor([[0.5, 0.4], [0.5, 0.46], [0.5, 0.52], [0.5, 0.58]])
    shape[31:36] = line(0.43, 0.57, 0.62)
    eye = torch.tensor([[-6, 0], [-2, -2], [2, -2], [6, 0], [2, 2], [-2, 2]]) / 100
    shape[36:42], shape[42:48] = eye + torch.tensor([0.34, 0.4]), eye + torch.tensor([0.66, 0.4])
    lips = [[-13, 0], [-8, -3], [-3, -4], [0, -4], [3, -4], [8, -3], [13, 0]]
    lips += [[8, 4], [3, 5], [0, 5], [-3, 5], [-8, 4], [-11, 0], [-4, 0], [0, 0], [4, 0]]
    lips += [[11, 0], [4, 1], [0, 1], [-4, 1]]
    shape[48:] = torch.tensor(lips) / 100 + torch.tensor([0.5, 0.77])
    return shape


@pytest.fixture
def shapes() -> ExpressionShapes:
    found = ExpressionShapes()
    found.neutral.copy_(neutral_shape())
    moves = [action_units(RECIPES[name].units) for name in EMOTIONS]
    moves[SURPRISE] = moves[SURPRISE] + action_units({"jaw drop (26)": 1.5})
    found.displacements.copy_(torch.stack(moves))
    found.estimator.copy_(0.5 * torch.eye(136))
    return found


@pytest.fixture
def networks() -> tuple[UNet2DModel, FaceConditioner, DDIMScheduler]:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        class_embed_type="identity",
    ).eval()
    return unet, FaceConditioner(embedding_width(unet), hidden=16).eval(), DDIMScheduler()


def crop() -> Tensor:
    return smooth(torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)), 2.0)


def edit(
    networks: tuple, shapes: ExpressionShapes, emotion: int = SURPRISE, strength: float = 1.0
) -> ExpressionEdit:
    landmarks68 = neutral_shape() * SIZE
    return edit_expression(*networks, shapes, crop(), landmarks68, emotion, strength, SETTINGS)


@pytest.mark.parametrize("emotion", range(7))
def test_edit_is_finite_and_does_not_fold(
    networks: tuple, shapes: ExpressionShapes, emotion: int
) -> None:
    found = edit(networks, shapes, emotion)
    assert found.flow.shape == (1, 2, 2 * SIZE, 2 * SIZE)
    assert found.painting.shape == (1, 3, SIZE, SIZE)
    assert found.painting.isfinite().all()
    assert found.painting.abs().max() <= 2
    assert least_area(found.flow) > 0


def test_edit_is_deterministic(networks: tuple, shapes: ExpressionShapes) -> None:
    first, second = edit(networks, shapes), edit(networks, shapes)
    assert torch.equal(first.flow, second.flow)
    assert torch.equal(first.painting, second.painting)


def test_no_strength_no_change(networks: tuple, shapes: ExpressionShapes) -> None:
    found = edit(networks, shapes, strength=0.0)
    assert found.flow.abs().max() < 1e-4
    assert found.painting.abs().max() == 0


def test_no_strength_no_change_even_with_crossed_lips(
    networks: tuple, shapes: ExpressionShapes
) -> None:
    """Landmarks of closed lips may cross, and lips are pulled apart for any expression."""
    crossed = neutral_shape()
    crossed[[65, 66, 67], 1] -= 0.03
    crop = torch.rand(1, 3, SIZE, SIZE)
    found = edit_expression(*networks, shapes, crop, crossed * SIZE, SAD, 0.0, SETTINGS)
    assert found.flow.abs().max() == 0
    assert not found.painting.any()


def test_motion_grows_with_strength(networks: tuple, shapes: ExpressionShapes) -> None:
    motion = [edit(networks, shapes, strength=s).flow.abs().mean() for s in (0.25, 0.5, 1.0)]
    assert motion[0] < motion[1] < motion[2]


def test_surprise_opens_the_mouth_and_sadness_lowers_its_corners(shapes: ExpressionShapes) -> None:
    own = neutral_shape()
    assert lip_gap(shapes.target(own, SURPRISE, 1.0)) > lip_gap(own) + 0.03
    assert (shapes.target(own, SAD, 1.0)[[48, 54], 1] > own[[48, 54], 1] + 0.02).all()


def test_present_expression_goes_first(shapes: ExpressionShapes) -> None:
    smiling = neutral_shape()
    smiling[[48, 54], 1] -= 0.04
    calm = shapes.target(smiling, EMOTIONS.index("neutral"), 1.0)
    assert (calm[[48, 54], 1] > smiling[[48, 54], 1] + 0.01).all()


def test_an_open_mouth_closes(shapes: ExpressionShapes) -> None:
    opened = neutral_shape()
    opened[[65, 66, 67], 1] += 0.06
    opened[55:60, 1] += 0.06
    assert lip_gap(shapes.target(opened, SAD, 1.0)) < 0.015
    half = lip_gap(shapes.target(opened, SAD, 0.5))
    assert 0.02 < half < lip_gap(opened)


def test_who_laughs_may_go_on_laughing(shapes: ExpressionShapes) -> None:
    """Asked for a smile, a laughing mouth isn't narrowed; asked for anything else it is."""
    seen = 1.2 * INTENSITY["happy"] * shapes.displacements[HAPPY]
    laughing = neutral_shape() + seen / 0.5  # of which the estimator sees half
    laughing[[65, 66, 67], 1] += 0.06
    laughing[55:60, 1] += 0.06
    own = lip_gap(laughing)
    assert lip_gap(shapes.target(laughing, HAPPY, 1.0)) > 0.9 * own
    assert lip_gap(shapes.target(laughing, SAD, 1.0)) < 0.4 * own


def test_target_follows_a_turned_and_moved_face(shapes: ExpressionShapes) -> None:
    affine = torch.tensor([[0.9, -0.2, 0.1], [0.2, 0.9, 0.0]])
    plain = shapes.target(neutral_shape(), SURPRISE, 1.0)
    turned = shapes.target(apply_affine(affine, neutral_shape()), SURPRISE, 1.0)
    torch.testing.assert_close(turned, apply_affine(affine, plain), atol=2e-3, rtol=0)


def test_photo_changes_only_around_the_face(networks: tuple, shapes: ExpressionShapes) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    place = torch.tensor([[1.0, 0.0, 70.0], [0.0, 1.0, 60.0]])
    back = torch.tensor([[1.0, 0.0, -70.0], [0.0, 1.0, -60.0]])
    alignment = Alignment(back, place, SIZE)
    result = apply_edit(photo, alignment, edit(networks, shapes), feather_mask(SIZE))
    changed = (result != photo).any(-1)
    assert changed.any()
    assert not changed[: 60 - SIZE // 2].any()
    assert not changed[:, 70 + SIZE + SIZE // 2 + 1 :].any()


def test_shapes_survive_saving(shapes: ExpressionShapes, tmp_path: Path) -> None:
    shapes.save_pretrained(tmp_path)
    loaded = ExpressionShapes.from_pretrained(tmp_path)
    assert torch.equal(loaded.displacements, shapes.displacements)
    assert torch.equal(loaded.estimator, shapes.estimator)
    assert not list(tmp_path.glob("*.bin"))


def test_polygon_mask_has_the_polygons_area() -> None:
    square = torch.tensor([[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]])
    assert float(polygon_mask(square, SIZE).sum()) == pytest.approx(20 * 30, rel=0.03)


def test_smooth_keeps_the_mean_of_a_constant() -> None:
    flat = torch.full((2, 3, 20, 24), 0.3)
    torch.testing.assert_close(smooth(flat, 2.0), flat)


def test_colours_that_no_face_has_are_left_out_and_brightness_stays() -> None:
    skin = torch.tensor([0.7, 0.5, 0.4]).view(1, 3, 1, 1).expand(1, 3, 8, 8).clone()
    skin[..., 0, :] = torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1)  # lips
    magenta, green = torch.tensor([0.9, 0.1, 0.9]), torch.tensor([0.2, 0.6, 0.3])
    for colour in (magenta, green):
        painted = skin.clone()
        painted[..., 4, 4] = colour
        result = natural_colours(painted, skin)
        red, _, blue = result[0, :, 4, 4]
        luma = to_grey(result)[0, 0, 4, 4]
        assert torch.allclose(to_grey(result), to_grey(painted), atol=1e-6)
        tint = WHITE_TINT * float(luma / to_grey(skin).mean())
        most_blue = luma + tint * float((skin - to_grey(skin))[:, 2].mean())
        least_red = luma + tint * float((skin - to_grey(skin))[:, 0].mean())
        assert blue <= most_blue + 1e-6, "no bluer than teeth"
        assert least_red - 1e-6 <= red <= luma + 0.3, "no greener than teeth, no redder than lips"
        untouched = torch.ones(8, 8).bool()
        untouched[4, 4] = False
        assert torch.allclose(result[..., untouched], skin[..., untouched], atol=1e-6)


def test_white_takes_some_of_the_warmth_of_the_light() -> None:
    skin = torch.tensor([0.7, 0.5, 0.4]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    teeth = skin.clone()
    teeth[..., 4, 4] = 0.8
    red, _, blue = natural_colours(teeth, skin)[0, :, 4, 4]
    luma, luma_skin = 0.8, float(to_grey(skin).mean())
    assert float(red) / luma - 1 == pytest.approx(WHITE_TINT * (0.7 / luma_skin - 1), abs=0.01)
    assert float(blue) / luma - 1 == pytest.approx(WHITE_TINT * (0.4 / luma_skin - 1), abs=0.01)


def test_in_neutral_light_white_stays_white() -> None:
    grey = torch.full((1, 3, 8, 8), 0.4)
    teeth = grey.clone()
    teeth[..., 4, 4] = 0.8
    assert torch.allclose(natural_colours(teeth, grey), teeth, atol=1e-6)


def test_blue_paint_that_was_there_before_stays() -> None:
    painted_face = torch.tensor([0.2, 0.3, 0.9]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert torch.allclose(natural_colours(painted_face, painted_face), painted_face, atol=1e-6)


def test_the_present_expression_is_what_the_painting_leads_away_from(
    networks: tuple, shapes: ExpressionShapes
) -> None:
    unet, conditioner, scheduler = networks
    landmarks68 = shapes.neutral * SIZE

    def painting(present: Tensor | None) -> Tensor:
        return edit_expression(
            unet, conditioner, scheduler, shapes, crop(), landmarks68, SAD, 1.0, SETTINGS, present
        ).painting

    already = torch.eye(len(EMOTIONS))[SAD]
    assert not torch.equal(painting(None), painting(torch.eye(len(EMOTIONS))[SURPRISE]))
    assert not torch.equal(painting(None), painting(already))
