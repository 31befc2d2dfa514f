"""Small motions of a face's features, found for the sake of its identity.

Recognisers hang on where features are, and people much less: every smile moves them. So the
cheapest protection is a motion. Three kinds are added up, all alike on the left and on the right:

- the principal components of real people's expressions (`ExpressionSpace.motions`),
- a coarse grid of free shifts, which moves cheeks, forehead, mouth and chin, and
- the face's `proportions`: how far apart, how high and how large features are.

Nose, eyes and brows hardly take part in the first two: people know a face by their shape, so they
move as wholes. The mouth hardly takes part at all, so that it shows what was asked for. All
together nothing moves farther than asked. The outline of the head stays.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.expression.proportions import PROPORTIONS, proportions
from map_pipeline.expression.space import ExpressionSpace, straighten
from map_pipeline.expression.warp import GRID, enlarge, flow_grid, spread
from map_pipeline.faces.align import apply_affine, invert_affine
from map_pipeline.faces.landmarks import five_points
from map_pipeline.faces.paste import feather_mask, quiet_features, quiet_mouth

# Reach of a landmark's motion, as a share of the side. Twice that of an asked expression: the skin
# between the features goes along, so that no line is bent and no feature doubled.
REACH = 0.2

# How far one unit of a free shift or a proportion moves, as a share of the crop's side: 3 of
# 128 px.
FREE_UNIT = 0.0234
# The free shifts, in the upright frame, in units of the side: where the grid's rows lie, and its
# columns from the face's middle line outwards.
ROWS, COLUMNS = torch.linspace(0.12, 0.95, 7), torch.linspace(0, 0.42, 4)
WIDTH = 0.11  # standard deviation of the Gaussian that spreads a shift: .8 of the grid's spacing

# How far one unit of an expression's component goes, in its standard deviations: with more of them,
# smiles that were asked for turn sour. And what is left of that to eyes and brows, of the 68.
EXPRESSION_UNIT = 0.3
EYES_AND_BROWS, LEFT_TO_THEM = (*range(17, 27), *range(36, 48)), 0.3
NOSE_BRIDGE = 27
FREE_ON_NOSE, FREE_ON_EYES = 0.05, 0.2  # how much of a free shift is made there


@dataclass(frozen=True, eq=False)
class FaceMotions:
    """The motions of some faces.

    Attributes:
        flows: `[B,K,2,c,c]` crop px, what one unit of each motion does, on `warp.flow_grid`. The
            unit is `EXPRESSION_UNIT` or `FREE_UNIT`.
        size: s, side of the crop, px.
        most: how far anything moves at most, as a share of the side.
    """

    flows: Tensor
    size: int
    most: float

    def flow(self, coefficients: Tensor) -> Tensor:
        """The flow `[B,2,2s,2s]` (see `warp`) of motions `[B,K]`, in their units.

        It is shorter than `most` everywhere; small flows stay nearly as they are.
        """
        coarse = torch.einsum("bk,bkcyx->bcyx", coefficients, self.flows.to(coefficients))
        flow = enlarge(coarse, self.size) * feather_mask(2 * self.size).to(coarse)
        lengths = flow.square().sum(1, keepdim=True) / (self.most * self.size) ** 2
        return flow / (1 + lengths).sqrt()


def count_motions(shapes: ExpressionSpace) -> int:
    """K: how many motions `face_motions` finds."""
    return len(shapes.motions) + len(ROWS) * (2 * len(COLUMNS) - 1) + len(PROPORTIONS)


def face_motions(
    shapes: ExpressionSpace, landmarks68: Tensor, size: int, most: float
) -> FaceMotions:
    """The motions of some faces, on the device of their landmarks.

    Args:
        landmarks68: `[B,68,2]` crop px.
        size: s, side of the crop, px.
        most: see `FaceMotions`.
    """
    landmarks = landmarks68.detach().double()
    neutral = shapes.neutral.to(landmarks)
    upright, to_frame = straighten(landmarks / size, neutral)  # [B,68,2], [B,2,3]
    middle = float(neutral[NOSE_BRIDGE, 0])
    # From the upright frame, in units of the side, to crop px.
    turn = (invert_affine(to_frame)[..., :2] * size).transpose(-1, -2)[:, None]  # [B,1,2,2]
    expressions = EXPRESSION_UNIT * shapes.motions.to(landmarks) @ turn  # [B,K,68,2]
    expressions[:, :, list(EYES_AND_BROWS)] *= LEFT_TO_THEM
    proportional = FREE_UNIT * proportions(upright, middle) @ turn
    shares = spread(landmarks, size, flow_grid(size).to(landmarks.device), REACH)  # [B,M,68]
    by_landmarks = (
        torch.einsum("bmp,bkpc->bkmc", shares, motions) for motions in (expressions, proportional)
    )
    by_expressions, by_proportions = by_landmarks
    by_grid = _free_shifts(to_frame, middle, size) @ turn
    points = torch.from_numpy(five_points(landmarks.cpu().numpy())).to(landmarks)
    by_grid = by_grid * _freedom(points, size)[:, None, :, None]
    # What appears at a place comes from where the motion started: hence the sign.
    flows = -torch.cat([by_expressions, by_grid, by_proportions], 1).transpose(2, 3)  # [B,K,2,M]
    flows = flows * quiet_mouth(points, flow_grid(size).to(landmarks))[:, None, None]
    coarse = 2 * size // GRID
    return FaceMotions(flows.unflatten(3, (coarse, coarse)).float(), size, most)


def _free_shifts(to_frame: Tensor, middle: float, size: int) -> Tensor:
    """Shifts `[B,K,M,2]` of the grid's points at `flow_grid`, upright, in units of the side.

    Args:
        to_frame: `[B,2,3]` affine to the upright frame, in the same units.
        middle: x of the face's middle line in that frame.
    """
    places = flow_grid(size).to(to_frame) / size  # [M,2]
    x, y = apply_affine(to_frame, places).unbind(2)  # [B,M]
    shifts = []
    for row in ROWS.tolist():
        for column in COLUMNS.tolist():
            left, right = (
                torch.exp(-((x - middle - side) ** 2 + (y - row) ** 2) / (2 * WIDTH**2))
                for side in (-column, column)
            )
            if column:
                shifts.append(torch.stack([right - left, torch.zeros_like(x)], 2))
            both = left + right if column else left
            shifts.append(torch.stack([torch.zeros_like(x), both], 2))
    return FREE_UNIT * torch.stack(shifts, 1)


def _freedom(points: Tensor, size: int) -> Tensor:
    """How much of a free shift is made at `flow_grid`, `[B,M]` in [0,1].

    Args:
        points: `[B,5,2]` crop px, see `quiet_features`.
    """
    free = feather_mask(size).to(points) * quiet_features(points, size, FREE_ON_NOSE, FREE_ON_EYES)
    coarse = 2 * size // GRID
    free = F.pad(free, [size // 2] * 4)
    free = F.interpolate(free, (coarse, coarse), mode="bilinear", align_corners=True)
    return free.flatten(1)


def limit(coefficients: Tensor, most: float) -> Tensor:
    """Motions of less than `most` units each; small ones stay nearly as they are."""
    return coefficients / (1 + (coefficients / most).square()).sqrt()
