"""Lips in an edit: when they part, how far, and what is painted between them."""

import pytest
import torch
from diffusers import UNet2DModel
from edits import LIGHT_SKIN, SIZE, face, landmarks_after, plain
from made_up_space import (
    DOWN,
    HAPPY,
    NEUTRAL,
    OPEN,
    SAD,
    SURPRISE,
)
from torch import Tensor

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression import editor
from map_pipeline.expression.editor import (
    CLOSED_GAP,
    FINE,
    OWN_TEETH,
    SMILE_CLOSED,
    _part_lips,
    asked_change,
    edit_expression,
    lip_gap,
)
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.hub import bundled_checkpoint


def test_parted_lips_open_as_far_as_asked(space: ExpressionSpace) -> None:
    shape = space.mean + 0.5 * space.moving[OPEN]
    after = landmarks_after(edit_expression(space, None, face(shape), SURPRISE, 1.0), shape)
    asked = lip_gap(space.mean + space.moving[OPEN])
    assert lip_gap(after) == pytest.approx(float(asked), rel=0.15)


def test_closed_lips_part_as_far_as_asked_if_there_is_something_to_paint(
    space: ExpressionSpace, painter: UNet2DModel
) -> None:
    asked = lip_gap(space.mean + space.moving[OPEN])
    reached, unpainted = (
        landmarks_after(edit_expression(space, p, face(space.mean), SURPRISE, 1.0), space.mean)
        for p in (painter, None)
    )
    assert lip_gap(reached) == pytest.approx(float(asked), rel=0.15)
    assert lip_gap(unpainted) < 0.8 * asked, "skin can't be stretched at will"


def test_closed_lips_smile_without_parting_unless_the_smile_is_wide() -> None:
    shipped = ExpressionSpace.from_pretrained(bundled_checkpoint() / "expression_space")
    calm = shipped.mean.clone()
    opened = calm.clone()
    _part_lips(opened, torch.tensor(OWN_TEETH))

    def parted(shape: Tensor, strength: float, units: dict[str, float] | None = None) -> float:
        moved, _ = asked_change(shipped, shape, HAPPY, strength, units or {})
        corners = moved[[48, 54], 0]
        assert corners[1] - corners[0] > 0.02 * strength, "it smiles in any case"
        return float(lip_gap(moved[:POINTS]))

    assert abs(parted(calm, SMILE_CLOSED)) < 1e-3
    assert 0 < parted(calm, 0.85) < parted(calm, 1.0)
    assert parted(opened, SMILE_CLOSED) > 0.005
    assert parted(calm, SMILE_CLOSED, {"mouth_open": 0.5}) > 0.01, "asked for by itself"


@pytest.mark.parametrize("gap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("unit", [-1.0, 1.0])
def test_lips_do_not_cross(space: ExpressionSpace, gap: float, unit: float) -> None:
    """However far the mouth is closed."""
    shape = space.mean + gap * space.moving[OPEN]
    own = float(lip_gap(shape))
    edit = edit_expression(space, None, face(shape), NEUTRAL, 1.0, {"mouth_open": unit})
    assert float(lip_gap(landmarks_after(edit, shape))) > min(own, CLOSED_GAP) - 0.003


def test_lips_that_touch_do_not_close_further(space: ExpressionSpace) -> None:
    """Else they would be squeezed."""
    edit = edit_expression(space, None, face(space.mean), None, 1.0, {"mouth_open": -1.0})
    assert edit.flow.any(), "but the chin rises"
    own, after = lip_gap(space.mean), lip_gap(landmarks_after(edit, space.mean))
    assert float(after) == pytest.approx(float(own), abs=0.001)


def test_parted_lips_are_painted_between(space: ExpressionSpace, painter: UNet2DModel) -> None:
    one = face(space.mean)
    with_painter, without = (edit_expression(space, p, one, SURPRISE, 0.4) for p in (painter, None))
    assert torch.equal(with_painter.flow, without.flow)
    painted = (with_painter.painting - without.painting).abs().amax((0, 1))
    assert painted.max() > 0.1
    rows, columns = (painted > 0.02).nonzero().unbind(1)
    lips = landmarks_after(with_painter, space.mean)[48:60] * SIZE * FINE
    assert columns.min() > lips[:, 0].min() - 2
    assert columns.max() < lips[:, 0].max() + 2
    assert rows.min() > lips[:, 1].min() - 2
    assert rows.max() < lips[:, 1].max() + 2


@pytest.mark.parametrize("emotion", [SAD, SURPRISE])
def test_own_open_mouth_is_not_painted_over(
    space: ExpressionSpace, painter: UNet2DModel, emotion: int
) -> None:
    shape = space.mean + space.moving[OPEN]
    assert lip_gap(shape) > CLOSED_GAP + OWN_TEETH
    one = face(shape)
    with_painter, without = (
        edit_expression(space, p, one, emotion, 1.0, {"mouth_open": 0.5}) for p in (painter, None)
    )
    assert torch.equal(with_painter.painting, without.painting)


def test_closed_lips_that_landmarks_take_for_open_ones_are_painted_between(
    space: ExpressionSpace, painter: UNet2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full lips: no teeth are seen in what looks like a gap; where they are, they stay."""
    wide = lip_gap(space.mean + space.moving[OPEN]) - lip_gap(space.mean)
    shape = space.mean + space.moving[OPEN] * (OWN_TEETH + CLOSED_GAP) / wide
    one, units = face(shape, plain(LIGHT_SKIN)), {"mouth_open": 0.5}
    painted = {}
    for teeth in (False, True):
        monkeypatch.setattr(editor, "shows_teeth", lambda *_, seen=teeth: seen)
        with_painter, without = (
            edit_expression(space, p, one, None, 1.0, units) for p in (painter, None)
        )
        painted[teeth] = not torch.equal(with_painter.painting, without.painting)
    assert painted == {False: True, True: False}


def test_lips_that_stay_together_show_no_painting(
    space: ExpressionSpace, painter: UNet2DModel
) -> None:
    space.moving[DOWN, 48:68] = space.moving[DOWN, 48:68].mean(0)  # all lips alike
    one = face(space.mean)
    with_painter, without = (edit_expression(space, p, one, SAD, 1.0) for p in (painter, None))
    assert without.flow.any()
    assert torch.equal(with_painter.painting, without.painting)
