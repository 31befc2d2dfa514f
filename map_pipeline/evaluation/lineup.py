"""Line-ups: do people still find the person, which emotion do they see, does it look edited?

Each question shows one inner face (an ellipse without hair and background) of an evaluation, and
six inner faces to choose from: another photo of the person and the five people whom the recognisers
find most alike. Protected photos, by one method or by several in turn, are mixed with untouched
ones, which nothing on the sheet marks; only the key file does. `answers.score` compares a viewer's
answers with the key.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.answers import EDITED, EMOTION, LETTERS, PERSON, UNTOUCHED
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.gallery import Embeddings
from map_pipeline.evaluation.results import PhotoRow, photo_file, photos_file, read_rows
from map_pipeline.evaluation.sheets import GAP, check_no_sheets, draw_sheet, write_sheets
from map_pipeline.faces.align import (
    arcface_template,
    extract_region,
    invert_affine,
    similarity_transform,
    warp_affine,
)
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.images import load_image, to_array, to_pil, uint8_tensor

CANDIDATES = len(LETTERS)
QUESTIONS = 6  # on one sheet
FACE = 224  # px
EYE_DISTANCE = 100  # px; about that of a face of `FACE` px, so that larger ones are reduced first
# The inner face as an ellipse: centre and half axes as shares of the side of ArcFace's crop, moved
# up by `RAISE` of it.
CENTRE, AXES, RAISE = (0.5, 0.57), (0.36, 0.42), 0.02
BACKGROUND = 0.5


@dataclass(frozen=True)
class Question:
    """A face and whom it is to be found among; a line of the key file.

    Attributes:
        number: on the sheets; photo: name of the person's pair; person: letter of the right answer.
        shown: the method that protected it, or "untouched"; left_out: see `PhotoRow`.
        emotion: the asked one, "" if untouched.
        choices: names of the pairs shown as A to F, joined by spaces.
    """

    number: int
    photo: str
    person: str
    shown: str
    left_out: str
    emotion: str
    choices: str


def make_sheets(
    runs: Sequence[Path],
    photos: PhotoSet,
    embed: Callable[[bytes], Embeddings],
    detector: FaceDetector,
    out: Path,
    count: int = 48,
    untouched: float = 0.33,
    seed: int = 0,
    methods: Sequence[str] = (),
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Path]:
    """Write sheets of line-ups, the key, and an empty file for the answers.

    Args:
        runs: folders of evaluations, as `map-protect evaluate` left them; photos: their photo set.
        embed: maps the bytes of a photo to embeddings of its largest face.
        out: new folder for the sheets.
        count: questions, >= 1; fewer if there are fewer photos that all methods protected.
        untouched: share of questions that show the unprotected photo, in [0,1].
        seed: of the choice and the order.
        methods: whose results, in turn; may be left out if there is only one.
        attributes: name of a pair -> attributes; with a "gender", candidates are of the same.

    Raises:
        UnknownOptionError: a folder holds no run, there is no such method or one in several runs,
            or sheets are there already.
        InvalidImageError: a picture is missing or shows no face, or there are too few people.
    """
    if count < 1 or not 0 <= untouched <= 1:
        raise UnknownOptionError(
            f"`count` must be at least 1 and `untouched` in [0, 1], got {count} and {untouched}."
        )
    check_no_sheets(out)
    protected = protected_rows(runs, methods)
    names = sorted(protected)
    chance = random.Random(seed)
    chance.shuffle(names)
    seconds = {pair.name: pair.second for pair in photos.pairs if pair.second}
    known = {}
    for name, file in seconds.items():
        with suppress(InvalidImageError):  # a photo without a face is no candidate
            known[name] = embed(photos.read(file))
    names = [name for name in names if name in known][:count]
    plain = set(chance.sample(range(len(names)), round(untouched * len(names))))
    questions, places = [], []
    for index, name in enumerate(names):
        changed = index - sum(one < index for one in plain)  # how many protected ones came before
        run, row = protected[name][changed % len(protected[name])]
        places.append(run)
        others = alike(row.photo, known, attributes or {})
        choices = [row.photo, *others]
        chance.shuffle(choices)
        questions.append(
            Question(
                number=index + 1,
                photo=row.photo,
                person=LETTERS[choices.index(row.photo)],
                shown=UNTOUCHED if index in plain else row.method,
                left_out=row.left_out,
                emotion="" if index in plain else row.emotion,
                choices=" ".join(choices),
            )
        )
    rows = [
        _row(run, photos, seconds, detector, one)
        for run, one in zip(places, questions, strict=True)
    ]
    sheets = (
        draw_sheet(rows[start : start + QUESTIONS], FACE, 3 * GAP)
        for start in range(0, len(rows), QUESTIONS)
    )
    return write_sheets(out, sheets, questions, (PERSON, EMOTION, EDITED))


def protected_rows(
    runs: Sequence[Path], methods: Sequence[str]
) -> dict[str, list[tuple[Path, PhotoRow]]]:
    """Plain photo -> its run and row for each method; photos that all methods protected."""
    found: dict[str, dict[str, tuple[Path, PhotoRow]]] = {}
    for run in runs:
        rows = [row for row in read_rows(photos_file(run), PhotoRow) if row.status == "ok"]
        if not rows:
            raise UnknownOptionError(
                f"`RUN` must be the folder of an evaluation with protected photos, "
                f"got {run.name!r}."
            )
        for row in sorted(rows, key=lambda row: (row.photo, row.left_out)):
            own = found.setdefault(row.method, {})
            if row.style == "plain" and own.setdefault(row.photo, (run, row))[0] != run:
                raise UnknownOptionError(
                    f"`--method` must be in one run, got {row.method!r} in several."
                )
    asked = list(methods) or list(found)
    if (unknown := set(asked) - set(found)) or (len(asked) > 1 and not methods):
        got = repr(min(unknown)) if unknown else "none"
        raise UnknownOptionError(f"`--method` must be among {', '.join(found)}; got {got}.")
    shared = set.intersection(*(set(found[method]) for method in asked))
    return {photo: [found[method][photo] for method in asked] for photo in shared}


def alike(
    name: str,
    known: Mapping[str, Embeddings],
    attributes: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """The people whom the recognisers find most like one, on average; of the same gender.

    Raises:
        InvalidImageError: there are too few.
    """
    gender = attributes.get(name, {}).get("gender")
    others = [one for one in known if one != name]
    others = [one for one in others if attributes.get(one, {}).get("gender", gender) == gender]
    if len(others) < CANDIDATES - 1:
        raise InvalidImageError(
            f"`pairs` must show {CANDIDATES - 1} others to choose from for {name}, "
            f"got {len(others)}."
        )
    rank = dict.fromkeys(others, 0.0)
    for recogniser in known[name]:
        # Each recogniser has a scale of its own, so places are added and not similarities.
        similar = [float(known[name][recogniser] @ known[one][recogniser]) for one in others]
        for place, index in enumerate(np.argsort(similar)[::-1]):
            rank[others[index]] += place
    return sorted(others, key=rank.__getitem__)[: CANDIDATES - 1]


def inner_face(
    photo: np.ndarray, detector: FaceDetector, before: np.ndarray | None = None
) -> Image.Image:
    """The largest face of a photo `uint8 [H,W,3]`, upright, in an ellipse on grey.

    Args:
        before: the photo before its protection, by which a face is aligned that isn't found any
            more.

    Raises:
        InvalidImageError: no face is found.
    """
    found = detector.detect(photo) or ([] if before is None else detector.detect(before))
    if not found:
        raise InvalidImageError("`image` must show a face, but none was found.")
    region = extract_region(
        uint8_tensor(photo), torch.as_tensor(found[0].landmarks), max_face_px=EYE_DISTANCE
    )
    to_crop = similarity_transform(region.landmarks, arcface_template(FACE, RAISE))
    crop = warp_affine(
        region.image, invert_affine(to_crop)[None], (FACE, FACE), "border", "bicubic"
    )
    axis = torch.arange(FACE) / FACE
    x, y = (axis - CENTRE[0]) / AXES[0], (axis - CENTRE[1]) / AXES[1]
    inside = (x[None, :] ** 2 + y[:, None] ** 2 < 1).float()
    return to_pil(crop.clamp(0, 1) * inside + BACKGROUND * (1 - inside))


def _row(
    run: Path,
    photos: PhotoSet,
    seconds: Mapping[str, str],
    detector: FaceDetector,
    one: Question,
) -> list[tuple[str, Image.Image]]:
    """The face in question with its number, then those to choose from with their letters."""
    before = _read_photo(photo_file(run, "source", one.photo))
    shown = before
    if one.shown != UNTOUCHED:
        shown = _read_photo(photo_file(run, one.shown, one.photo, one.left_out))
    others = [to_array(load_image(photos.read(seconds[name]))) for name in one.choices.split(" ")]
    faces = [inner_face(shown, detector, before), *(inner_face(one, detector) for one in others)]
    return list(zip((str(one.number), *LETTERS), faces, strict=True))


def _read_photo(path: Path) -> np.ndarray:
    if not path.is_file():
        place = "/".join(path.parts[-3:])
        raise InvalidImageError(f"`RUN` must hold the pictures of its photos, got no {place}.")
    return to_array(load_image(path))
