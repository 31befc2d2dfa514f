"""What a protection came to, in words: the verdict of the page and of the command line."""

from collections.abc import Sequence
from typing import Literal

from map_pipeline.places import places
from map_pipeline.report import (
    FaceReport,
    all_boxes,
    count_matches,
    remaining_matches,
    unprotected_faces,
)

Level = Literal["protected", "partly", "not"]

MOST_NAMED = 3  # faces left unprotected that a headline names one by one
LEVELS = {"protected": "Protected", "partly": "Partly protected", "not": "Not protected"}


def protection_level(found: int, total: int) -> Level:
    """What it means that so many of all recognisers still match: "not" if most of them do."""
    return "protected" if found == 0 else "partly" if 2 * found <= total else "not"


def headline(reports: Sequence[FaceReport]) -> str:
    """What the protection of a photo came to: how many recognisers still match, and which."""
    left, (found, total) = unprotected_faces(reports), count_matches(reports)
    done = "protected" if total and not found else "edited"
    if total == 0:
        text = "Done, but no recognition program here can say whether it worked."
    else:
        level = protection_level(found, total)
        start = LEVELS["partly" if left and level == "protected" else level]
        text = f"{start}: {count_text(total, remaining_matches(reports), found)}"
    return f"{text} {_left_text(reports, done)}" if left else text


def count_text(total: int, names: Sequence[str], found: int) -> str:
    """How many recognisers of all still match, and which where it isn't all of them."""
    programs = "recognition program" if total == 1 else "recognition programs"
    if found == 0:
        return f"none of {total} {programs} still finds you."
    named = f" ({join_names(names)})" if found < total else ""
    return f"{found} of {total} {programs} still {'finds' if found == 1 else 'find'} you{named}."


def advice(mode: str) -> str:
    """What to try where a recogniser still matches after protection in this mode."""
    if mode == "fast":
        return "Try --mode strong or another --emotion."
    return "Try --margin high or another --emotion."


def join_names(names: Sequence[str]) -> str:
    """Names as people list them: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _left_text(reports: Sequence[FaceReport], done: str) -> str:
    """How many faces of a photo are `done`, and which aren't; some are left."""
    boxes = all_boxes(reports)
    left = boxes[len(reports) :]
    names = places(boxes)[len(reports) :]
    named = join_names(names) if len(left) <= MOST_NAMED else f"the other {len(left)}"
    verb = "isn't" if len(left) == 1 else "aren't"
    return f"{len(reports)} of {len(boxes)} faces {done}; {named} {verb}."
