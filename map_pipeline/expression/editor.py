"""An expression that people can see: features and skin are moved, shaded, and mouths filled.

1. The axes of expression (`expression.space`) from the face's present expression to the asked one
   say where its points go, and the photo is deformed at its own resolution (`expression.warp`).
2. The same axes say where skin gets darker or lighter: folds and cheeks. That multiplies the
   photo's own brightness, so that every pore stays, in the colours of skin (`expression.shading`).
3. An upper lid may come down over its eye (`expression.eyelids`).
4. Between lips that part, a small diffusion network paints teeth and the dark of the mouth
   (`expression.mouth`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.expression.action_units import (
    WINKS,
    displacement_of,
    mirrored,
    moves_one_half,
    shown_by,
    side_of,
)
from map_pipeline.expression.eyelids import cover, find_eye, lid_flow, shut
from map_pipeline.expression.head_turn import without_turn
from map_pipeline.expression.mouth import paint_mouth, shows_teeth
from map_pipeline.expression.shading import in_own_colour
from map_pipeline.expression.space import ExpressionSpace, straighten
from map_pipeline.expression.warp import (
    GRID,
    deform,
    deform_photo,
    displacement,
    enlarge,
    flow_grid,
    join_flows,
    spread,
)
from map_pipeline.faces.align import Alignment, apply_affine, compose_affine, invert_affine
from map_pipeline.faces.paste import paste_residual

FINE = 2  # the painting has this many pixels for each of the crop's
GAMMA = 2.2  # of sRGB, roughly: shading is a factor of linear brightness
REACH = 0.35  # of the interpolation that lays shading on a face, of the side
# How far the outline of the jaw goes along; all of it would drag neck and collar.
JAW_MOBILITY = 0.7
# The outline beside eyes and cheeks, pairs from the top: how far it goes along, by itself and where
# an expression is copied.
SIDES = ((0, 16), (1, 15), (2, 14), (3, 13))
SIDES_MOBILITY, SIDES_COPIED = (0.0, 0.0, 0.0, 0.5), (0.25, 0.25, 0.5, 0.75)
# Landmark networks know which faces are likely, so of a deformed face they see about three quarters
# of the deformation, as they do of a real one: a copy goes as much further.
SEEN_LESS = 1.3
# Facing pairs of the inner lips; points of the upper and of the lower lip.
INNER_UPPER, INNER_LOWER = (61, 62, 63), (67, 66, 65)
UPPER_LIP = (49, 50, 51, 52, 53, 61, 62, 63)
LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)
INNER_MOUTH = slice(60, 68)
# What the landmark network sees between closed lips, of the side; how far lips part until what's
# between them is all painted. How far lips may be apart before, so that nothing of the person's own
# teeth is painted over, or of a dark mouth; at half of it, all is painted.
CLOSED_GAP, OPENING = 0.006, 0.02
OWN_TEETH, OWN_DARK = 0.02, 0.04
# Closed lips smile without parting up to the first strength, and part as far as people's do from
# the second on: teeth that are painted are what people take for edited first.
SMILE_CLOSED, SMILE_PARTED = 0.7, 1.0
HAPPY = EMOTIONS.index("happy")


@dataclass(frozen=True, eq=False)
class EditableFace:
    """What an edit needs of a face; found once, it serves for any number of edits.

    Attributes:
        alignment: where the crop of side s lies in the photo.
        crop: `[1,3,2s,2s]` in [0,1], the same crop at twice the resolution.
        shape: `[536,2]` landmarks and mesh, crop px.
        depth: `[468]` crop px, of the mesh; None if it isn't known.
    """

    alignment: Alignment
    crop: Tensor
    shape: Tensor
    depth: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ExpressionModel:
    """A face whose expression is to be copied, and whether it's the same person's."""

    face: EditableFace
    same_person: bool


@dataclass(frozen=True, eq=False)
class ExpressionEdit:
    """Another expression for one aligned face; apply it with `apply_edit`.

    Attributes:
        flow: `[1,2,2s,2s]` crop px, see `expression.warp`.
        painting: `[1,3,2s,2s]` in [-1,1], what is added to the deformed crop, at twice its
            resolution.
        covering: `[1,3,2s,2s]` in [-1,1], what is added before it's deformed, see
            `expression.eyelids`; None for nothing.
    """

    flow: Tensor
    painting: Tensor
    covering: Tensor | None = None


@torch.no_grad()
def edit_expression(
    space: ExpressionSpace,
    mouth_painter: UNet2DModel | None,
    face: EditableFace,
    emotion: int | None,
    strength: float,
    action_units: Mapping[str, float] | None = None,
    model: ExpressionModel | None = None,
) -> ExpressionEdit:
    """Give a face another expression. Nothing in it is random.

    Args:
        mouth_painter: see `expression.mouth`; without it lips that part show what a warp makes.
        emotion: index in `EMOTIONS`, or None for action units alone.
        strength: of the emotion, 0 for none, 1 for what people do.
        action_units: what is added to it; see `expression.action_units`.
        model: a face whose expression is copied, in place of the emotion, as far as `strength`
            says.
    """
    size = face.alignment.size
    shape, to_frame = straighten(face.shape[None].cpu() / size, space.mean)
    shape = shape[0]
    copied = None if model is None else copied_change(space, face, model, strength)
    moved, shading = asked_change(space, shape, emotion, strength, action_units or {}, copied)
    if not moved.any():
        return no_edit(size)
    reached = shape + moved * mobility(copied is not None)
    reached[:POINTS] = _closed_at_most(shape[:POINTS], reached[:POINTS])
    in_crop = apply_affine(invert_affine(to_frame[0]), reached) * size
    controls = space.controls
    flow, places = displacement(
        face.shape.cpu()[controls], in_crop[controls], size, mouth_painter is not None
    )
    closed = closed_eyes(face, strength, action_units or {}, model)
    crop, covering = face.crop, None
    if closed:
        eyes = [find_eye(face.shape.cpu()[:POINTS], *one) for one in closed.items()]
        covering = cover(crop.cpu(), eyes, invert_affine(fine_to_crop()))
        crop = (crop + covering.to(crop)).clamp(0, 1)
    warped = deform(crop, fine_to_crop(), flow)
    shade = shading_map(space, shading, places, to_frame[0], size)
    change = warped * shade.expm1().to(warped)
    painted = (warped + in_own_colour(change, warped).to(warped)).clamp(0, 1)
    if mouth_painter is not None:
        before = face.shape.cpu()[:POINTS]
        most = OWN_TEETH if shows_teeth(face.crop, before * FINE) else OWN_DARK
        opacity = _opening(before / size, places[:POINTS] / size, most)
        painted = paint_mouth(mouth_painter, painted, places[:POINTS] * FINE, opacity)
    edit = ExpressionEdit(flow, (painted - warped).cpu(), covering)
    if not closed:
        return edit
    return move_edit(
        edit, lid_flow([find_eye(places[:POINTS], *one) for one in closed.items()], size)
    )


def movement(space: ExpressionSpace, name: str, amount: float) -> tuple[Tensor, Tensor]:
    """What a single movement does to an upright face: displacement `[536,2]`, shading `[1,1,S,S]`.

    Args:
        name: one of `ACTION_UNITS`; amount: 1 for all of it.
    """
    landmarks = displacement_of(name, amount)
    # People's axes know no halves: take what both would do, and show it on one.
    both = landmarks + mirrored(landmarks) if moves_one_half(name) else landmarks
    likely = space.complete(both)
    shown = shown_by(name, space.mean) * side_of(name, amount, space.mean[:, :1])
    skin = space.move(likely) * shown
    skin[:POINTS] = landmarks
    shading = space.shade(likely)
    columns = (torch.arange(shading.shape[-1]) + 0.5) / shading.shape[-1]
    return skin, shading * side_of(name, amount, columns)


def closed_eyes(
    face: EditableFace,
    strength: float,
    action_units: Mapping[str, float],
    model: ExpressionModel | None = None,
) -> dict[bool, float]:
    """Which eyes close (True for that at the left of the image), and how far, in (0,1].

    Those that are shut already stay as they are.
    """
    closed = {}
    for name, left in WINKS.items():
        amount = action_units.get(name, 0.0)
        if model is not None:
            amount = max(amount, strength * shut(model.face.shape.cpu()[:POINTS], left))
        if amount > 0 and shut(face.shape.cpu()[:POINTS], left) == 0:
            closed[left] = min(amount, 1.0)
    return closed


def apply_edit(
    photo: np.ndarray, alignment: Alignment, edit: ExpressionEdit, mask: Tensor
) -> np.ndarray:
    """The photo `uint8 [H,W,3]` with another expression, bit for bit itself away from the face.

    Args:
        alignment: where the crop lies in the photo.
        mask: `[1,1,s,s]`, see `faces.paste.feather_mask`.
    """
    fine = fine_alignment(alignment)
    fine_mask = F.interpolate(mask, scale_factor=FINE, mode="bilinear")
    if edit.covering is not None:
        photo = paste_residual(photo, edit.covering, fine, fine_mask)
    deformed = deform_photo(photo, alignment, edit.flow)
    return paste_residual(deformed, edit.painting, fine, fine_mask, in_place=True)


def no_edit(size: int) -> ExpressionEdit:
    """The edit that changes nothing, of crops of this side."""
    side = FINE * size
    return ExpressionEdit(torch.zeros(1, 2, 2 * size, 2 * size), torch.zeros(1, 3, side, side))


def move_edit(edit: ExpressionEdit, flow: Tensor) -> ExpressionEdit:
    """An edit whose result is deformed once more by a flow `[1,2,2s,2s]`, the painting with it."""
    # The painting is negative in places, and `deform` keeps pictures in [0,1].
    painting = 2 * deform((edit.painting + 1) / 2, fine_to_crop(), flow) - 1
    return replace(edit, flow=join_flows(edit.flow, flow), painting=painting)


def fine_to_crop() -> Tensor:
    """Affine `[2,3]` from px of the finer crop to px of the crop."""
    return torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]) / FINE - torch.tensor([0.0, 0.0, 0.5])


def fine_alignment(alignment: Alignment) -> Alignment:
    """The alignment of the crop at twice its resolution."""
    to_image = compose_affine(fine_to_crop(), alignment.crop_to_image.cpu().float())
    return Alignment(invert_affine(to_image), to_image, FINE * alignment.size)


def mobility(copied: bool = False) -> Tensor:
    """`[536,1]` in [0,1]: share of its motion that a point makes; 0 where only the head moves.

    Args:
        copied: the motion is that of a photo, whose outline is seen.
    """
    weights = torch.ones(POINTS, 1)
    weights[[27, 28]] = 0
    weights[[29, 30]] = 0.5
    weights[4:13] = 1.0 if copied else JAW_MOBILITY
    for pair, share in zip(SIDES, SIDES_COPIED if copied else SIDES_MOBILITY, strict=True):
        weights[list(pair)] = share
    return F.pad(weights, [0, 0, 0, 468], value=1.0)


def lip_gap(shape: Tensor) -> Tensor:
    """Mean distance of the inner lips of `[68,2]`, in its unit; negative where they cross."""
    return (shape[list(INNER_LOWER), 1] - shape[list(INNER_UPPER), 1]).mean()


def _closed_at_most(before: Tensor, after: Tensor) -> Tensor:
    """Landmarks `[68,2]` whose lips don't cross, nor part by an error of the landmarks."""
    wanted = lip_gap(after).clamp(min=min(float(lip_gap(before)), CLOSED_GAP))
    result = after.clone()
    _part_lips(result, wanted - lip_gap(after))
    return result


