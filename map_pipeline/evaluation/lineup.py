"""Line-ups: do people still find the person, which emotion do they see, does it look edited?

Each question shows one inner face (an ellipse without hair and background) of an evaluation, and
six inner faces to choose from: another photo of the person and the five people whom the recognisers
find most alike. Protected photos are mixed with untouched ones, which nothing on the sheet
marks; only the key file does. `answers.score` compares a viewer's answers with the key.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.answers import (
    ANSWERS,
    EDITED,
    EMOTION,
    KEY,
    LETTERS,
    NUMBER,
    PERSON,
    UNTOUCHED,
    write_table,
)
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.gallery import Embeddings
from map_pipeline.evaluation.results import PhotoRow, photo_file, photos_file, read_rows
from map_pipeline.faces.align import (
    arcface_template,
    extract_region,
    invert_affine,
    similarity_transform,
    warp_affine,
)
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.images import load_image, save_image, to_array, to_pil, uint8_tensor

CANDIDATES = len(LETTERS)
QUESTIONS = 6  # on one sheet
FACE, GAP, CAPTION = 224, 12, 30  # px
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
    run: Path,
    photos: PhotoSet,
    embed: Callable[[bytes], Embeddings],
    detector: FaceDetector,
    out: Path,
    count: int = 48,
    untouched: float = 0.33,
    seed: int = 0,
    method: str | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Path]:
    """Write sheets of line-ups, the key, and an empty file for the answers.

    Args:
        run: folder of an evaluation, as `map-protect evaluate` left it; photos: its photo set.
        embed: maps the bytes of a photo to embeddings of its largest face.
        out: new folder for the sheets.
        count: questions, >= 1; fewer if the run has fewer photos.
        untouched: share of questions that show the unprotected photo, in [0,1].
        seed: of the choice and the order.
        method: whose results; may be left out if the run has only one.
        attributes: name of a pair -> attributes; with a "gender", candidates are of the same.

    Raises:
        UnknownOptionError: the folder holds no such run, or sheets are there already.
        InvalidImageError: a picture is missing or shows no face, or there are too few people.
    """
    if count < 1 or not 0 <= untouched <= 1:
        raise UnknownOptionError(
            f"`count` must be at least 1 and `untouched` in [0, 1], got {count} and {untouched}."
        )
    if (out / KEY).exists():
        raise UnknownOptionError(f"`--out` must be a new folder, got {out.name!r} with sheets.")
    rows = protected_rows(run, method)
    chance = random.Random(seed)
    chance.shuffle(rows)
    seconds = {pair.name: pair.second for pair in photos.pairs if pair.second}
    known = {}
    for name, file in seconds.items():
        with suppress(InvalidImageError):  # a photo without a face is no candidate
            known[name] = embed(photos.read(file))
    rows = [row for row in rows if row.photo in known][:count]
    plain = set(chance.sample(range(len(rows)), round(untouched * len(rows))))
    questions = []
    for index, row in enumerate(rows):
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
    sheets = []
    for start in range(0, len(questions), QUESTIONS):
        part = questions[start : start + QUESTIONS]
        faces = [_faces(run, photos, seconds, detector, one) for one in part]
        sheets.append(out / f"sheet-{len(sheets) + 1}.png")
        save_image(_sheet(part, faces), sheets[-1])
    header = (NUMBER, PERSON, EMOTION, EDITED)
    write_table(out / ANSWERS, header, [(one.number, "", "", "") for one in questions])
    names = [field.name for field in fields(Question)]
    write_table(out / KEY, names, [[getattr(one, name) for name in names] for one in questions])
    return sheets


def protected_rows(run: Path, method: str | None) -> list[PhotoRow]:
    """The plain photos that a method protected, each once, in the order of their names."""
    rows = [row for row in read_rows(photos_file(run), PhotoRow) if row.status == "ok"]
    methods = list(dict.fromkeys(row.method for row in rows))
    if not methods:
        raise UnknownOptionError(
            f"`RUN` must be the folder of an evaluation with protected photos, got {run.name!r}."
        )
    if method is None and len(methods) == 1:
        method = methods[0]
    if method not in methods:
        got = "none" if method is None else repr(method)
        raise UnknownOptionError(f"`--method` must be one of {', '.join(methods)}; got {got}.")
    own = [row for row in rows if row.method == method and row.style == "plain"]
    unique = {row.photo: row for row in sorted(own, key=lambda row: (row.photo, row.left_out))}
    return list(unique.values())


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
        raise InvalidImageError("`image` must show a face, got none that the detector finds.")
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


def _faces(
    run: Path,
    photos: PhotoSet,
    seconds: Mapping[str, str],
    detector: FaceDetector,
    one: Question,
) -> list[Image.Image]:
    """The face in question, then those to choose from."""
    before = _read_photo(photo_file(run, "source", one.photo))
    shown = before
    if one.shown != UNTOUCHED:
        shown = _read_photo(photo_file(run, one.shown, one.photo, one.left_out))
    others = [to_array(load_image(photos.read(seconds[name]))) for name in one.choices.split(" ")]
    return [inner_face(shown, detector, before), *(inner_face(one, detector) for one in others)]


def _read_photo(path: Path) -> np.ndarray:
    if not path.is_file():
        place = "/".join(path.parts[-3:])
        raise InvalidImageError(f"`RUN` must hold the pictures of its photos, got no {place}.")
    return to_array(load_image(path))


def _sheet(questions: Sequence[Question], faces: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """One question a row: its number and face, a gap, and six faces with letters."""
    cell, height = FACE + GAP, FACE + CAPTION + GAP
    sheet = Image.new("RGB", ((CANDIDATES + 1) * cell + 3 * GAP, len(questions) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 8)
    for row, (question, pictures) in enumerate(zip(questions, faces, strict=True)):
        top = row * height
        for column, (word, face) in enumerate(
            zip((str(question.number), *LETTERS), pictures, strict=True)
        ):
            left = column * cell + (3 * GAP if column else 0)
            draw.text((left + cell / 2, top + 2), word, "black", font, anchor="ma")
            sheet.paste(face, (left + GAP // 2, top + CAPTION))
    return sheet
