"""What viewers of sheets answer, compared with the key that no sheet shows.

Two kinds of sheets are read: line-ups (`evaluation.lineup`), which also ask who the person is, and
single faces (`evaluation.single_faces`). A key file says by its columns which one it belongs to.
The answers of several viewers are added up.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.protocol import Share, share_of
from map_pipeline.files import write_atomically

LETTERS = "ABCDEF"  # of the people to choose from
KEY, ANSWERS = "key.csv", "answers.csv"
NUMBER, PERSON, EMOTION, EDITED = "number", "person", "emotion", "edited"
# What a question shows when nothing was done to it.
UNTOUCHED, REAL = "untouched", "real"

Line = Mapping[str, str]
Pair = tuple[Line, Line]
"""A line of the key, and the answer to it."""


@dataclass(frozen=True)
class Tally:
    """What viewers said of one kind of face.

    Attributes:
        found: the right person was chosen; None where nobody was asked for.
        edited: it was called edited; named: the asked emotion was seen.
    """

    found: Share | None
    edited: Share
    named: Share


def tally(folders: Sequence[Path]) -> dict[str, Tally]:
    """What was shown (the key's "shown") -> what all viewers together said of it.

    Args:
        folders: of `lineup.make_sheets` or `single_faces.make_sheets`, each with the answers of a
            viewer: the columns number, person (A to F; of line-ups only), emotion and edited (yes
            or no), one line for each question. In line-ups emotion may be empty.

    Raises:
        UnknownOptionError: a file is missing or isn't of that form, the answers don't fit, or
            sheets of both kinds are mixed.
    """
    pairs = [pair for folder in folders for pair in _answered(folder)]
    kinds = {PERSON in line for line, _ in pairs}
    if len(kinds) != 1:
        raise UnknownOptionError("`DIR` must be sheets of one kind, got line-ups and single faces.")
    found = {}
    for shown in dict.fromkeys(line["shown"] for line, _ in pairs):
        own = [(line, given) for line, given in pairs if line["shown"] == shown]
        asked = [(line, given) for line, given in own if line[EMOTION] and given[EMOTION]]
        found[shown] = Tally(
            _share(own, lambda line, given: given[PERSON] == line[PERSON])
            if True in kinds
            else None,
            _share(own, lambda _, given: given[EDITED] == "yes"),
            _share(asked, lambda line, given: given[EMOTION] == line[EMOTION]),
        )
    return found


def is_answered(folder: Path) -> bool:
    """Whether anything was filled in."""
    lines = read_table(folder / ANSWERS, (NUMBER, EDITED), "`DIR` must hold answers")
    return any(line[EDITED].strip() for line in lines)


def _answered(folder: Path) -> list[Pair]:
    """The lines of a folder's key, each with its answer."""
    rule = "`DIR` must hold a key"
    lines = read_table(folder / KEY, (NUMBER, "shown", EMOTION), rule)
    read_table(folder / KEY, [_who(lines[0])], rule)
    key = {int(line[NUMBER]): line for line in lines}
    given = read_answers(folder / ANSWERS, key, PERSON in lines[0])
    return [(line, given[number]) for number, line in key.items()]


def score(folders: Sequence[Path]) -> str:
    """Compare answers with their keys, as a Markdown table; see `tally`."""
    seen = tally(folders)
    with_people = next(iter(seen.values())).found is not None
    columns = ["looks edited", "emotion named"]
    columns = ["person found", *columns] if with_people else columns
    table = [f"| shown | n | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for shown, one in seen.items():
        parts = [one.edited, one.named] if one.found is None else [one.found, one.edited, one.named]
        cells = " | ".join(_percent(part) for part in parts)
        table.append(f"| {shown} | {one.edited.n} | {cells} |")
    text = "\n".join(table) + "\n\nBrackets hold 95 % intervals over people."
    if with_people:
        text += f" By chance {100 / len(LETTERS):.0f} % find the person."
    plain = seen.get(UNTOUCHED if with_people else REAL)
    for shown, one in seen.items() if plain else ():
        if one is not plain:
            text += f"\n{shown}: {_compare(one, plain)}."
    return text


def _compare(one: Tally, plain: Tally) -> str:
    """What is said of faces, beside what is said of untouched or real ones."""
    text = f"called edited {_more(one.edited, plain.edited)} points more often"
    if one.found and plain.found and plain.found.hits:
        relative = 100 * one.found.value / plain.found.value
        text += f", found in {relative:.0f} % of the cases in which untouched photos are"
    if one.named.n and plain.named.n:
        text += f", its emotion named {_more(one.named, plain.named)} points more often"
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


def _who(line: Mapping[str, str]) -> str:
    """The column of a key that names the person in question."""
    return "photo" if PERSON in line else "subject"


def _share(pairs: Sequence[Pair], says: Callable[[Line, Line], bool]) -> Share:
    """How often answers say something, over people."""
    return share_of(
        [says(line, given) for line, given in pairs], [line[_who(line)] for line, _ in pairs]
    )


def _more(one: Share, plain: Share) -> str:
    """How many points more often it is one than the other, with its sign."""
    return f"{100 * (one.value - plain.value):+.0f}"


def _percent(one: Share) -> str:
    if not one.n:
        return "-"
    share, low, high = (f"{100 * number:.0f}" for number in (one.value, one.low, one.high))
    return f"{share} % ({low}-{high}), {one.hits} of {one.n}"