def _smile(shape: Tensor, moved: Tensor, strength: float) -> Tensor:
    """What a smile does to landmarks `[68,2]`; it parts lips that are closed only if it's wide."""
    parting = lip_gap(moved)  # as lip_gap is linear
    own = (lip_gap(shape) - CLOSED_GAP) / (OWN_TEETH - CLOSED_GAP)
    wide = (strength - SMILE_CLOSED) / (SMILE_PARTED - SMILE_CLOSED)
    parted = own.clamp(0, 1).maximum(torch.tensor(wide).clamp(0, 1))
    result = moved.clone()
    _part_lips(result, (parted - 1) * parting.clamp(min=0))
    return result


def _part_lips(points: Tensor, by: Tensor) -> None:
    """Move the lips of `points` `[68 or more,2]` apart, in place."""
    points[list(UPPER_LIP), 1] -= by / 2
    points[list(LOWER_LIP), 1] += by / 2


def _opening(before: Tensor, after: Tensor, most: float) -> float:
    """Opacity in [0,1] of what is painted between lips, from landmarks `[68,2]` of the side.

    Args:
        most: how far they may be apart before, of the side; at half of it, all is painted.
    """
    own = float((lip_gap(before) - CLOSED_GAP).clamp(min=0))
    parted = float((lip_gap(after) - lip_gap(before)).clamp(min=0))
    return min(parted / OPENING, 1.0) * min(max(2 * (1 - own / most), 0.0), 1.0)


