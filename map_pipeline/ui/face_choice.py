"""The faces of a photo as the page shows them, and which of them are protected."""

from collections.abc import Sequence
from dataclasses import dataclass

from map_pipeline.errors import FaceTooSmallError, NoFaceError, UnknownOptionError
from map_pipeline.ui.settings import MAX_FACES


@dataclass(frozen=True)
class FoundFace:
    """A face as the page shows it.

    Attributes:
        number: 1 for the largest.
        box: x0, y0, x1, y1 in photo px.
        problems: why it can't be protected well, in plain words; none: it's clear.
        possible: whether it can be protected at all.
    """

    number: int
    box: tuple[float, float, float, float]
    problems: tuple[str, ...]
    possible: bool

    @property
    def clear(self) -> bool:
        """Whether it's protected without being asked for."""
        return self.possible and not self.problems


def choose_faces(found: Sequence[FoundFace], numbers: Sequence[int]) -> list[FoundFace]:
    """The faces of these numbers; if there are none, the clear ones, the largest `MAX_FACES`.

    Raises:
        UnknownOptionError: more than `MAX_FACES` numbers.
        NoFaceError: there is no face of that number, or none is clear.
        FaceTooSmallError: a chosen face is too small.
    """
    if not numbers:
        clear = [one for one in found if one.clear]
        if not clear:
            reasons = "; ".join(f"face {one.number} is {', '.join(one.problems)}" for one in found)
            raise NoFaceError(f"No face in this photo can be protected well: {reasons}.")
        return clear[:MAX_FACES]
    if len(set(numbers)) > MAX_FACES:
        raise UnknownOptionError(
            f"`faces` must be at most {MAX_FACES} at once, got {len(set(numbers))}."
        )
    chosen = [one for one in found if one.number in numbers]
    unknown = sorted(set(numbers) - {one.number for one in chosen})
    if unknown:
        raise NoFaceError(
            f"`faces` must be numbers from 1 to {len(found)}, as faces were found; got {unknown}."
        )
    for one in chosen:
        if not one.possible:
            reason = ", ".join(one.problems) or "too small"
            raise FaceTooSmallError(f"Face {one.number} can't be protected: it's {reason}.")
    return chosen
