"""Eyes that close, as in a wink: the upper lid comes down over an eye that stays where it is.

A smooth deformation would squash the iris and drag the brow. Here each eye has a frame of its own,
from the corner at the left of the image (u = 0) to the other one (u = 1), with v downwards, in px.
The skin between brow and lid is stretched, and what it comes to cover isn't seen any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.faces.align import apply_affine, invert_affine, pixel_grid

# Of the 68 landmarks: corner, upper lid, other corner, lower lid, each from left to right; and the
# brow above.
EYES = (
    ((36, 37, 38, 39, 41, 40), (18, 19, 20)),
    ((42, 43, 44, 45, 47, 46), (23, 24, 25)),
)
LOWER_SHARE = 0.12  # of the opening, how far the lower lid comes up
BROW_SHARE = 0.65  # of the way to the brow, how much skin is stretched
# The skin of the lid unfolds from below its crease, so it's stretched most near its edge: power of
# the stretching, and least slope.
UNFOLDING, LEAST_SLOPE = 1.5, 0.2
# Edges of lids are looked for so much beyond the landmarks, of the eye's width, so that nothing of
# the eye comes along or is left.
EDGE = 0.03
# How far above the edge lashes reach, of the eye's width, which would be stretched with the skin:
# skin from above them takes their place. How far apart the places are of which it's the mean.
LASHES, MOST_LASHES, APART = 0.12, 0.7, 0.12
SHADE = 0.85  # of the colour of the lid's edge, where lids meet
# Openings, of the eye's width: of the narrowest eyes that look out, and what's seen of closed ones.
SLIT, CLOSED = 0.11, 0.085
BELOW = 0.5  # how far below the eye skin comes along, of its width
SOFT = 0.5  # px, how far the lid's edge spreads, so that a flow of whole px can show it


@dataclass(frozen=True, eq=False)
class Eye:
    """An open eye and how far it's closed.

    Attributes:
        origin: `[2]` px; axis: `[2]`, from corner to corner, of the eye's width.
        upper, lower: `[2]` coefficients of the lids: v = u (1 - u) (first + second u) px.
        skin: height of the skin up to the brow that is stretched, px.
        closed: 0 to 1.
    """

    origin: Tensor
    axis: Tensor
    upper: Tensor
    lower: Tensor
    skin: float
    closed: float

    @property
    def width(self) -> float:
        """Distance of the corners, px."""
        return float(self.axis.norm())

    def within(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates u and v of points `[...,2]` px."""
        unit = self.axis / self.width
        offset = points - self.origin
        across = offset[..., 0] * unit[0] + offset[..., 1] * unit[1]
        return across / self.width, offset[..., 1] * unit[0] - offset[..., 0] * unit[1]

    def place(self, u: Tensor, v: Tensor) -> Tensor:
        """Points `[...,2]` px of coordinates."""
        unit = self.axis / self.width
        down = torch.stack([-unit[1], unit[0]])
        return self.origin + u[..., None] * self.axis + v[..., None] * down

    def lids(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where the open lids are, v px; the lower one is never above the upper one."""
        inside = (u * (1 - u)).clamp(min=0)
        upper, lower = (inside * (lid[0] + lid[1] * u) for lid in (self.upper, self.lower))
        return upper, torch.maximum(upper, lower)

    def closed_lids(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where the lids are when the eye is closed as far as asked, v px."""
        upper, lower = self.lids(u)
        lower = lower + self._edge(u) - LOWER_SHARE * self.closed * (lower - upper)
        return upper + self.closed * (lower - upper), lower

    def source(self, u: Tensor, v: Tensor) -> Tensor:
        """How far up or down, px, what appears at places u, v comes from."""
        upper, lower = self.lids(u)
        new_upper, new_lower = self.closed_lids(u)
        down = new_upper - upper + self._edge(u)
        height = self.skin + new_upper - upper
        power = ((1 - LEAST_SLOPE) * height / down.clamp(min=1e-6)).clamp(1.0, UNFOLDING)
        share = ((v - upper + self.skin) / height).clamp(0, 1) ** power
        below = (1 - (v - new_lower) / (BELOW * self.width)).clamp(0, 1)
        under = (lower + self._edge(u) - new_lower) * torch.where(v < new_lower, 0.0, below**2)
        shift = torch.lerp(-down * share, under, self._soft(v - new_upper))
        return torch.where((u > 0) & (u < 1), shift, 0.0)

    @property
    def lashes(self) -> float:
        """How far above the lid's edge lashes reach, px."""
        return min(LASHES * self.width, MOST_LASHES * self.skin)

    def covered(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """How far places u, v of the open eye are lashes, or lie under the lid when it's down.

        Both in [0,1].
        """
        upper, lower = self.lids(u)
        end = torch.minimum(self.closed_lids(u)[0] + SOFT, lower + self._edge(u))
        below = self._soft(v - upper + self._edge(u))
        lashes = self._soft(v - upper + self.lashes) * (1 - below)
        taper = (8 * u * (1 - u)).clamp(0, 1)
        return lashes * self.closed * taper, below * self._soft(end - v) * (taper > 0)

    def _edge(self, u: Tensor) -> Tensor:
        return self.closed * EDGE * self.width * (4 * u * (1 - u)).clamp(0, 1)

    @staticmethod
    def _soft(distance: Tensor) -> Tensor:
        """0 to 1 across an edge at distance 0."""
        return (0.5 + distance / (2 * SOFT)).clamp(0, 1)


def find_eye(landmarks: Tensor, left: bool, closed: float) -> Eye:
    """One eye of landmarks `[68,2]` px.

    Args:
        left: the one at the left of the image.
        closed: 0 to 1.
    """
    points, brow = EYES[0 if left else 1]
    first, upper, last, lower = (
        landmarks[list(part)] for part in (points[:1], points[1:3], points[3:4], points[4:])
    )
    flat = Eye(first[0], (last - first)[0], torch.zeros(2), torch.zeros(2), 1.0, closed)
    above = -flat.within(landmarks[list(brow)])[1].mean()
    skin = BROW_SHARE * (above + flat.within(upper)[1].mean())
    return replace(
        flat,
        upper=_through(*flat.within(upper)),
        lower=_through(*flat.within(lower)),
        skin=float(skin.clamp(min=1.0)),
    )


def shut(landmarks: Tensor, left: bool) -> float:
    """How far the landmark network sees an eye of `[68,2]` shut, 0 to 1.

    It doesn't see every closed eye, but what it sees as a slit isn't open.
    """
    eye = find_eye(landmarks, left, 1.0)
    upper, lower = eye.lids(torch.tensor([0.35, 0.65]))
    opening = float((lower - upper).mean()) / eye.width
    return min(max((SLIT - opening) / (SLIT - CLOSED), 0.0), 1.0)


def _through(u: Tensor, v: Tensor) -> Tensor:
    """Coefficients of the lid through two points."""
    slope = v / (u * (1 - u)).clamp(min=1e-3)
    second = (slope[1] - slope[0]) / (u[1] - u[0]).clamp(min=1e-3)
    return torch.stack([slope[0] - second * u[0], second])


def lid_flow(eyes: Sequence[Eye], size: int) -> Tensor:
    """The flow `[1,2,2s,2s]` of a crop of side s, see `expression.warp`, that closes eyes."""
    grid = pixel_grid(2 * size, 2 * size) - size / 2
    flow = torch.zeros_like(grid)
    for eye in eyes:
        unit = eye.axis / eye.width
        down = torch.stack([-unit[1], unit[0]])
        flow = flow + eye.source(*eye.within(grid))[..., None] * down
    return flow.permute(2, 0, 1)[None]


def cover(picture: Tensor, eyes: Sequence[Eye], to_picture: Tensor) -> Tensor:
    """What is added to a picture of open eyes so that nothing of what lids will cover is left.

    It takes the colour of the lid's edge, and where lids meet, a little of that is seen: the line
    of its lashes.

    Args:
        picture: `[1,3,H,W]` in [0,1]; to_picture: affine `[2,3]` from the eyes' px to its px.
    """
    height, width = picture.shape[-2:]
    places = apply_affine(invert_affine(to_picture), pixel_grid(height, width).view(-1, 2))
    added = torch.zeros_like(picture)
    for eye in eyes:
        u, v = eye.within(places)
        lashes, under = eye.covered(u, v)
        near = (lashes + under) > 0
        u, lashes, under = u[near], lashes[near].to(picture), under[near].to(picture)
        upper = eye.lids(u)[0]
        look = lambda u, v, eye=eye: _colours(picture, apply_affine(to_picture, eye.place(u, v)))  # noqa: E731
        skin = [look(u + shift, upper - eye.lashes) for shift in (-APART, 0.0, APART)]
        flat, above = picture.view(3, -1)[:, near], torch.stack(skin).mean(0)
        edge = SHADE * look(u, upper - EDGE * eye.width)
        added.view(3, -1)[:, near] += lashes * (above - flat) + under * (edge - flat)
    return added


def _colours(picture: Tensor, points: Tensor) -> Tensor:
    """Colours `[3,N]` of a picture `[1,3,H,W]` at points `[N,2]` px."""
    size = torch.tensor([picture.shape[-1], picture.shape[-2]])
    unit = (2 * points + 1) / size - 1
    grid = unit.view(1, 1, -1, 2).to(picture)
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=False)[0, :, 0]