def asked_change(
    space: ExpressionSpace,
    shape: Tensor,
    emotion: int | None,
    strength: float,
    action_units: Mapping[str, float],
    copied: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What an expression does to an upright face: displacement `[536,2]`, shading `[1,1,S,S]`.

    Args:
        shape: `[536,2]` of the face, in units of the crop's side.
        emotion, strength, action_units: see `edit_expression`.
        copied: what takes the place of the emotion, see `copied_change`.
    """
    if copied is not None:
        moved, shading = copied
    else:
        axes = torch.zeros(space.config.axis_count)
        if emotion is not None and strength:
            axes = space.towards(shape, emotion, strength)
        moved, shading = space.move(axes), space.shade(axes)
        if emotion == HAPPY:
            moved[:POINTS] = _smile(shape[:POINTS], moved[:POINTS], strength)
    for name, amount in action_units.items():
        skin, folds = movement(space, name, amount)
        moved, shading = moved + skin, shading + folds
    return moved, shading


def copied_change(
    space: ExpressionSpace, face: EditableFace, model: ExpressionModel, strength: float
) -> tuple[Tensor, Tensor]:
    """What the expression of another photo does to an upright face, as `asked_change` gives it.

    Args:
        strength: 1 for the expression as it's seen there.
    """
    shape = face.shape.cpu() / face.alignment.size
    other = model.face.shape.cpu() / model.face.alignment.size
    if face.depth is not None and model.face.depth is not None:
        other = without_turn(
            other,
            model.face.depth.cpu() / model.face.alignment.size,
            shape,
            face.depth.cpu() / face.alignment.size,
        )
    straight, there = straighten(torch.stack([shape, other]), space.mean)[0]
    axes = strength * space.copied(straight, there, model.same_person)
    moved = SEEN_LESS * space.move(axes)
    # How far lips part shows most, and it's seen in the photo itself.
    before, wanted, after = (lip_gap(one[:POINTS]) for one in (straight, there, straight + moved))
    _part_lips(moved, before + SEEN_LESS * strength * (wanted - before) - after)
    return moved, space.shade(axes)


def shading_map(
    space: ExpressionSpace, shading: Tensor, places: Tensor, to_frame: Tensor, size: int
) -> Tensor:
    """The shading of an expression on a face, `[1,1,2s,2s]`: what the brightness' logarithm gains.

    Args:
        shading: `[1,1,S,S]`, see `ExpressionSpace.shade`.
        places: `[M,2]` crop px, where the controls are now.
        to_frame: `[2,3]` from the crop, in units of its side, to the upright frame.
    """
    grid = flow_grid(size)
    straight = apply_affine(to_frame, places / size)
    shares = spread(places.double(), size, grid, REACH)
    back = (
        apply_affine(to_frame, (grid / size).float())
        + (shares @ (space.mean[space.controls] - straight).double()).float()
    )
    coarse = 2 * size // GRID
    where = enlarge(back.T.reshape(1, 2, coarse, coarse), size)  # of the side, crop and around
    inner = where[..., size // 2 : size // 2 + size, size // 2 : size // 2 + size]
    inner = F.interpolate(inner, scale_factor=FINE, mode="bilinear")
    unit = (2 * inner - 1).permute(0, 2, 3, 1)
    return F.grid_sample(shading, unit, mode="bicubic", align_corners=False) / GAMMA
