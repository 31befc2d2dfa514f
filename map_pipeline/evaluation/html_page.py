"""What a page of the report is made of: sections of text, tables and pictures, and table cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from PIL import Image

from map_pipeline.evaluation import findings
from map_pipeline.evaluation.findings import Rate, percent

Cell = str | tuple[str, str]
"""Text, or text and a smaller note."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row names it. A folded one opens on a click."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A plot: its relative URL, size in px, and what it shows; photos keep their colours."""

    link: str
    size: tuple[int, int]
    alt: str = ""
    is_photo: bool = False
    folded: bool = False

    @classmethod
    def of(cls, path: Path, out: Path) -> Self:
        """The picture of a PNG file inside of the folder of the page."""
        with Image.open(path) as image:
            return cls(quote(path.relative_to(out).as_posix()), image.size)


Plots = Mapping[str, Picture]
"""Name of a plot without its suffix -> the picture."""


@dataclass(frozen=True)
class Section:
    """A part of the page, told in the order of the attributes."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    command: str = ""


def described(plots: Plots, **alts: str) -> list[Picture]:
    """The named plots that exist, with their descriptions."""
    return [
        replace(plots[name], alt=alt, is_photo=name == "contact_sheet")
        for name, alt in alts.items()
        if name in plots
    ]


def change(entry: Mapping[str, Any] | None, key: str, with_n: bool = True) -> Cell:
    """ "0.0 -> 97.2 %" and "(90-99), n = 24"; "-" if nothing was counted.

    Args:
        entry: of a summary, with the rates `key` and `key_clean`.
    """
    if entry is None or not entry[key]["n"]:
        return "-"
    clean, rate = entry[f"{key}_clean"], entry[key]
    before = percent(clean).removesuffix(" %")
    note = f", n = {rate['n']}" if with_n else ""
    return f"{before} -> {percent(rate)}", f"({findings.interval(rate)}){note}"


def rate_cell(rate: Rate | None) -> Cell:
    """ "97.2 %" and "(90-99)"; "-" if nothing was counted."""
    return (percent(rate), f"({findings.interval(rate)})") if rate and rate["n"] else "-"


def words(text: str) -> str:
    """A name of the code as people write it."""
    return text.replace("_", " ")
