"""What the protection of a clip came to: plain data, JSON and text."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from map_pipeline.report import asked_expression, format_table
from map_pipeline.verdict import LEVELS, Level, join_names, protection_level

# Of the frames that were looked at; the clip's mean counts by itself.
ENOUGH_FRAMES = 0.9


@dataclass(frozen=True)
class ClipVerdict:
    """How one recogniser sees one person of a clip; similarities are cosines in [-1,1].

    Attributes:
        name: component name; title: what people call it; family: kind of network.
        used_in_optimisation: whether the protection was tuned on this recogniser.
        threshold: similarity from which two faces match at FAR 1 %; None if not measured.
        frames: how many frames were looked at.
        dodged: share of them in [0,1] that no longer match the person's mean in the original clip;
            None without threshold.
        mean_similarity: of the protected clip's mean to the original clip's.
        mean_dodged: whether that stays below the threshold; None without threshold.
        impersonated: share of frames that match the target; None without threshold or target.
    """

    name: str
    title: str
    family: str
    used_in_optimisation: bool
    threshold: float | None
    frames: int
    dodged: float | None
    mean_similarity: float
    mean_dodged: bool | None
    impersonated: float | None

    def meets(self, requirement: Literal["dodging", "impersonation"]) -> bool:
        """Whether nine of ten frames, and for dodging the mean too, are as required."""
        if requirement == "impersonation":
            return self.impersonated is None or self.impersonated >= ENOUGH_FRAMES
        return self.dodged is None or (bool(self.mean_dodged) and self.dodged >= ENOUGH_FRAMES)


@dataclass(frozen=True)
class PersonReport:
    """One protected person of a clip.

    Attributes:
        emotion: asked for, or seen in the photo whose expression was copied.
        action_units: single movements besides it; expression_of: name of the photo it was copied
            from, or None.
        target: name of the target, None if the person was only hidden.
        frames: in how many frames they were changed.
        key_frames: seconds of the frames on which the change was found.
        spans: from and to when they're seen, seconds.
        recognisers: one entry per recogniser.
    """

    emotion: str
    action_units: dict[str, float]
    expression_of: str | None
    target: str | None
    frames: int
    key_frames: list[float]
    spans: list[tuple[float, float]]
    recognisers: list[ClipVerdict] = field(default_factory=list)

    @property
    def asked(self) -> str:
        """The asked expression in words, with the single movements."""
        return asked_expression(self.emotion, self.expression_of, self.action_units)


@dataclass(frozen=True)
class Unprotected:
    """A face that was found and left as it was, from `start` to `end` (seconds), and why."""

    start: float
    end: float
    reason: str


@dataclass(frozen=True)
class VideoReport:
    """What was measured on a clip, before it was compressed.

    Attributes:
        frames: of the clip; seconds: its length.
        width: px; height: px.
        seconds_taken: for all of the work.
        detector: which detector found the faces.
        people: those who were protected.
        unprotected: faces that were found and left as they were, in the order of time.
        notes: what the result lacks.
    """

    frames: int
    seconds: float
    width: int
    height: int
    seconds_taken: float
    detector: str
    people: list[PersonReport]
    unprotected: list[Unprotected]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def failed(self, requirement: Literal["dodging", "impersonation"]) -> list[str]:
        """Titles of the recognisers that don't see what was wanted of every person, each once."""
        verdicts = (one for person in self.people for one in person.recognisers)
        return list(dict.fromkeys(one.title for one in verdicts if not one.meets(requirement)))

    @property
    def level(self) -> Level:
        """How well the clip is protected; what can't be said, or is only true of some: partly."""
        if not self.judges:
            return "partly"
        level = protection_level(len(self.failed("dodging")), self.judges)
        return "partly" if level == "protected" and self.unprotected else level

    @property
    def judges(self) -> int:
        """How many recognisers have a threshold to judge by."""
        verdicts = [one for person in self.people for one in person.recognisers]
        return len({one.name for one in verdicts if one.threshold is not None})

    def headline(self) -> str:
        """One sentence or two: how many recognisers still match, and what is unprotected."""
        judges, failed = self.judges, self.failed("dodging")
        if not judges:
            text = "Done, but no recognition program here can say whether it worked."
        elif not failed:
            text = f"Protected: none of {judges} recognition programs still finds you."
        else:
            text = (
                f"{LEVELS[self.level]}: {len(failed)} of {judges} recognition programs still "
                f"find{'s' if len(failed) == 1 else ''} you ({join_names(failed)})."
            )
        if not self.unprotected:
            return text
        return f"{text} Faces left unprotected: {self.left_text()}."

    def left_text(self) -> str:
        """When and why faces were left unprotected."""
        return join_names(
            [f"{clock(one.start)} to {clock(one.end)} ({one.reason})" for one in self.unprotected]
        )

    def to_table(self) -> str:
        """The report as text for a terminal."""
        lines = [
            f"{self.frames} frames, {self.seconds:.1f} s, {self.width} x {self.height} px, "
            f"in {self.seconds_taken:.0f} s"
        ]
        for number, person in enumerate(self.people, 1):
            times = ", ".join(f"{clock(a)} to {clock(b)}" for a, b in person.spans)
            lines += [
                "",
                f"person {number}: {times}; {person.frames} frames, {person.asked}, "
                f"target {person.target or 'none'}, {len(person.key_frames)} key frames",
                "",
                *format_table(HEADER, [_row(one) for one in person.recognisers]),
            ]
        return "\n".join(lines)


HEADER = ("recogniser", "used", "threshold", "mean to original", "no longer you", "sees target")


def _row(one: ClipVerdict) -> list[str]:
    return [
        one.title,
        "yes" if one.used_in_optimisation else "no",
        "-" if one.threshold is None else f"{one.threshold:.3f}",
        f"{one.mean_similarity:.3f}",
        "-" if one.dodged is None else f"{one.dodged:.0%} of {one.frames} frames",
        "-" if one.impersonated is None else f"{one.impersonated:.0%}",
    ]


def clock(seconds: float) -> str:
    """A time within a clip, as "1:05.2"."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 // 10:02}.{tenths % 10}"


def spans(frames: Sequence[int], seconds: Sequence[float]) -> list[tuple[float, float]]:
    """From and to when frames follow each other without a gap, seconds.

    Args:
        frames: indices in order; seconds: of all frames.
    """
    found: list[tuple[float, float]] = []
    last = -2
    for index in frames:
        if index == last + 1:
            found[-1] = (found[-1][0], seconds[index])
        else:
            found.append((seconds[index], seconds[index]))
        last = index
    return found
