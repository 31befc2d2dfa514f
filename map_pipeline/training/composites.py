"""Build the built-in targets: averages of several faces that show nobody real.

A group is formed from the labels of an aligned face set (UTKFace's age, gender and race): people
of 20 to 37 or of 45 to 75 years, women or men, in one of four label groups. The label groups stand
for nothing but the skin tone and the proportions that recognisers respond to, so they are named by
tone: light (label 0), dark (1), medium (2), tan (3). Within a group the faces are taken that look
straight ahead with a closed or slightly open mouth and that are sharp and in colour; those that
differ most from the group's median (glasses, beards, heavy shadows) are left out. The rest is
warped onto the group's mean shape and averaged.

    python -m map_pipeline.training.composites --faces faces128.zip --out DIR --impostors DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import Delaunay
from torch import Tensor

from map_pipeline.faces.align import (
    apply_affine,
    arcface_template,
    extract_region,
    similarity_transform,
)
from map_pipeline.faces.contour import five_points
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.images import load_image, to_array, to_tensor
from map_pipeline.pipeline import FAR, bundled_checkpoint
from map_pipeline.recognition import FaceRecogniser
from map_pipeline.targets import TargetBank

SIZE = 128  # px; side of the labelled faces and of the composites
TEMPLATE_RAISE = 0.06  # share of the side by which the faces lie higher than in ArcFace's crop
RECOGNISERS = ("dlib_resnet", "mobilefacenet", "faceres", "mobileface")
# Largest share of strangers a composite may be matched by at FAR 1 %.
MAX_IMPOSTOR_RATE = {"mobileface": 0.02}  # a weak recogniser
DEFAULT_MAX_IMPOSTOR_RATE = 0.01
TONES = {0: "light", 2: "medium", 3: "tan", 1: "dark"}  # race label of UTKFace -> word
GENDERS = {1: "woman", 0: "man"}  # gender label of UTKFace -> word
PLURALS = {"woman": "women", "man": "men"}
AGES = {"young": (20, 37), "older": (45, 75)}  # years, both ends included
FACES_PER_COMPOSITE = (12, 10, 8)  # tried in turn
MIN_FACES_PER_COMPOSITE = 8
POOL_FACTOR = 1.6  # faces warped per face averaged: the least typical ones are left out
MAX_CANDIDATES = 160  # faces of a group that are looked at
ATTEMPTS = 60  # other subsets tried for a group whose composite resembles strangers
MIN_CHROMA = 6.0  # mean distance between the colour channels (0..255) below which a face is grey
# Mean grey value of the inner face, 0..1: photos exposed so that they show the tone they stand for.
BRIGHTNESS = {
    "light": (0.48, 0.68),
    "medium": (0.4, 0.64),
    "tan": (0.34, 0.58),
    "dark": (0.2, 0.56),
}
MAX_MOUTH_OPENING = 0.24  # gap between the lips as a share of the mouth's width
# Of a turned head, glasses, an open mouth and a blurred photo, when the best faces are chosen.
FAULT_WEIGHTS = (2, 1, 1, 1)
SHARPENING = 0.6  # share of the detail finer than 1 px that is added back
TRIMMED = 0.2  # share of the faces left out at either end of each pixel's values
FACE_EDGE = 3.0  # px, width of the seam between the face and its softened surroundings
SURROUNDINGS_BLUR = 5.0  # px
FOREHEAD = 0.55  # height of the forehead points above the brows, in eye-mouth distances


@dataclass(frozen=True)
class Group:
    """Whom a composite averages."""

    gender: int
    race: int
    age: str

    @property
    def tone(self) -> str:
        """Skin tone, such as "light"."""
        return TONES[self.race]

    @property
    def name(self) -> str:
        """Such as "woman-young-light"."""
        return f"{GENDERS[self.gender]}-{self.age}-{self.tone}"

    def describe(self, count: int) -> str:
        """What a user reads under the picture."""
        people = PLURALS[GENDERS[self.gender]]
        return f"Composite of {count} {self.age} {people}, {self.tone} skin"

    def includes(self, label: Mapping) -> bool:
        """Whether a line of `labels.jsonl` belongs to the group."""
        low, high = AGES[self.age]
        return (
            label.get("gender") == self.gender
            and label.get("race") == self.race
            and low <= (label.get("age") or 0) <= high
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A labelled face with what is needed to average it."""

    file: str
    image: Tensor
    """`[3,S,S]` float32 RGB in [0,1], aligned."""
    contour: Tensor
    """`[68,2]` px."""
    sharpness: float
    """Variance of the Laplacian over the grey variance, inner face."""
    asymmetry: float
    """How far the head is turned, in eye distances."""
    mouth_opening: float
    """Gap between the lips as a share of the mouth's width."""
    bridge: float
    """Contrast of edges across the bridge of the nose: high for glasses."""


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


