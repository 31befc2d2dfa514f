"""Sheets of captioned pictures for viewers, with a key and a file for their answers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.answers import ANSWERS, KEY, NUMBER, write_table
from map_pipeline.images import save_image

CAPTION, GAP = 30, 12  # px


def draw_sheet(
    rows: Sequence[Sequence[tuple[str, Image.Image | None]]], side: int, apart: int = 0
) -> Image.Image:
    """Pictures in rows, each in a square under its caption; without one the square stays white.

    Args:
        side: of the squares, px; apart: px by which the first column is set apart.
    """
    width, height = side + GAP, side + CAPTION + GAP
    sheet = Image.new("RGB", (max(map(len, rows)) * width + apart, len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 8)
    for row, line in enumerate(rows):
        for column, (caption, picture) in enumerate(line):
            left, top = column * width + (apart if column else 0), row * height
            draw.text((left + width / 2, top + 2), caption, "black", font, anchor="ma")
            if picture is not None:
                shown = ImageOps.pad(picture, (side, side), color="white")
                sheet.paste(shown, (left + GAP // 2, top + CAPTION))
    return sheet


def check_no_sheets(out: Path) -> None:
    """Raise `UnknownOptionError` if a folder holds sheets already."""
    if (out / KEY).exists():
        raise UnknownOptionError(f"`--out` must be a new folder, got {out.name!r} with sheets.")


def write_sheets(
    out: Path, sheets: Iterable[Image.Image], key: Sequence[Any], asked: Sequence[str]
) -> list[Path]:
    """Write sheets, their key, and an empty file for the answers; return the paths of the sheets.

    Args:
        key: a dataclass for each question, which has a `number`.
        asked: what viewers say of each, as `answers` calls it.
    """
    paths = []
    for number, sheet in enumerate(sheets, 1):
        paths.append(out / f"sheet-{number}.png")
        save_image(sheet, paths[-1])
    empty = [""] * len(asked)
    write_table(out / ANSWERS, (NUMBER, *asked), [(one.number, *empty) for one in key])
    lines = [asdict(one) for one in key]
    columns = list(lines[0]) if lines else [NUMBER]
    write_table(out / KEY, columns, [list(line.values()) for line in lines])
    return paths
