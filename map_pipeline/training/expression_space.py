"""Measures an `ExpressionSpace` on photos of the same people in several expressions.

1. Shapes: landmarks and mesh of every photo, brought to the mean face by nose and eyes.
2. Axes: principal components of how a person's shapes differ from that person's mean; mirror images
   count as well, so that no side is preferred.
3. Shading: every photo is brought to the mean shape; what its brightness differs from the person's
   mean, without the slow part that is the lamp's, is explained by the axes (the expression ratio
   image of Liu, Shan and Zhang 2001, https://doi.org/10.1145/383259.383289, made linear).
4. Emotions: the mean way from people's neutral faces.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.errors import MAPError
from map_pipeline.expression.drawing import polygon_mask, smooth
from map_pipeline.expression.people import LabelledPhoto, PeoplePhotos
from map_pipeline.expression.space import SHAPE_POINTS, ExpressionSpace, straighten
from map_pipeline.expression.warp import spread
from map_pipeline.faces.align import (
    apply_affine,
    extract_region,
    invert_affine,
    similarity_transform,
)
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.faces.landmarks import MIRRORED, five_points
from map_pipeline.faces.mesh import INNER_LIPS, LEFT_EYE, OVAL, RIGHT_EYE, FaceMesh
from map_pipeline.images import uint8_tensor
from map_pipeline.training.motions import measure_motions

# Landmarks are few, but they say what the mesh doesn't: its lips and brows move too little.
LANDMARK_WEIGHT = 3.0
# Weight of people without a neutral photo: theirs is guessed from their other expressions.
GUESSED = 0.3
# Expressions are taken to be this share as frequent in everyday photos as in posed ones, when it is
# given what of a face is its expression and what the person.
EVERYDAY = 0.1
MOST_LONGER = 1.5  # how many times longer than its mean a way is made
SHADING_SIDE = 128
REACH = 0.35  # of the interpolation between points, of the side
LAMP = 0.13  # Gaussian of what counts as the lamp's, of the side
DARKEST = 0.01  # linear brightness below which differences don't count
# Least distance of two points that move the skin, and of these and the lips, of the side.
CONTROL_DISTANCE, LIP_DISTANCE = 0.045, 0.08
MOST = 1.0  # largest difference of a brightness's logarithm that is believed
BROWS, NOSTRILS, OUTER_LIPS = (slice(17, 22), slice(22, 27)), slice(31, 36), slice(48, 60)
ALL_LIPS = slice(48, 68)
LIGHT = torch.tensor([0.2126, 0.7152, 0.0722])  # of linear RGB, ITU-R BT.709


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo of a person.

    Attributes:
        shape: `[536,2]` px of `region`.
        region: `[3,h,w]` in [0,1], the face and its surroundings.
    """

    photo: LabelledPhoto
    shape: Tensor
    region: Tensor


def measure_space(
    people: PeoplePhotos,
    detector: FaceDetector,
    mesh: FaceMesh,
    template: Tensor,
    axes: int = 16,
    motions: int = 8,
) -> ExpressionSpace:
    """The space of some people's expressions.

    Args:
        template: `[5,2]`, where eyes, nose and mouth corners lie in the crop, of its side.
        axes: number of axes.
        motions: number of free motions.

    Raises:
        MAPError: nobody is shown neutral, or too few photos show a face.
    """
    samples = read_samples(people, detector, mesh)
    neutral = [one.photo.emotion == "neutral" for one in samples]
    if sum(neutral) < 1 or len(samples) <= axes:
        raise MAPError(
            f"`people` must show faces in more than {axes} photos, some of them neutral; got "
            f"{len(samples)}, {sum(neutral)} neutral."
        )
    shapes = torch.stack([one.shape for one in samples])
    shapes, mean, mirror = upright(shapes, torch.tensor(neutral), template)
    groups = by_person([one.photo for one in samples])
    within = differences(shapes, groups)
    reading, moving = principal_axes(torch.cat([within, mirrored(within, mirror)]), axes)
    controls = control_points(mean)
    space = ExpressionSpace(axes, motions, SHADING_SIDE, len(controls))
    read = within.flatten(1) @ reading.T  # [N,K]
    space.mean.copy_(mean)
    space.reading.copy_(reading)
    space.moving.copy_(moving)
    space.controls.copy_(controls)
    space.shading.copy_(measure_shading(samples, mean, controls, groups, read))
    starts = neutral_starts(shapes, groups)
    ways = emotion_means(shapes, groups, starts)
    space.emotions.copy_(ways.flatten(1) @ reading.T)
    persons = torch.stack([one for one, known in starts.values() if known]) - mean
    space.estimator.copy_(wiener_filter(persons.flatten(1) @ reading.T, read))
    landmarks = {
        person: {name: [samples[i].shape[:POINTS] for i in rows] for name, rows in emotions.items()}
        for person, emotions in groups.items()
    }
    space.motions.copy_(measure_motions(landmarks, mean[:POINTS], motions))
    return space