GROUPS = [Group(gender, race, age) for gender in GENDERS for age in AGES for race in TONES]


def read_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files at the top of a folder or zip file, sorted by name."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.is_file():
                yield path.name, path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            if "/" not in name:
                yield name, archive.read(name)


def mean_shape(contours: Tensor, template: Tensor) -> Tensor:
    """Mean `[68,2]` of contours `[N,68,2]`, each fitted to the five-point `template` `[5,2]`.

    The fit ignores pose and size, so that only proportions are averaged.
    """
    points = torch.stack([_five(contour) for contour in contours])
    fitted = apply_affine(similarity_transform(points, template), contours)
    mean = fitted.mean(0)
    return apply_affine(similarity_transform(_five(mean)[None], template), mean[None])[0]


def warp_to_shape(images: Tensor, contours: Tensor, shape: Tensor) -> Tensor:
    """Move the landmarks of each image onto `shape`, piecewise affinely.

    The picture between landmarks follows by a triangulation of `shape`, a forehead line above the
    brows, and a frame that stays where it is.

    Args:
        images: `[N,3,S,S]`.
        contours: `[N,68,2]` px.
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
    for contour in contours:
        source = (_anchors(contour, size)[corners] * weights[..., None]).sum(1)  # [P,2] px
        grids.append((source * (2 / (size - 1)) - 1).view(size, size, 2))
    return F.grid_sample(
        images, torch.stack(grids), mode="bicubic", padding_mode="reflection", align_corners=True
    ).clamp(0, 1)


def average_faces(
    images: Tensor, contours: Tensor, template: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """The composite of some faces `[3,S,S]` in [0,1], aligned to `template`, and who is in it.

    Colours are first brought to the faces' common mean and spread, so that light and white balance
    don't print one face over the others. The `keep` faces nearest to the median are averaged.

    Args:
        images: `[N,3,S,S]` in [0,1].
        contours: `[N,68,2]` px.
        template: `[5,2]` px.
        keep: how many of the N faces to average.

    Returns:
        the composite and the indices `[keep]` of the faces averaged.
    """
    shape = mean_shape(contours, template)
    warped = _equalise_colours(warp_to_shape(images, contours, shape))
    inner = _inner_face(images.shape[-1])
    distance = (warped - warped.median(0).values).abs().mean(1)[:, inner].mean(1)  # [N]
    typical = distance.argsort(stable=True)[:keep]
    # Shape and picture of the same people.
    shape = mean_shape(contours[typical], template)
    warped = _equalise_colours(warp_to_shape(images[typical], contours[typical], shape))
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
    face = _blur(torch.from_numpy(inside)[None].float(), FACE_EDGE)
    return face * picture + (1 - face) * _blur(picture, SURROUNDINGS_BLUR)


def sharpen(image: Tensor, amount: float = SHARPENING) -> Tensor:
    """Add back some of the detail that averaging blurs; `[3,S,S]` in [0,1]."""
    return (image + amount * (image - _blur(image, 1.0))).clamp(0, 1)


def find_candidates(
    files: Mapping[str, bytes],
    labels: Sequence[Mapping],
    group: Group,
    detector: BundledDetector,
    generator: np.random.Generator,
) -> list[Candidate]:
    """The usable faces of a group, the straightest and sharpest first."""
    members = [label["file"] for label in labels if group.includes(label)]
    generator.shuffle(members)
    found = [
        _candidate(name, files[name], group.tone, detector) for name in members[:MAX_CANDIDATES]
    ]
    usable = [candidate for candidate in found if candidate is not None]
    faults = [[c.asymmetry, c.bridge, c.mouth_opening, -c.sharpness] for c in usable]
    # Ranks have no units, so they can be added up.
    ranks = np.reshape(faults, (-1, 4)).argsort(0, kind="stable").argsort(0)
    order = (ranks @ FAULT_WEIGHTS).argsort(kind="stable")
    return [usable[i] for i in order]


def impostor_rates(
    composites: Tensor, strangers: Mapping[str, Tensor], recognisers: Mapping[str, FaceRecogniser]
) -> dict[str, Tensor]:
    """Recogniser name -> share `[N]` of strangers that match each composite at FAR 1 %.

    Args:
        composites: `[N,3,S,S]` in [0,1].
        strangers: recogniser name -> embeddings `[M,D]`.
        recognisers: by name.
    """
    rates = {}
    for name, recogniser in recognisers.items():
        cosines = embed_composites(composites, recogniser) @ strangers[name].T
        rates[name] = (cosines >= recogniser.threshold(FAR)).float().mean(1)
    return rates


def embed_composites(composites: Tensor, recogniser: FaceRecogniser) -> Tensor:
    """Embeddings `[N,D]` of aligned pictures `[N,3,S,S]` in [0,1], as `MAPPipeline` sees them."""
    template = arcface_template(composites.shape[-1], TEMPLATE_RAISE)
    with torch.no_grad():
        return recogniser(composites, template.expand(len(composites), -1, -1)).float()


def embed_strangers(
    source: Path, detector: BundledDetector, recognisers: Mapping[str, FaceRecogniser]
) -> dict[str, Tensor]:
    """Recogniser name -> embeddings `[M,D]` of the largest face of each picture in `source`."""
    embeddings: dict[str, list[Tensor]] = {name: [] for name in recognisers}
    for _, content in read_files(source):
        photo = to_array(load_image(content))
        faces = detector.detect(photo)
        if not faces:
            continue
        region = extract_region(to_tensor(photo), torch.as_tensor(faces[0].landmarks))
        with torch.no_grad():
            for name, recogniser in recognisers.items():
                embeddings[name].append(recogniser(region.image, region.landmarks[None]).float())
    return {name: torch.cat(parts) for name, parts in embeddings.items()}


def save_bank(
    out: Path, composites: Sequence[Composite], recognisers: Mapping[str, FaceRecogniser]
) -> TargetBank:
    """Write the targets component with embeddings of each recogniser, and return it."""
    pictures = torch.stack([composite.picture for composite in composites])
    embeddings = {name: embed_composites(pictures, net) for name, net in recognisers.items()}
    bank = TargetBank(
        names=[one.group.name for one in composites],
        descriptions=[one.group.describe(len(one.members)) for one in composites],
        image_size=SIZE,
        embedding_dims={name: value.shape[1] for name, value in embeddings.items()},
    )
    bank.images.copy_((pictures * 255).round().to(torch.uint8))
    for name, value in embeddings.items():
        bank.get_buffer(f"embedding_{name}").copy_(value)
    bank.save_pretrained(out)
    return bank


def build_composite(
    group: Group,
    candidates: Sequence[Candidate],
    strangers: Mapping[str, Tensor],
    recognisers: Mapping[str, FaceRecogniser],
    generator: np.random.Generator,
) -> Composite | None:
    """The first composite of a group that passes for nobody else, or None.

    The first attempt takes the best candidates, further ones random subsets of the better two
    thirds.
    """
    if len(candidates) < MIN_FACES_PER_COMPOSITE:
        return None
    most = max(round(len(candidates) / POOL_FACTOR), MIN_FACES_PER_COMPOSITE)
    best = None
    for attempt in range(ATTEMPTS):
        keep = min(FACES_PER_COMPOSITE[attempt % len(FACES_PER_COMPOSITE)], most)
        pool_size = min(round(keep * POOL_FACTOR), len(candidates))
        better = max(len(candidates) * 2 // 3, pool_size)
        chosen = np.arange(pool_size)
        if attempt:
            chosen = generator.choice(better, pool_size, replace=False)
        pool = [candidates[i] for i in chosen]
        picture, members = average_faces(
            torch.stack([c.image for c in pool]),
            torch.stack([c.contour for c in pool]),
            arcface_template(SIZE, TEMPLATE_RAISE),
            keep,
        )
        picture = (picture * 255).round() / 255  # measure what is going to be stored
        rates = impostor_rates(picture[None], strangers, recognisers)
        composite = Composite(
            group,
            picture,
            tuple(pool[i].file for i in members.tolist()),
            {name: float(rate[0]) for name, rate in rates.items()},
        )
        if composite.passes:
            return composite
        best = min(best or composite, composite, key=lambda c: c.excess)
    return best


def read_faces(source: Path) -> tuple[dict[str, bytes], list[dict]]:
    """Image files by name and the labels that name them, of a folder or zip with `labels.jsonl`."""
    files = dict(read_files(source))
    labels = [json.loads(line) for line in files.pop("labels.jsonl").decode().splitlines()]
    return files, labels


def load_recognisers(checkpoint: Path) -> dict[str, FaceRecogniser]:
    """The recognisers of a checkpoint that targets are checked with, by component name."""
    return {
        name: FaceRecogniser.from_pretrained(checkpoint / name, dtype=torch.float32).eval()
        for name in RECOGNISERS
        if (checkpoint / name).is_dir()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: build, check and write the targets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="zip or folder of aligned faces")
    parser.add_argument("--out", type=Path, required=True, help="folder of the targets component")
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--impostors", type=Path, help="zip or folder of photos of strangers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    detector = BundledDetector()
    recognisers = load_recognisers(options.checkpoint)
    strangers = {}
    if options.impostors is not None:
        strangers = embed_strangers(options.impostors, detector, recognisers)
    checked = {name: recognisers[name] for name in strangers}
    files, labels = read_faces(options.faces)

    composites = []
    for index, group in enumerate(GROUPS):
        generator = np.random.default_rng([options.seed, index])
        candidates = find_candidates(files, labels, group, detector, generator)
        composite = build_composite(group, candidates, strangers, checked, generator)
        print(_table_line(group, len(candidates), composite), flush=True)
        if composite is not None and composite.passes:
            composites.append(composite)
    if not composites:
        raise SystemExit("No composite passed; use more faces or another seed.")
    save_bank(options.out, composites, recognisers)
    for path in sorted(options.out.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")


def _table_line(group: Group, candidates: int, composite: Composite | None) -> str:
    if composite is None:
        return f"{group.name:20} {candidates:3} candidates: too few"
    rates = "  ".join(f"{name} {rate:6.1%}" for name, rate in composite.impostor_rates.items())
    verdict = "kept" if composite.passes else "dropped"
    members = f"{len(composite.members):2} of {candidates:3} faces"
    return f"{group.name:20} {members}  {rates}  {verdict}"


def _candidate(file: str, content: bytes, tone: str, detector: BundledDetector) -> Candidate | None:
    """The face, or None if it is grey, badly exposed, not found, or shows an open mouth."""
    photo = to_array(load_image(content))
    if photo.shape != (SIZE, SIZE, 3) or _chroma(photo) < MIN_CHROMA:
        return None
    low, high = BRIGHTNESS[tone]
    if not low <= photo[_inner_face(SIZE)].mean() / 255 <= high:
        return None
    faces = detector.detect(photo)
    if not faces:
        return None
    contour = faces[0].contour68
    opening = _mouth_opening(contour)
    if opening > MAX_MOUTH_OPENING:
        return None
    image = to_tensor(photo)[0]
    return Candidate(
        file=file,
        image=image,
        contour=torch.from_numpy(contour),
        sharpness=_sharpness(image),
        asymmetry=_asymmetry(contour),
        mouth_opening=opening,
        bridge=_bridge_contrast(image, contour),
    )


def _five(contour: Tensor) -> Tensor:
    return torch.from_numpy(five_points(contour.numpy()))


def _anchors(contour: Tensor, size: int) -> Tensor:
    """The contour `[68,2]`, points on the forehead and a frame around the picture: `[M,2]` px."""
    eyes, mouth = contour[36:48].mean(0), contour[48:60].mean(0)
    forehead = contour[[17, 19, 21, 22, 24, 26]] + FOREHEAD * (eyes - mouth)
    low, middle, high = -size / 4, size / 2, size * 5 / 4
    frame = [(x, y) for x in (low, middle, high) for y in (low, middle, high)]
    frame.remove((middle, middle))
    return torch.cat([contour, forehead, torch.tensor(frame)])


def _equalise_colours(faces: Tensor) -> Tensor:
    """Give each face's inner part the channel means and spreads that the faces have in common."""
    inner = faces[:, :, _inner_face(faces.shape[-1])]  # [N,3,P]
    mean, std = inner.mean(2)[..., None, None], inner.std(2)[..., None, None].clamp(1e-3)
    return ((faces - mean) / std * std.mean(0) + mean.mean(0)).clamp(0, 1)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `[C,S,S]` with a standard deviation in px."""
    radius = round(3 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")[0][:, None]
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0]


def _inner_face(size: int) -> Tensor:
    """Bool `[S,S]`: an ellipse around eyes, nose and mouth of an aligned face."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((x / size - 0.5) / 0.33) ** 2 + ((y / size - 0.57) / 0.36) ** 2 < 1


