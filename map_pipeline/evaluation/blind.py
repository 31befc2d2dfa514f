"""A blind look: name the emotion of protected faces from the picture alone, then compare.

`make_sheets` shuffles the results of an evaluation with `--emotion all` and numbers them; only the
key file says which emotion was asked for. `score` compares a person's answers with the key.
"""

import csv
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.protocol import wilson
from map_pipeline.evaluation.results import PhotoRow, photo_file, photos_file, read_rows
from map_pipeline.files import write_atomically
from map_pipeline.images import load_image, save_image, to_array

COLUMNS, ROWS = 4, 3  # faces on one sheet
FACE, CAPTION, GAP = 384, 36, 12  # px
MARGIN = 1.25  # of the changed part: enough of the surroundings to judge it
KEY, ANSWERS = "key.csv", "answers.csv"
ANSWER_HEADER = ("number", "emotion")


@dataclass(frozen=True)
class Shown:
    """A face on a sheet and what was asked of it; a line of the key file."""

    number: int
    emotion: str
    photo: str
    method: str
    left_out: str


def make_sheets(
    run: Path, out: Path, count: int = 48, seed: int = 0, method: str | None = None
) -> list[Path]:
    """Write numbered contact sheets, the key, and an empty file for the answers.

    Args:
        run: folder of an evaluation with `--emotion all`, as `map-protect evaluate` left it.
        out: new folder for the sheets.
        count: faces to show, >= 1; fewer if the run has fewer.
        seed: of the choice and the order.
        method: whose results; may be left out if the run has only one.

    Returns:
        the sheets, in order.

    Raises:
        UnknownOptionError: the folder holds no such run, or sheets are there already.
        InvalidImageError: a picture of the run is missing or damaged.
    """
    if count < 1:
        raise UnknownOptionError(f"`count` must be at least 1, got {count}.")
    if (out / KEY).exists():
        raise UnknownOptionError(f"`--out` must be a new folder, got {out.name!r} with sheets.")
    rows = _results(run, method)
    random.Random(seed).shuffle(rows)
    shown = [
        Shown(number, row.emotion, row.photo, row.method, row.left_out)
        for number, row in enumerate(rows[:count], start=1)
    ]
    faces = [(one.number, _face(run, one)) for one in shown]
    sheets = []
    for start in range(0, len(faces), COLUMNS * ROWS):
        part = faces[start : start + COLUMNS * ROWS]
        sheets.append(out / f"sheet-{len(sheets) + 1}.png")
        save_image(_sheet(part), sheets[-1])
    _write(out / ANSWERS, ANSWER_HEADER, [(str(one.number), "") for one in shown])
    names = [field.name for field in fields(Shown)]
    _write(out / KEY, names, [[str(getattr(one, name)) for name in names] for one in shown])
    return sheets


def _results(run: Path, method: str | None) -> list[PhotoRow]:
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
    emotions = {row.emotion for row in own}
    if len(emotions) < 2:
        got = ", ".join(emotions) or "none"
        raise UnknownOptionError(f"`RUN` must ask for several emotions (all), got only {got}.")
    return list(unique.values())


def _face(run: Path, one: Shown) -> Image.Image:
    """The protected face, cut to the part that was changed, `FACE` px at its longer side."""
    result = to_array(load_image(_existing(photo_file(run, one.method, one.photo, one.left_out))))
    source = to_array(load_image(_existing(photo_file(run, "source", one.photo))))
    picture = Image.fromarray(result).crop(changed_box(source, result))
    scale = FACE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS)


