"""Single faces: which emotion do people see, and does the face look edited?

Neutral photos, edited towards an emotion without protection, are mixed with real photos of other
people who show that emotion; nothing on the sheets marks them. What viewers name in real
photos is what can be asked of edits: many real expressions convince nobody.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.evaluation.answers import EDITED, EMOTION, REAL
from map_pipeline.evaluation.expression_truth import NEUTRAL, CutOut, Edit
from map_pipeline.evaluation.sheets import check_no_sheets, draw_sheet, write_sheets
from map_pipeline.expression.people import LabelledPhoto, PeoplePhotos
from map_pipeline.images import to_pil

COLUMNS, ROWS = 3, 2  # of faces on one sheet
SIDE = 448  # px


@dataclass(frozen=True)
class Face:
    """A face on the sheets; a line of the key file.

    Attributes:
        number: on the sheets; file, subject: of the photo.
        shown: "real", or "strength 0.5" of an edit; emotion: the labelled, or the asked one.
    """

    number: int
    file: str
    subject: str
    shown: str
    emotion: str


def make_sheets(
    people: PeoplePhotos,
    edit: Edit,
    cut_out: CutOut,
    out: Path,
    count: int = 16,
    strengths: Sequence[float] = (0.5, 1.0),
    seed: int = 0,
    source: str | None = None,
) -> list[Path]:
    """Write sheets of single faces, the key, and an empty file for the answers.

    Args:
        out: new folder for the sheets.
        count: real photos, and edits at each strength, >= 1. Each of these groups has the same
            emotions.
        seed: of the choice and the order.
        source: only people of this collection.

    Raises:
        UnknownOptionError: `count` is too small, or sheets are there already.
        InvalidImageError: there are too few people, or a photo shows no face.
    """
    if count < 1:
        raise UnknownOptionError(f"`count` must be at least 1, got {count}.")
    check_no_sheets(out)
    photos = [one for one in people.photos if source in (None, one.source)]
    chosen = choose(photos, count, strengths, random.Random(seed))
    pictures = []
    for face, photo, strength in chosen:
        before = people.read(photo)
        after = before if strength is None else edit(before, face.emotion, strength)
        shown = cut_out(after, before)
        if shown is None:
            raise InvalidImageError(f"`people` must show faces, got none in {photo.file}.")
        pictures.append((str(face.number), to_pil(shown)))
    rows = [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]
    sheets = (draw_sheet(rows[start : start + ROWS], SIDE) for start in range(0, len(rows), ROWS))
    return write_sheets(out, sheets, [face for face, *_ in chosen], (EMOTION, EDITED))


def choose(
    photos: Sequence[LabelledPhoto], count: int, strengths: Sequence[float], chance: random.Random
) -> list[tuple[Face, LabelledPhoto, float | None]]:
    """The faces in a random order, the photo of each, and the strength of its edit, if it's one.

    People come as evenly as possible, and none with the same emotion twice.

    Raises:
        InvalidImageError: there are too few people.
    """
    emotions = sorted({one.emotion for one in photos} - {NEUTRAL})
    chance.shuffle(emotions)
    shown: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    chosen: list[tuple[str, str, LabelledPhoto, float | None]] = []
    groups = [(REAL, None), *((f"strength {one:g}", one) for one in strengths)]
    for index in range(count):
        for name, strength in groups:
            emotion = emotions[index % len(emotions)] if emotions else ""
            wanted = emotion if strength is None else NEUTRAL
            usable = [
                one
                for one in photos
                if one.emotion == wanted and (one.subject, emotion) not in pairs
            ]
            if not usable:
                raise InvalidImageError(
                    f"`people` must show {count} people for each group, each emotion of a person "
                    f"once; got too few who are {wanted or 'of any emotion'}."
                )
            fewest = min(shown[one.subject] for one in usable)
            photo = chance.choice([one for one in usable if shown[one.subject] == fewest])
            shown[photo.subject] += 1
            pairs.add((photo.subject, emotion))
            chosen.append((name, emotion, photo, strength))
    chance.shuffle(chosen)
    return [
        (Face(number, photo.file, photo.subject, name, emotion), photo, strength)
        for number, (name, emotion, photo, strength) in enumerate(chosen, 1)
    ]
