"""The report of a protected face: plain data, JSON and a text table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from map_pipeline.places import Box, numbers


@dataclass(frozen=True)
class RecogniserReport:
    """How one recogniser sees one face; similarities are cosines in [-1,1].

    Attributes:
        name: component name; title: what people call it; family: kind of network.
        used_in_optimisation: whether the protection was tuned on this recogniser.
        thresholds: false accept rate as text -> similarity from which on two faces match.
        target_before: similarity of the original to the target; None without a target.
        target_after: similarity of the protected face to the target; None without a target.
        source_after: similarity of the protected face to the original (before: 1).
        impersonates: `target_after` reaches the threshold at FAR 1 %; None without threshold or
            target.
        no_longer_matches: `source_after` stays below it; None without threshold.
    """

    name: str
    title: str
    family: str
    used_in_optimisation: bool
    thresholds: dict[str, float]
    target_before: float | None
    target_after: float | None
    source_after: float
    impersonates: bool | None
    no_longer_matches: bool | None


@dataclass(frozen=True)
class ExpressionReport:
    """Emotion probabilities of one face by one expression network, before and after.

    Attributes:
        name: component name; title: what people call it.
        used_in_optimisation: whether the expression was tuned on this network.
        before: emotion -> probability in [0,1]; after: the same for the protected face.
    """

    name: str
    title: str
    used_in_optimisation: bool
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class PhotoReport:
    """The faces of a whole photo; boxes are x0, y0, x1, y1 in photo px.

    Attributes:
        faces_found: how many were found, protected or not.
        unprotected: boxes of those that are left as they were.
        doubtful: boxes of places where more faces may be, turned or half hidden, also left as they
            were.
        notes: what was lost when the photo was read or written, such as 16 bits a colour, and what
            is odd about the user's own target picture.
    """

    faces_found: int
    unprotected: list[Box] = field(default_factory=list)
    doubtful: list[Box] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PhotoReport":
        """The inverse of `to_dict`."""
        return cls(
            values["faces_found"],
            [_four(box) for box in values["unprotected"]],
            [_four(box) for box in values["doubtful"]],
            list(values.get("notes", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON, with the number of faces left unprotected."""
        return {
            "faces_found": self.faces_found,
            "faces_unprotected": len(self.unprotected),
            "unprotected": [list(box) for box in self.unprotected],
            "doubtful": [list(box) for box in self.doubtful],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class FaceReport:
    """Everything measured on one protected face, on the finished 8-bit photo.

    Attributes:
        box: x0, y0, x1, y1 in photo px.
        detector: which detector found it.
        emotion: the asked emotion, or what classifiers see in the photo it's copied from; target:
            name of the target ("own image" for a user's own), or None if the face was only to be
            hidden.
        ssim: structural similarity of the face region before and after, in [-1,1].
        psnr: peak signal-to-noise ratio of the face region, dB; infinite if nothing changed.
        seconds: time spent on this face.
        problems: why this face can't be protected well, in plain words; see `faces.quality`.
        recognisers: one entry per recogniser; expressions: one per expression network.
        photo: all faces of the photo that this one is from; None if that isn't known.
        action_units: single movements that were asked for, name -> amount in [-1,1].
        expression_of: name of the photo whose expression was copied; None for no copy.
    """

    box: Box
    detector: str
    emotion: str
    target: str | None
    ssim: float
    psnr: float
    seconds: float
    recognisers: list[RecogniserReport] = field(default_factory=list)
    expressions: list[ExpressionReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    photo: PhotoReport | None = None
    action_units: dict[str, float] = field(default_factory=dict)
    expression_of: str | None = None

    @property
    def asked(self) -> str:
        """The asked expression in words, with the single movements."""
        return asked_expression(self.emotion, self.expression_of, self.action_units)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON (an infinite PSNR becomes None)."""
        values = asdict(self)
        values["psnr"] = self.psnr if self.psnr != float("inf") else None
        values["box"] = list(self.box)
        values["photo"] = None if self.photo is None else self.photo.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        photo = values.get("photo")  # unknown to reports of old
        return cls(
            **{
                **values,
                "psnr": float("inf") if values["psnr"] is None else values["psnr"],
                "box": _four(values["box"]),
                "photo": None if photo is None else PhotoReport.from_dict(photo),
                "recognisers": [RecogniserReport(**one) for one in values["recognisers"]],
                "expressions": [ExpressionReport(**one) for one in values["expressions"]],
            }
        )

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_table(self) -> str:
        """The report as text for a terminal."""
        x0, y0, x1, y1 = (round(v) for v in self.box)
        lines = [
            f"face at {x0},{y0} - {x1},{y1} px, {self.detector}; {self.asked}, "
            f"target {self.target or 'none'}",
            *_counts(self.photo),
            f"SSIM {self.ssim:.3f}, PSNR {self.psnr:.1f} dB, {self.seconds:.1f} s",
            "",
            *format_table(RECOGNISER_HEADER, [recogniser_row(r) for r in self.recognisers]),
            "",
            *format_table(EXPRESSION_HEADER, [expression_row(e, self) for e in self.expressions]),
        ]
        return "\n".join(lines)


# Said where a face with `problems` was measured.
UNCLEAR_FACE = (
    "Recognition programs are made for clear faces: their answer about any other face is less "
    "reliable."
)
RECOGNISER_HEADER = (
    "recogniser",
    "used",
    "threshold",
    "to target",
    "sees target",
    "to original",
    "no longer you",
)
EXPRESSION_HEADER = ("expression network", "asked emotion", "strongest")


def remaining_matches(
    reports: Sequence[FaceReport], requirement: Literal["dodging", "impersonation"] = "dodging"
) -> list[str]:
    """Titles of the recognisers that don't see what was wanted in every face, each once.

    Recognisers without thresholds give no verdict and are left out.

    Args:
        requirement: "dodging", they no longer match the original; or "impersonation", they see the
            target.
    """
    field_name = {"dodging": "no_longer_matches", "impersonation": "impersonates"}[requirement]
    recognisers = (one for face in reports for one in face.recognisers)
    failed = (one.title for one in recognisers if getattr(one, field_name) is False)
    return list(dict.fromkeys(failed))


def judged(reports: Sequence[FaceReport]) -> bool:
    """Whether any recogniser has a threshold and so can say whether a face is protected."""
    return count_matches(reports)[1] > 0


def count_matches(reports: Sequence[FaceReport]) -> tuple[int, int]:
    """How many recognisers still match any of the faces, and how many can say so."""
    recognisers = [one for face in reports for one in face.recognisers]
    able = {one.name for one in recognisers if one.no_longer_matches is not None}
    return len({one.name for one in recognisers if one.no_longer_matches is False}), len(able)


def with_notes(reports: Sequence[FaceReport], notes: Sequence[str]) -> list[FaceReport]:
    """The reports of a photo, with more of `PhotoReport.notes`."""
    if not notes:
        return list(reports)
    photos = [one.photo or PhotoReport(len(reports)) for one in reports]
    photos = [replace(photo, notes=[*photo.notes, *notes]) for photo in photos]
    return [replace(one, photo=photo) for one, photo in zip(reports, photos, strict=True)]


def notes_of(reports: Sequence[FaceReport]) -> list[str]:
    """`PhotoReport.notes` of a photo; its reports are given."""
    photo = reports[0].photo if reports else None
    return [] if photo is None else photo.notes


def unprotected_faces(reports: Sequence[FaceReport]) -> int:
    """How many faces of a photo were found and left as they were; its reports are given."""
    photo = reports[0].photo if reports else None
    return 0 if photo is None else len(photo.unprotected)


def doubtful_faces(reports: Sequence[FaceReport]) -> list[Box]:
    """Boxes of places of a photo where more faces may be; its reports are given."""
    photo = reports[0].photo if reports else None
    return [] if photo is None else photo.doubtful


def recogniser_row(report: RecogniserReport) -> list[str]:
    """One table row for a recogniser, matching `RECOGNISER_HEADER`."""
    threshold = report.thresholds.get("0.01")
    return [
        report.title,
        "yes" if report.used_in_optimisation else "no",
        "-" if threshold is None else f"{threshold:.3f}",
        "-"
        if report.target_before is None
        else f"{report.target_before:.3f} -> {report.target_after:.3f}",
        _verdict(report.impersonates),
        f"1.000 -> {report.source_after:.3f}",
        _verdict(report.no_longer_matches),
    ]


def expression_row(report: ExpressionReport, face: FaceReport) -> list[str]:
    """One table row for an expression network, matching `EXPRESSION_HEADER`."""
    before, after, emotion = report.before, report.after, face.emotion
    known = emotion in before  # no network knows what is put together from single movements
    strongest = [
        max(probabilities, key=probabilities.__getitem__) for probabilities in (before, after)
    ]
    return [
        report.title,
        f"{before[emotion]:.2f} -> {after[emotion]:.2f}" if known else "-",
        " -> ".join(strongest),
    ]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns with spaces; one string per line, header first."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines
    ]


def face_numbers(reports: Sequence[FaceReport]) -> list[int]:
    """The number of each protected face among all of its photo, 1 for the largest."""
    return numbers(all_boxes(reports))[: len(reports)]


def all_boxes(reports: Sequence[FaceReport]) -> list[Box]:
    """Boxes of all faces of a photo, the protected ones first; its reports are given."""
    photo = reports[0].photo if reports else None
    return [*(face.box for face in reports), *(photo.unprotected if photo else ())]


def _counts(photo: PhotoReport | None) -> list[str]:
    """The line about the other faces of a photo, if there are any."""
    if photo is None or not photo.unprotected:
        return []
    return [f"{photo.faces_found} faces found, {len(photo.unprotected)} left unprotected"]


def _four(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = box
    return x0, y0, x1, y1


def _verdict(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "NO"


def asked_expression(
    emotion: str, expression_of: str | None, action_units: Mapping[str, float]
) -> str:
    """An asked expression in words.

    Args:
        expression_of: name of the photo it's copied from in place of the emotion, or None.
        action_units: single movements besides it.
    """
    text = f"emotion {emotion}" if expression_of is None else f"expression of {expression_of}"
    moved = ", ".join(f"{name} {amount:+g}" for name, amount in action_units.items())
    return f"{text} with {moved}" if moved else text