def changed_box(source: np.ndarray, result: np.ndarray) -> tuple[int, int, int, int]:
    """A square x0, y0, x1, y1 in px around everything that changed, with a margin.

    Args:
        source, result: `uint8 [H,W,3]`. The whole photo if nothing changed.
    """
    height, width = source.shape[:2]
    changed = (source != result).any(axis=2)
    if not changed.any():
        return 0, 0, width, height
    columns, rows = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
    extent = 1 + max(columns[-1] - columns[0], rows[-1] - rows[0])
    side = min(round(MARGIN * extent), width, height)
    x0 = min(max((columns[0] + columns[-1] + 1 - side) // 2, 0), width - side)
    y0 = min(max((rows[0] + rows[-1] + 1 - side) // 2, 0), height - side)
    return int(x0), int(y0), int(x0 + side), int(y0 + side)


def _existing(path: Path) -> Path:
    if not path.is_file():
        place = "/".join(path.parts[-3:])
        raise InvalidImageError(f"`RUN` must hold the pictures of its photos, got no {place}.")
    return path


def _sheet(faces: Sequence[tuple[int, Image.Image]]) -> Image.Image:
    """Faces in a white grid, each with its number above."""
    cell_width, cell_height = FACE + GAP, FACE + CAPTION + GAP
    rows = -(-len(faces) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell_width, rows * cell_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 8)
    for index, (number, face) in enumerate(faces):
        left, top = index % COLUMNS * cell_width, index // COLUMNS * cell_height
        draw.text((left + cell_width / 2, top + 4), str(number), "black", font, anchor="ma")
        centre = (cell_width - face.width) // 2, (FACE - face.height) // 2
        sheet.paste(face, (left + centre[0], top + CAPTION + centre[1]))
    return sheet


def score(folder: Path, answers: Path) -> str:
    """Compare answers with the key: a confusion table and the accuracy as Markdown.

    Args:
        folder: of `make_sheets`.
        answers: CSV file with the columns number and emotion, one line per face.

    Raises:
        UnknownOptionError: a file is missing or isn't of that form, or the answers don't fit.
    """
    lines = _read(folder / KEY, "`DIR` must be a folder of `map-protect blind sheets`")
    asked = {int(line["number"]): line["emotion"] for line in lines}
    named = read_answers(answers, asked)
    seen = pd.DataFrame({"asked": asked, "named": named})
    names = list(EMOTIONS)
    counts = pd.crosstab(seen["asked"], seen["named"]).reindex(names, columns=names, fill_value=0)
    right = [int(counts.loc[name, name]) for name in names]
    counts["named right"] = [_percent(k, n) for k, n in zip(right, counts.sum(axis=1), strict=True)]
    return (
        f"{counts.rename_axis('asked, named').to_markdown()}\n\n"
        f"Named right: {sum(right)} of {len(asked)}, {_percent(sum(right), len(asked))}; by chance "
        f"{100 / len(names):.1f} %. Brackets hold 95 % intervals (Wilson)."
    )


def _percent(successes: int, trials: int) -> str:
    low, high = wilson(successes, trials)
    share = f"{100 * successes / trials:.1f} %" if trials else "-"
    return f"{share} ({100 * low:.0f}-{100 * high:.0f})"


def read_answers(path: Path, numbers: Iterable[int]) -> dict[int, str]:
    """Number -> emotion of a file of answers that names each face exactly once.

    Raises:
        UnknownOptionError: the file is missing or isn't of that form, with the line.
    """
    known, answers = set(numbers), dict[int, str]()
    for line_number, line in enumerate(_read(path, "`ANSWERS` must be a CSV file"), start=2):
        rule = f"`ANSWERS` must {{}}, got {{}} in line {line_number} of {path.name}."
        number, emotion = (line[name].strip() for name in ANSWER_HEADER)
        if not number.isdecimal() or int(number) not in known:
            raise UnknownOptionError(rule.format("hold numbers of the sheets", repr(number)))
        if int(number) in answers:
            raise UnknownOptionError(rule.format("name each face once", f"{number} again"))
        if not emotion:
            continue  # reported below, with all the others
        if emotion.lower() not in EMOTIONS:
            choices = f"name one of {', '.join(EMOTIONS)}"
            raise UnknownOptionError(rule.format(choices, repr(emotion)))
        answers[int(number)] = emotion.lower()
    missing = sorted(known - set(answers))
    if missing:
        numbers = ", ".join(map(str, missing))
        raise UnknownOptionError(
            f"`ANSWERS` must name every face, got none for {numbers} in {path.name}."
        )
    return answers


def _read(path: Path, rule: str) -> list[dict[str, str]]:
    """The lines of a CSV file with at least the columns number and emotion."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        why = "no text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UnknownOptionError(f"{rule}, got {path.name!r} ({why}).") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if not set(ANSWER_HEADER) <= set(reader.fieldnames):
        got = ",".join(reader.fieldnames) or "none"
        raise UnknownOptionError(f"{rule} with the columns number,emotion; got {got}.")
    return list(reader)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([header, *rows])
    write_atomically(path, buffer.getvalue().encode())