def read_samples(people: PeoplePhotos, detector: FaceDetector, mesh: FaceMesh) -> list[Sample]:
    """Shape and surroundings of every photo's largest face."""
    samples = []
    for photo in tqdm(people.photos, unit="photo"):
        picture = people.read(photo)
        faces = detector.detect(picture)
        if not faces:
            continue
        landmarks68 = torch.from_numpy(faces[0].landmarks68)
        points = torch.from_numpy(five_points(faces[0].landmarks68))
        region = extract_region(uint8_tensor(picture), points)
        found = mesh.find(region.image, region.landmarks[None])[0]
        known = apply_affine(region.photo_to_region, landmarks68)
        samples.append(Sample(photo, torch.cat([known, found]), region.image[0]))
    return samples


def by_person(photos: Sequence[LabelledPhoto]) -> dict[str, dict[str, list[int]]]:
    """Person -> emotion -> places in `photos`."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, photo in enumerate(photos):
        groups[photo.subject][photo.emotion].append(index)
    return groups


def upright(shapes: Tensor, neutral: Tensor, template: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes `[N,536,2]` in the upright frame, their neutral mean `[536,2]`, and mirror points.

    The mean is symmetric, and its eyes, nose and mouth corners lie on the template.

    Args:
        neutral: bool `[N]`.
    """
    mirror = torch.cat([torch.as_tensor(MIRRORED), torch.arange(POINTS, SHAPE_POINTS)])
    mean = shapes[neutral][0]
    for _ in range(4):
        mean = straighten(shapes, mean)[0][neutral].mean(0)
        points = torch.from_numpy(five_points(mean[:POINTS].numpy()))
        mean = apply_affine(similarity_transform(points[None], template)[0], mean)
        mirror[POINTS:] = POINTS + counterparts(mean[POINTS:])
        mean = (mean + flipped(mean, mirror)) / 2
    return straighten(shapes, mean)[0], mean, mirror


def counterparts(mesh: Tensor) -> Tensor:
    """Index `[468]` of each point's mirror image in a nearly symmetric mesh `[468,2]`."""
    flip = mesh * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    costs = torch.cdist(flip, mesh).square()
    return torch.from_numpy(linear_sum_assignment((costs + costs.T).numpy())[1])


def flipped(shapes: Tensor, mirror: Tensor) -> Tensor:
    """Mirror images of shapes `[...,536,2]` about the middle of the crop."""
    return mirrored(shapes, mirror) + torch.tensor([1.0, 0.0])


def mirrored(displacements: Tensor, mirror: Tensor) -> Tensor:
    """Mirror images of displacements `[...,536,2]`."""
    return displacements[..., mirror, :] * torch.tensor([-1.0, 1.0])


def differences(values: Tensor, groups: dict[str, dict[str, list[int]]]) -> Tensor:
    """What each row of `[N,...]` differs from the mean of its person's emotions."""
    result = torch.zeros_like(values)
    for emotions in groups.values():
        centre = torch.stack([values[rows].mean(0) for rows in emotions.values()]).mean(0)
        rows = [row for rows in emotions.values() for row in rows]
        result[rows] = values[rows] - centre
    return result


