"""What is measured, one row at a time, and the CSV files that survive a killed run.

A unit of work is one photo protected by one method with one recogniser left out. Its rows are
appended to `results.csv` first and to `photos.csv` last, so that a unit counts as done exactly when
its line in `photos.csv` is whole. `repair` drops whatever a killed run left beyond that.
"""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar, get_args

from map_pipeline.files import write_atomically

NOT_FOUND = -1.0  # stands for a similarity where no face was found
# Stand for a similarity where the person has no usable second photo, or is only to be hidden.
NO_SECOND = NO_TARGET = float("nan")


@dataclass(frozen=True)
class Row:
    """One photo x method x left-out recogniser x judging recogniser x transformation.

    Similarities are cosines in [-1,1]: `NOT_FOUND` where no face was found, NaN where the person
    has no usable second photo, or no target is asked for. "Clean" is the unprotected photo under
    the same transformation.

    Attributes:
        photo: name of the photo, with `@STYLE` if it isn't plain.
        method: name of the protection.
        left_out: recogniser left out of the optimisation with its whole family; "" if none.
        recogniser: the judge; used: whether the optimisation of this photo used it.
        transformation: name in `transforms.TRANSFORMS`, "purifyN", or "protected_pair": the
            person's second photo, protected in the same way, against the first one.
        found: whether a face was found in the transformed protected photo.
        target_clean, target_protected: similarity to the target's other photo (probe).
        person_clean, person_protected: similarity to the person's other photo.
        rank_clean, rank_protected: place of the person's other photo in the gallery (all second
            photos and the target's probe), 1 = first; 0 = no face found, or no second photo.
    """

    photo: str
    method: str
    left_out: str
    recogniser: str
    used: bool
    transformation: str
    found: bool
    target_clean: float
    target_protected: float
    person_clean: float
    person_protected: float
    rank_clean: int
    rank_protected: int


@dataclass(frozen=True, kw_only=True)
class PhotoRow:
    """One photo x method x left-out recogniser.

    Attributes:
        photo, method, left_out: as in `Row`; style: name in `styles.STYLES`.
        status: "ok", or the one line of the error: the photo isn't protected, a failure.
        psnr, ssim: of the whole photo, see `pair_quality`; NaN for a failure.
        seconds, peak_memory_mb, unet_calls, recogniser_calls: cost of protecting this photo;
            NaN and 0 for a failure.
        emotion: the asked one.
        emotion_before, emotion_after: JSON of the judge's probabilities; "{}" if no face was
            found, "" if there is no judge.
        facepp_clean, facepp_protected: Face++'s confidence in 0..100 that the photo shows the
            target's probe; None if it wasn't asked or found no face.
        face_psnr, face_ssim, patches: see `FaceQuality`; None without a face.
        skin_angle: of the unprotected photo, degrees, see `skin_tone.skin_angle`; None where its
            skin can't be seen.
    """

    photo: str
    method: str
    left_out: str
    style: str
    status: str = "ok"
    psnr: float = math.nan
    ssim: float = math.nan
    seconds: float = math.nan
    peak_memory_mb: float = math.nan
    unet_calls: int = 0
    recogniser_calls: int = 0
    emotion: str
    emotion_before: str
    emotion_after: str
    facepp_clean: float | None = None
    facepp_protected: float | None = None
    face_psnr: float | None = None
    face_ssim: float | None = None
    patches: float | None = None
    skin_angle: float | None = None


Unit = tuple[str, str, str]
"""Photo, method, left-out recogniser."""
AnyRow = TypeVar("AnyRow", Row, PhotoRow)


def unit(row: Row | PhotoRow) -> Unit:
    """The unit of work that a row belongs to."""
    return row.photo, row.method, row.left_out


def results_file(out: Path) -> Path:
    """Where all `Row` of a run are."""
    return out / "results.csv"


def photos_file(out: Path) -> Path:
    """Where all `PhotoRow` of a run are."""
    return out / "photos.csv"


def photo_file(out: Path, folder: str, name: str, left_out: str = "") -> Path:
    """Where a picture is kept: `photos/FOLDER/NAME[.without_RECOGNISER].png`."""
    ending = f".without_{left_out}" if left_out else ""
    return out / "photos" / folder / f"{name}{ending}.png"


def read_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """The whole lines of a file, in order; none if it doesn't exist.

    A last line without its line end was cut off by a kill and is left out.
    """
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1].decode()
    parsers = {field.name: _parser(field.type) for field in fields(kind)}
    return [
        kind(**{name: parsers[name](value) for name, value in line.items()})
        for line in csv.DictReader(io.StringIO(whole, newline=""))
    ]


def append_rows(path: Path, rows: Sequence[AnyRow]) -> None:
    """Add rows in one write, with a header to a new file, and wait until they are on the disk."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [field.name for field in fields(rows[0])])
    with path.open("ab") as file:
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        file.write(buffer.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def repair(out: Path) -> list[PhotoRow]:
    """Drop rows of unfinished units, and what a kill cut off; return the finished units.

    Safe to be killed at any point and to be repeated: files are replaced atomically.
    """
    photos = read_rows(photos_file(out), PhotoRow)
    done = {unit(row) for row in photos}
    rows = [row for row in read_rows(results_file(out), Row) if unit(row) in done]
    _write(results_file(out), rows, Row)
    _write(photos_file(out), photos, PhotoRow)
    return photos


def _write(path: Path, rows: Sequence[AnyRow], kind: type[AnyRow]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [field.name for field in fields(kind)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(path, buffer.getvalue().encode())


def _parser(kind: object) -> object:
    """From CSV text to a field's type; an empty text is None where None is allowed."""
    inner = next((one for one in get_args(kind) if one is not type(None)), None)
    if inner is not None:
        return lambda text: inner(text) if text else None
    return (lambda text: text == "True") if kind is bool else kind
