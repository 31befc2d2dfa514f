"""Line-ups: do people still find the person, which emotion do they see, does it look edited?

Each question shows one inner face (an ellipse without hair and background) of an evaluation, and
six inner faces to choose from: another photo of the person and the five people whom the recognisers
find most alike. Protected photos are mixed with untouched ones, which nothing on the sheet tells
apart; only the key file does. `score` compares a viewer's answers with the key.
"""

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.gallery import Embeddings
from map_pipeline.evaluation.protocol import wilson
from map_pipeline.evaluation.results import PhotoRow, photo_file, photos_file, read_rows
from map_pipeline.faces.align import (
    arcface_template,
    extract_region,
    invert_affine,
    similarity_transform,
    warp_affine,
)
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.files import write_atomically
from map_pipeline.images import load_image, save_image, to_array, to_pil, uint8_tensor

CANDIDATES = 6
LETTERS = "ABCDEF"
QUESTIONS = 6  # on one sheet
FACE, GAP, CAPTION = 224, 12, 30  # px
EYE_DISTANCE = 100  # px; about that of a face of `FACE` px, so that larger ones are reduced first
# The inner face as an ellipse: centre and half axes as shares of the side of ArcFace's crop, moved
# up by `RAISE` of it.
CENTRE, AXES, RAISE = (0.5, 0.57), (0.36, 0.42), 0.02
BACKGROUND = 0.5
KEY, ANSWERS = "key.csv", "answers.csv"
ANSWER_HEADER = ("number", "person", "emotion", "edited")
UNTOUCHED = "untouched"


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
    _write(out / ANSWERS, ANSWER_HEADER, [[str(one.number), "", "", ""] for one in questions])
    names = [field.name for field in fields(Question)]
    _write(out / KEY, names, [[str(getattr(one, name)) for name in names] for one in questions])
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


def score(folder: Path, answers: Path) -> str:
    """Compare answers with the key, as a Markdown table.

    Args:
        folder: of `make_sheets`.
        answers: CSV file with the columns number, person (A to F), emotion and edited (yes or no),
            one line for each question; emotion may be empty.

    Raises:
        UnknownOptionError: a file is missing or isn't of that form, or the answers don't fit.
    """
    lines = _read(folder / KEY, ("number", "person", "shown", "emotion"), "`DIR` must hold a key")
    key = {int(line["number"]): line for line in lines}
    given = read_answers(answers, key)
    table = ["| shown | n | person found | looks edited | emotion named |", "|---|---|---|---|---|"]
    found, edited = {}, {}
    for shown in dict.fromkeys(line["shown"] for line in lines):
        numbers = [n for n, line in key.items() if line["shown"] == shown]
        right = sum(given[n]["person"] == key[n]["person"] for n in numbers)
        looks = sum(given[n]["edited"] == "yes" for n in numbers)
        named = [n for n in numbers if key[n]["emotion"] and given[n]["emotion"]]
        emotion = sum(given[n]["emotion"] == key[n]["emotion"] for n in named)
        found[shown], edited[shown] = right / len(numbers), looks / len(numbers)
        cells = [_percent(right, len(numbers)), _percent(looks, len(numbers))]
        cells.append(_percent(emotion, len(named)) if named else "-")
        table.append(f"| {shown} | {len(numbers)} | {' | '.join(cells)} |")
    text = "\n".join(table) + f"\n\nBy chance {100 / CANDIDATES:.0f} % find the person. Brackets "
    text += "hold 95 % intervals (Wilson)."
    if UNTOUCHED in found and found[UNTOUCHED] > 0:
        for shown in found:
            if shown != UNTOUCHED:
                relative = 100 * found[shown] / found[UNTOUCHED]
                more = 100 * (edited[shown] - edited[UNTOUCHED])
                text += f"\n{shown}: found in {relative:.0f} % of the cases in which untouched "
                text += f"photos are; called edited {more:+.0f} points more often."
    return text


def read_answers(path: Path, numbers: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, str]]:
    """Number -> answers of a file that names each question exactly once.

    Raises:
        UnknownOptionError: the file is missing or isn't of that form, with the line.
    """
    allowed = {
        "person": tuple(LETTERS.lower()),
        "emotion": ("", *EMOTIONS),
        "edited": ("yes", "no"),
    }
    answers: dict[int, dict[str, str]] = {}
    for line_number, line in enumerate(
        _read(path, ANSWER_HEADER, "`ANSWERS` must be a CSV file"), 2
    ):
        rule = f"`ANSWERS` must {{}}, got {{!r}} in line {line_number} of {path.name}."
        number = line["number"].strip()
        if not number.isdecimal() or int(number) not in numbers:
            raise UnknownOptionError(rule.format("hold numbers of the sheets", number))
        if int(number) in answers:
            raise UnknownOptionError(rule.format("answer each question once", number))
        given = {name: line[name].strip().lower() for name in allowed}
        for name, value in given.items():
            if value not in allowed[name]:
                choices = ", ".join(one for one in allowed[name] if one)
                raise UnknownOptionError(rule.format(f"have a {name} among {choices}", value))
        answers[int(number)] = {**given, "person": given["person"].upper()}
    if missing := sorted(set(numbers) - set(answers)):
        raise UnknownOptionError(
            f"`ANSWERS` must answer every question, got none for "
            f"{', '.join(map(str, missing))} in {path.name}."
        )
    return answers


def _percent(successes: int, trials: int) -> str:
    low, high = wilson(successes, trials)
    share = f"{100 * successes / trials:.0f} %" if trials else "-"
    return f"{share} ({100 * low:.0f}-{100 * high:.0f}), {successes} of {trials}"


def _read(path: Path, columns: Sequence[str], rule: str) -> list[dict[str, str]]:
    """The lines of a CSV file with at least these columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        why = "no text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UnknownOptionError(f"{rule}, got {path.name!r} ({why}).") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if not set(columns) <= set(reader.fieldnames):
        got = ",".join(reader.fieldnames) or "none"
        raise UnknownOptionError(f"{rule} with the columns {','.join(columns)}; got {got}.")
    return list(reader)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([header, *rows])
    write_atomically(path, buffer.getvalue().encode())
