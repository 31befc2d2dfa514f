"""Composites: averages of several faces that show nobody real.

Faces of one group (see `map_pipeline.training.candidates`) are warped onto the group's mean shape;
those that differ most from the group's median (glasses, beards, heavy shadows) are left out, and
the rest is averaged.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import Delaunay
from torch import Tensor

from map_pipeline.expression.drawing import smooth
from map_pipeline.faces.align import apply_affine, similarity_transform
from map_pipeline.faces.landmarks import five_points
from map_pipeline.training.candidates import Group, inner_face

TEMPLATE_RAISE = 0.06  # share of the side by which the faces lie higher than in ArcFace's crop
# Largest share of strangers a composite may be matched by at FAR 1 %.
MAX_IMPOSTOR_RATE = {"mobileface": 0.02}  # a weak recogniser
DEFAULT_MAX_IMPOSTOR_RATE = 0.01
SHARPENING = 0.6  # share of the detail finer than 1 px that is added back
TRIMMED = 0.2  # share of the faces left out at either end of each pixel's values
FACE_EDGE = 3.0  # px, width of the seam between the face and its softened surroundings
SURROUNDINGS_BLUR = 5.0  # px
FOREHEAD = 0.55  # height of the forehead points above the brows, in eye-mouth distances


@dataclass(frozen=True, eq=False)
class Composite:
    """An average of several faces and how many strangers match it."""

    group: Group
    picture: Tensor
    """`[3,S,S]` float32 in [0,1] on the 8-bit grid."""
    members: tuple[str, ...]
    """Files of the averaged faces."""
    impostor_rates: dict[str, float]
    """Recogniser name -> share of strangers that match at FAR 1 %."""

    @property
    def excess(self) -> float:
        """By how much the worst recogniser exceeds its allowed rate; at most 0 if it passes."""
        return max(
            (
                rate - MAX_IMPOSTOR_RATE.get(name, DEFAULT_MAX_IMPOSTOR_RATE)
                for name, rate in self.impostor_rates.items()
            ),
            default=0.0,
        )

    @property
    def passes(self) -> bool:
        """Whether no recogniser takes too many strangers for this face."""
        return self.excess <= 1e-6


def mean_shape(landmarks68: Tensor, template: Tensor) -> Tensor:
    """Mean `[68,2]` of landmarks `[N,68,2]`, each fitted to the five-point `template` `[5,2]`.

    The fit ignores pose and size, so that only proportions are averaged.
    """
    points = torch.stack([_five(face) for face in landmarks68])
    fitted = apply_affine(similarity_transform(points, template), landmarks68)
    mean = fitted.mean(0)
    return apply_affine(similarity_transform(_five(mean)[None], template), mean[None])[0]


def warp_to_shape(images: Tensor, landmarks68: Tensor, shape: Tensor) -> Tensor:
    """Move the landmarks of each image onto `shape`, piecewise affinely.

    The picture between landmarks follows by a triangulation of `shape`, a forehead line above the
    brows, and a frame that stays where it is.

    Args:
        images: `[N,3,S,S]`.
        landmarks68: `[N,68,2]` px.
        shape: `[68,2]` px.

    Returns:
        `[N,3,S,S]`.
    """
    size = images.shape[-1]
    target = _anchors(shape, size).numpy()
    mesh = Delaunay(target)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    triangle = mesh.find_simplex(pixels)
    inverse = mesh.transform[triangle]  # [P,3,2]: two rows of the inverse and the origin
    first_two = np.einsum("pij,pj->pi", inverse[:, :2], pixels - inverse[:, 2])
    weights = np.concatenate([first_two, 1 - first_two.sum(1, keepdims=True)], 1)
    weights = torch.from_numpy(weights).float()  # [P,3] barycentric
    corners = torch.from_numpy(mesh.simplices[triangle]).long()  # [P,3]
    grids = []
    for face in landmarks68:
        source = (_anchors(face, size)[corners] * weights[..., None]).sum(1)  # [P,2] px
        grids.append((source * (2 / (size - 1)) - 1).view(size, size, 2))
    return F.grid_sample(
        images, torch.stack(grids), mode="bicubic", padding_mode="reflection", align_corners=True
    ).clamp(0, 1)


def average_faces(
    images: Tensor, landmarks68: Tensor, template: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """The composite of some faces `[3,S,S]` in [0,1], aligned to `template`, and who is in it.

    Colours are first brought to the faces' common mean and spread, so that light and white balance
    don't print one face over the others. The `keep` faces nearest to the median are averaged.

    Args:
        images: `[N,3,S,S]` in [0,1].
        landmarks68: `[N,68,2]` px.
        template: `[5,2]` px.
        keep: how many of the N faces to average.

    Returns:
        the composite and the indices `[keep]` of the faces averaged.
    """
    shape = mean_shape(landmarks68, template)
    warped = _equalise_colours(warp_to_shape(images, landmarks68, shape))
    inner = inner_face(images.shape[-1])
    distance = (warped - warped.median(0).values).abs().mean(1)[:, inner].mean(1)  # [N]
    typical = distance.argsort(stable=True)[:keep]
    # Shape and picture of the same people.
    shape = mean_shape(landmarks68[typical], template)
    warped = _equalise_colours(warp_to_shape(images[typical], landmarks68[typical], shape))
    return soften_surroundings(sharpen(trimmed_mean(warped)), shape), typical


def trimmed_mean(images: Tensor) -> Tensor:
    """Mean `[3,S,S]` of images `[N,3,S,S]` without the extremes of each pixel.

    A strand of hair or a pair of glasses that few of the faces have then leaves no ghost.
    """
    drop = round(len(images) * TRIMMED)
    return images.sort(0).values[drop : len(images) - drop].mean(0)


def soften_surroundings(picture: Tensor, shape: Tensor) -> Tensor:
    """Blur what lies outside the face: the mean of many backgrounds and hair styles is a jumble.

    Args:
        picture: `[3,S,S]` in [0,1].
        shape: landmarks `[68,2]` px.
    """
    size = picture.shape[-1]
    anchors = _anchors(shape, size)[: len(shape) + 6].numpy()
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    inside = Delaunay(anchors).find_simplex(pixels).reshape(size, size) >= 0
    face = smooth(torch.from_numpy(inside)[None, None].float(), FACE_EDGE)[0]
    return face * picture + (1 - face) * smooth(picture[None], SURROUNDINGS_BLUR)[0]


def sharpen(image: Tensor) -> Tensor:
    """Add back some of the detail that averaging blurs; `[3,S,S]` in [0,1]."""
    return (image + SHARPENING * (image - smooth(image[None], 1.0)[0])).clamp(0, 1)


def _five(landmarks68: Tensor) -> Tensor:
    return torch.from_numpy(five_points(landmarks68.numpy()))


def _anchors(landmarks68: Tensor, size: int) -> Tensor:
    """The landmarks `[68,2]`, points on the forehead and a frame around the picture: `[M,2]` px."""
    eyes, mouth = landmarks68[36:48].mean(0), landmarks68[48:60].mean(0)
    forehead = landmarks68[[17, 19, 21, 22, 24, 26]] + FOREHEAD * (eyes - mouth)
    low, middle, high = -size / 4, size / 2, size * 5 / 4
    frame = [(x, y) for x in (low, middle, high) for y in (low, middle, high)]
    frame.remove((middle, middle))
    return torch.cat([landmarks68, forehead, torch.tensor(frame)])


def _equalise_colours(faces: Tensor) -> Tensor:
    """Give each face's inner part the channel means and spreads that the faces have in common."""
    inner = faces[:, :, inner_face(faces.shape[-1])]  # [N,3,P]
    mean, std = inner.mean(2)[..., None, None], inner.std(2)[..., None, None].clamp(1e-3)
    return ((faces - mean) / std * std.mean(0) + mean.mean(0)).clamp(0, 1)
