"""Small plausible motions of a face's features, found for the sake of its identity.

Recognisers hang on where features are, and people much less: every smile moves them. So the
cheapest protection is a motion that real faces make, too. It is spanned by the principal components
of real people's expressions (`ExpressionShapes.motions`), alike on the left and on the right; nose,
temples and the outline of the head stay where they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from map_pipeline.expression.shapes import ExpressionShapes, straighten
from map_pipeline.expression.warp import GRID, enlarge, flow_grid, spread
from map_pipeline.faces.align import invert_affine
from map_pipeline.faces.paste import feather_mask

# Reach of a landmark's motion, as a share of the side. Twice that of an asked expression: the skin
# between the features goes along, so that no line is bent and no feature doubled.
REACH = 0.2


@dataclass(frozen=True, eq=False)
class FaceMotions:
    """The motions of some faces.

    Attributes:
        flows: `[B,K,2,c,c]` crop px, what each motion of one standard deviation does, on
            `warp.flow_grid`.
        size: s, side of the crop, px.
    """

    flows: Tensor
    size: int

    def flow(self, coefficients: Tensor) -> Tensor:
        """The flow `[B,2,2s,2s]` (see `warp`) of motions `[B,K]`, in standard deviations."""
        coarse = torch.einsum("bk,bkcyx->bcyx", coefficients, self.flows.to(coefficients))
        return enlarge(coarse, self.size) * feather_mask(2 * self.size).to(coarse)


def face_motions(shapes: ExpressionShapes, landmarks68: Tensor, size: int) -> FaceMotions:
    """The motions of one face.

    Args:
        landmarks68: `[68,2]` crop px.
        size: s, side of the crop, px.
    """
    landmarks = landmarks68.detach().cpu().double()
    _, to_frame = straighten(landmarks[None].float() / size, shapes.neutral.cpu())
    turn = invert_affine(to_frame[0])[:, :2].double()  # from the upright frame to the face's own
    motions = shapes.motions.cpu().double() @ turn.T * size  # [K,68,2] px
    shares = spread(landmarks, size, flow_grid(size), REACH)  # [M,68]
    coarse = 2 * size // GRID
    # What appears at a place comes from where the motion started: hence the sign.
    flows = -torch.einsum("mp,kpc->kcm", shares, motions)
    return FaceMotions(flows.reshape(1, -1, 2, coarse, coarse).float(), size)


def limit(coefficients: Tensor, most: float) -> Tensor:
    """Motions `[B,K]` of a length below `most`; short ones stay nearly as they are."""
    square = coefficients.square().sum(-1, keepdim=True)
    return coefficients / (1 + square / most**2).sqrt()
