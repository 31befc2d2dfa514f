"""Choose the faces that a built-in target averages: whom, and which of their pictures.

A group is formed from the labels of an aligned face set (UTKFace's age, gender and race): people
of 20 to 37 or of 45 to 75 years, women or men, in one of four label groups. The label groups stand
for nothing but the skin tone and the proportions that recognisers respond to, so they are named by
tone: light (label 0), dark (1), medium (2), tan (3). Within a group the faces are taken that look
straight ahead with a closed or slightly open mouth and that are sharp and in colour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import laplace
from torch import Tensor

from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.landmarks import five_points
from map_pipeline.images import load_image, to_array, to_tensor

SIZE = 128  # px; side of the labelled faces and of the composites
TONES = {0: "light", 2: "medium", 3: "tan", 1: "dark"}  # race label of UTKFace -> word
GENDERS = {1: "woman", 0: "man"}  # gender label of UTKFace -> word
PLURALS = {"woman": "women", "man": "men"}
AGES = {"young": (20, 37), "older": (45, 75)}  # years, both ends included
MAX_CANDIDATES = 160  # faces of a group that are looked at
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


GROUPS = [Group(gender, race, age) for gender in GENDERS for age in AGES for race in TONES]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A labelled face with what is needed to average it."""

    file: str
    image: Tensor
    """`[3,S,S]` float32 RGB in [0,1], aligned."""
    landmarks68: Tensor
    """`[68,2]` px."""
    sharpness: float
    """Variance of the Laplacian over the grey variance, inner face."""
    asymmetry: float
    """How far the head is turned, in eye distances."""
    mouth_opening: float
    """Gap between the lips as a share of the mouth's width."""
    bridge: float
    """Contrast of edges across the bridge of the nose: high for glasses."""


def find_candidates(
    files: Mapping[str, bytes],
    labels: Sequence[Mapping],
    group: Group,
    detector: BundledDetector,
    generator: np.random.Generator,
) -> list[Candidate]:
    """The usable faces of a group, the straightest and sharpest first."""
    members = [label["file"] for label in labels if group.includes(label)]
    members = [name for name in members if name in files]
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


def inner_face(size: int) -> Tensor:
    """Bool `[S,S]`: an ellipse around eyes, nose and mouth of an aligned face."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((x / size - 0.5) / 0.33) ** 2 + ((y / size - 0.57) / 0.36) ** 2 < 1


def _candidate(file: str, content: bytes, tone: str, detector: BundledDetector) -> Candidate | None:
    """The face, or None if it is grey, badly exposed, not found, or shows an open mouth."""
    photo = to_array(load_image(content))
    if photo.shape != (SIZE, SIZE, 3) or _chroma(photo) < MIN_CHROMA:
        return None
    low, high = BRIGHTNESS[tone]
    if not low <= photo[inner_face(SIZE)].mean() / 255 <= high:
        return None
    faces = detector.detect(photo)
    if not faces:
        return None
    landmarks68 = faces[0].landmarks68
    opening = _mouth_opening(landmarks68)
    if opening > MAX_MOUTH_OPENING:
        return None
    image = to_tensor(photo)[0]
    return Candidate(
        file=file,
        image=image,
        landmarks68=torch.from_numpy(landmarks68),
        sharpness=_sharpness(image),
        asymmetry=_asymmetry(landmarks68),
        mouth_opening=opening,
        bridge=_bridge_contrast(image, landmarks68),
    )


def _chroma(photo: np.ndarray) -> float:
    """Mean spread of the colour channels, 0..255."""
    return float(np.ptp(photo.astype(np.float32), axis=2).mean())


def _mouth_opening(landmarks68: np.ndarray) -> float:
    """Gap between the lips as a share of the mouth's width."""
    width = np.linalg.norm(landmarks68[54] - landmarks68[48])
    return float(np.linalg.norm(landmarks68[66] - landmarks68[62]) / max(width, 1e-3))


def _sharpness(image: Tensor) -> float:
    """Variance of the Laplacian over the variance of the grey values, inner face."""
    grey = image.mean(0)
    detail = torch.from_numpy(laplace(grey.numpy()))
    inner = inner_face(image.shape[-1])
    return float(detail[inner].var() / grey[inner].var().clamp(1e-4))


def _bridge_contrast(image: Tensor, landmarks68: np.ndarray) -> float:
    """Largest vertical step between the inner corners of the eyes over the grey spread."""
    grey = image.mean(0)
    inner_left, inner_right, brow = landmarks68[39], landmarks68[42], landmarks68[21]
    columns = slice(int(inner_left[0]) + 2, int(inner_right[0]) - 1)
    bridge = grey[int(brow[1]) + 3 : int(inner_right[1]) + 6, columns]
    if min(bridge.shape) < 3:
        return 0.0
    return float(bridge.mean(1).diff().abs().max() / grey.std().clamp(1e-3))


def _asymmetry(landmarks68: np.ndarray) -> float:
    """How far the head is turned or rolled, 0 if it looks straight ahead.

    Sum of the nose tip's and the jaw's horizontal distances from the middle of the eyes along the
    line of the eyes, in eye distances.
    """
    left, right, nose, *_ = five_points(landmarks68)
    across = (right - left) / max(float(np.linalg.norm(right - left)), 1e-3)
    middle = (left + right) / 2
    jaw = (landmarks68[2] + landmarks68[14]) / 2
    offsets = [abs(float((point - middle) @ across)) for point in (nose, jaw)]
    return sum(offsets) / max(float(np.linalg.norm(right - left)), 1e-3)