def _chroma(photo: np.ndarray) -> float:
    """Mean spread of the colour channels, 0..255."""
    return float(np.ptp(photo.astype(np.float32), axis=2).mean())


def _mouth_opening(contour: np.ndarray) -> float:
    """Gap between the lips as a share of the mouth's width."""
    width = np.linalg.norm(contour[54] - contour[48])
    return float(np.linalg.norm(contour[66] - contour[62]) / max(width, 1e-3))


def _sharpness(image: Tensor) -> float:
    """Variance of the Laplacian over the variance of the grey values, inner face."""
    grey = image.mean(0)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    detail = F.conv2d(grey[None, None], kernel[None, None], padding=1)[0, 0]
    inner = _inner_face(image.shape[-1])
    return float(detail[inner].var() / grey[inner].var().clamp(1e-4))


def _bridge_contrast(image: Tensor, contour: np.ndarray) -> float:
    """Largest vertical step between the inner corners of the eyes over the grey spread."""
    grey = image.mean(0)
    inner_left, inner_right, brow = contour[39], contour[42], contour[21]
    columns = slice(int(inner_left[0]) + 2, int(inner_right[0]) - 1)
    bridge = grey[int(brow[1]) + 3 : int(inner_right[1]) + 6, columns]
    if min(bridge.shape) < 3:
        return 0.0
    return float(bridge.mean(1).diff().abs().max() / grey.std().clamp(1e-3))


def _asymmetry(contour: np.ndarray) -> float:
    """How far the head is turned or rolled, 0 if it looks straight ahead.

    Sum of the nose tip's and the jaw's horizontal distances from the middle of the eyes along the
    line of the eyes, in eye distances.
    """
    left, right, nose, *_ = five_points(contour)
    across = (right - left) / max(float(np.linalg.norm(right - left)), 1e-3)
    middle = (left + right) / 2
    jaw = (contour[2] + contour[14]) / 2
    offsets = [abs(float((point - middle) @ across)) for point in (nose, jaw)]
    return sum(offsets) / max(float(np.linalg.norm(right - left)), 1e-3)


if __name__ == "__main__":
    main()
