"""What viewers of sheets answer, compared with the key that no sheet shows.

Two kinds of sheets are read: line-ups (`evaluation.lineup`), which also ask who the person is, and
single faces (`evaluation.single_faces`). A key file says by its columns which one it belongs to.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.protocol import wilson
from map_pipeline.files import write_atomically

LETTERS = "ABCDEF"  # of the people to choose from
KEY, ANSWERS = "key.csv", "answers.csv"
NUMBER, PERSON, EMOTION, EDITED = "number", "person", "emotion", "edited"
# What a question shows when nothing was done to it.
UNTOUCHED, REAL = "untouched", "real"


def score(folder: Path, answers: Path) -> str:
    """Compare answers with the key, as a Markdown table.

    Args:
        folder: of `lineup.make_sheets` or `single_faces.make_sheets`.
        answers: CSV file with the columns number, person (A to F; of line-ups only), emotion and
            edited (yes or no), one line for each question. In line-ups emotion may be empty.

    Raises:
        UnknownOptionError: a file is missing or isn't of that form, or the answers don't fit.
    """
    lines = read_table(folder / KEY, (NUMBER, "shown", EMOTION), "`DIR` must hold a key")
    key = {int(line[NUMBER]): line for line in lines}
    with_people = PERSON in lines[0]
    given = read_answers(answers, key, with_people)
    found, edited, named = {}, {}, {}
    for shown in dict.fromkeys(line["shown"] for line in lines):
        numbers = [n for n, line in key.items() if line["shown"] == shown]
        if with_people:
            found[shown] = _count(given[n][PERSON] == key[n][PERSON] for n in numbers)
        edited[shown] = _count(given[n][EDITED] == "yes" for n in numbers)
        asked = [n for n in numbers if key[n][EMOTION] and given[n][EMOTION]]
        named[shown] = _count(given[n][EMOTION] == key[n][EMOTION] for n in asked)
    columns = {"looks edited": edited, "emotion named": named}
    if with_people:
        columns = {"person found": found, **columns}
    table = [f"| shown | n | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for shown, (_, count) in edited.items():
        cells = " | ".join(_percent(*column[shown]) for column in columns.values())
        table.append(f"| {shown} | {count} | {cells} |")
    text = "\n".join(table) + "\n\nBrackets hold 95 % intervals (Wilson)."
    if with_people:
        text += f" By chance {100 / len(LETTERS):.0f} % find the person."
    plain = UNTOUCHED if with_people else REAL
    for shown in edited if plain in edited else ():
        if shown != plain:
            text += f"\n{shown}: called edited {_more(edited, shown, plain)} points more often"
            if with_people and found[plain][0]:
                relative = 100 * _share(found[shown]) / _share(found[plain])
                text += f", found in {relative:.0f} % of the cases in which {plain} photos are"
            if named[plain][1] and named[shown][1]:
                text += f", its emotion named {_more(named, shown, plain)} points more often"
            text += "."
    return text


def read_answers(
    path: Path, numbers: Mapping[int, Mapping[str, str]], with_people: bool
) -> dict[int, dict[str, str]]:
    """Number -> answers of a file that names each question exactly once.

    Raises:
        UnknownOptionError: the file is missing or isn't of that form, with the line.
    """
    allowed = {EMOTION: EMOTIONS, EDITED: ("yes", "no")}
    if with_people:
        allowed = {PERSON: tuple(LETTERS.lower()), EMOTION: ("", *EMOTIONS), EDITED: ("yes", "no")}
    answers: dict[int, dict[str, str]] = {}
    lines = read_table(path, (NUMBER, *allowed), "`ANSWERS` must be a CSV file")
    for line_number, line in enumerate(lines, 2):
        rule = f"`ANSWERS` must {{}}, got {{!r}} in line {line_number} of {path.name}."
        number = line[NUMBER].strip()
        if not number.isdecimal() or int(number) not in numbers:
            raise UnknownOptionError(rule.format("hold numbers of the sheets", number))
        if int(number) in answers:
            raise UnknownOptionError(rule.format("answer each question once", number))
        given = {name: line[name].strip().lower() for name in allowed}
        for name, value in given.items():
            if value not in allowed[name]:
                choices = ", ".join(one for one in allowed[name] if one)
                raise UnknownOptionError(rule.format(f"have a {name} among {choices}", value))
        if with_people:
            given[PERSON] = given[PERSON].upper()
        answers[int(number)] = given
    if missing := sorted(set(numbers) - set(answers)):
        raise UnknownOptionError(
            f"`ANSWERS` must answer every question, got none for "
            f"{', '.join(map(str, missing))} in {path.name}."
        )
    return answers


def read_table(path: Path, columns: Sequence[str], rule: str) -> list[dict[str, str]]:
    """The lines of a CSV file with at least these columns; `rule` opens the error's text."""
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
    lines = list(reader)
    if not lines:
        raise UnknownOptionError(f"{rule} with at least one line, got none in {path.name!r}.")
    return lines


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([header, *rows])
    write_atomically(path, buffer.getvalue().encode())


def _count(hits: Iterable[bool]) -> tuple[int, int]:
    """How many are true, and how many there are."""
    known = list(hits)
    return sum(known), len(known)


def _share(counted: tuple[int, int]) -> float:
    return counted[0] / counted[1]


def _more(counted: Mapping[str, tuple[int, int]], shown: str, plain: str) -> str:
    """How many points more often it is one than the other, with its sign."""
    return f"{100 * (_share(counted[shown]) - _share(counted[plain])):+.0f}"


def _percent(successes: int, trials: int) -> str:
    if not trials:
        return "-"
    numbers = (successes / trials, *wilson(successes, trials))
    share, low, high = (f"{100 * one:.0f}" for one in numbers)
    return f"{share} % ({low}-{high}), {successes} of {trials}"