def principal_axes(within: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What reads axes from a difference, `[K,1072]`, and what a unit of each moves, `[K,536,2]`."""
    weights = torch.ones(SHAPE_POINTS, 1)
    weights[:POINTS] = LANDMARK_WEIGHT
    weighted = (within * weights).flatten(1).double()
    _, lengths, directions = torch.linalg.svd(weighted, full_matrices=False)
    deviations = (lengths[:count] / len(within) ** 0.5)[:, None]
    directions = directions[:count]
    flat = weights.expand(-1, 2).flatten().double()
    moving = (directions * deviations / flat).view(count, SHAPE_POINTS, 2)
    return (directions / deviations * flat).float(), moving.float()


def neutral_starts(
    shapes: Tensor, groups: dict[str, dict[str, list[int]]]
) -> dict[str, tuple[Tensor, bool]]:
    """Person -> neutral shape `[536,2]`, and whether it was seen or guessed from the others."""
    means = {
        person: {name: shapes[rows].mean(0) for name, rows in emotions.items()}
        for person, emotions in groups.items()
    }
    others = {name for emotions in means.values() for name in emotions} - {"neutral"}
    complete = [m for m in means.values() if others | {"neutral"} <= m.keys()]
    starts = {person: (m["neutral"], True) for person, m in means.items() if "neutral" in m}
    if complete:
        centre = lambda m: torch.stack([m[name] for name in sorted(others)]).mean(0)  # noqa: E731
        offset = torch.stack([centre(m) - m["neutral"] for m in complete]).mean(0)
        for person, m in means.items():
            if person not in starts and others <= m.keys():
                starts[person] = (centre(m) - offset, False)
    return starts


def emotion_means(
    values: Tensor,
    groups: dict[str, dict[str, list[int]]],
    starts: dict[str, tuple[Tensor, bool]],
) -> Tensor:
    """The way `[7,536,2]` from neutral to each emotion; zeros for neutral and unseen.

    It is the mean of people's ways, but as long as these are: a mean of different ways is shorter.
    """
    result = torch.zeros(len(EMOTIONS), *values.shape[1:])
    for index, emotion in enumerate(EMOTIONS):
        ways, weights = [], []
        for person, (start, known) in starts.items():
            if emotion != "neutral" and emotion in groups[person]:
                ways.append(values[groups[person][emotion]].mean(0) - start)
                weights.append(1.0 if known else GUESSED)
        if ways:
            share, every = torch.tensor(weights) / sum(weights), torch.stack(ways)
            mean = torch.einsum("n,n...->...", share, every)
            lengths = every[:, :POINTS].flatten(1).norm(dim=1)
            longer = float(lengths.median() / mean[:POINTS].norm().clamp(min=1e-6))
            result[index] = mean * min(max(longer, 1.0), MOST_LONGER)
    return result


def control_points(mean: Tensor) -> Tensor:
    """Which points `[M]` of the mean shape `[536,2]` move the skin: landmarks, and mesh between.

    The outline of the face is left out, for it stays.
    """
    outline = polygon_mask(mean[POINTS + torch.tensor(OVAL)] * SHADING_SIDE, SHADING_SIDE)
    inside = -F.max_pool2d(-outline, 13, 1, 6)  # 5 % of the side away from it
    chosen = list(range(POINTS))
    for index in range(POINTS, SHAPE_POINTS):
        column, row = (mean[index] * SHADING_SIDE).round().long().clamp(0, SHADING_SIDE - 1)
        distance = (mean[chosen] - mean[index]).norm(dim=1).min()
        to_lips = (mean[ALL_LIPS] - mean[index]).norm(dim=1).min()
        near = distance <= CONTROL_DISTANCE or to_lips <= LIP_DISTANCE
        if inside[0, 0, row, column] > 0 and not near:
            chosen.append(index)
    return torch.tensor(chosen)


def measure_shading(
    samples: Sequence[Sample],
    mean: Tensor,
    controls: Tensor,
    groups: dict[str, dict[str, list[int]]],
    axes: Tensor,
) -> Tensor:
    """Shading `[K,S,S]` of each axis: least squares over all photos.

    Args:
        axes: `[N,K]` of every photo's difference to its person's mean.
    """
    skin = skin_mask(mean)
    grid = map_positions()
    shares = spread(mean[controls].double(), 1, grid, REACH)
    maps = torch.stack(
        [slow_part_removed(brightness(one, mean, controls, shares), skin) for one in samples]
    )
    within = differences(maps, groups).clamp(-MOST, MOST).flatten(1)
    gram = axes.T @ axes
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    fit = torch.linalg.solve(gram + ridge, axes.T @ within)
    return fit.view(-1, SHADING_SIDE, SHADING_SIDE) * skin[0, 0]


def map_positions() -> Tensor:
    """Positions `[S*S,2]` of the map's pixels in the frame, float64, row after row."""
    axis = (torch.arange(SHADING_SIDE, dtype=torch.float64) + 0.5) / SHADING_SIDE
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)


def brightness(sample: Sample, mean: Tensor, controls: Tensor, shares: Tensor) -> Tensor:
    """Logarithm of the linear brightness of a photo in the mean shape, `[1,1,S,S]`."""
    straight, affine = straighten(sample.shape[None], mean)
    place = map_positions() + shares @ (straight[0, controls] - mean[controls]).double()
    in_region = apply_affine(invert_affine(affine[0]), place.float())
    height, width = sample.region.shape[-2:]
    unit = in_region * 2 / torch.tensor([width - 1, height - 1]) - 1
    picture = F.grid_sample(
        sample.region[None],
        unit.view(1, SHADING_SIDE, SHADING_SIDE, 2),
        padding_mode="border",
        align_corners=True,
    )
    linear = (picture**2.2 * LIGHT.view(3, 1, 1)).sum(1, keepdim=True)
    return (linear + DARKEST).log()


def slow_part_removed(values: Tensor, skin: Tensor) -> Tensor:
    """A map `[1,1,S,S]` less its local mean over the skin, `[S,S]`."""
    sigma = LAMP * SHADING_SIDE
    slow = smooth(values * skin, sigma) / smooth(skin, sigma).clamp(min=1e-3)
    return (values - slow)[0, 0]


def skin_mask(mean: Tensor) -> Tensor:
    """`[1,1,S,S]` in [0,1]: 1 where skin is, 0 on eyes, brows, nostrils, lips and off the face.

    There, small errors of the points would print edges.
    """
    shape = mean * SHADING_SIDE
    mesh, size = shape[POINTS:], SHADING_SIDE
    face = polygon_mask(mesh[list(OVAL)], size)
    face = smooth(-F.max_pool2d(-face, 7, 1, 3), 2)
    parts = [polygon_mask(mesh[list(loop)], size) for loop in (LEFT_EYE, RIGHT_EYE, INNER_LIPS)]
    parts += [polygon_mask(thick(shape[brow], 0.025 * size), size) for brow in BROWS]
    parts += [polygon_mask(thick(shape[NOSTRILS], 0.012 * size), size)]
    parts += [polygon_mask(shape[OUTER_LIPS], size)]
    other = smooth(F.max_pool2d(torch.stack(parts).amax(0), 5, 1, 2), 1.5)
    return face * (1 - other.clamp(0, 1))


def thick(line: Tensor, half: float) -> Tensor:
    """The polygon of a nearly level line `[N,2]` that is drawn `2 * half` thick."""
    up = torch.tensor([0.0, half])
    return torch.cat([line - up, (line + up).flip(0)])


def wiener_filter(persons: Tensor, expressions: Tensor) -> Tensor:
    """Matrix `[K,K]` that finds the part of a shape's axes which is expression.

    With both Gaussian, the expected expression is E (E + I)^-1 times what is seen.

    Args:
        persons: `[N,K]` of neutral faces, covariance I.
        expressions: `[M,K]` of faces' differences to their person's mean, covariance E.
    """
    identity = persons.T @ persons / len(persons)
    expression = EVERYDAY * expressions.T @ expressions / len(expressions)
    noise = 1e-3 * identity.diagonal().mean() * torch.eye(len(identity))
    return torch.linalg.solve(expression + identity + noise, expression).T
