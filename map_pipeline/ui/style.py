"""The page's style sheet: layout, and radio buttons that look like galleries of pictures."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from safetensors.numpy import load_file

from map_pipeline.config import EXPRESSIONS

ASSETS = Path(__file__).parent / "assets"
TILE_PIXELS = 112  # side of a target's picture in the page, twice what is shown


def page_css(targets: Sequence[Image.Image], examples: Sequence[Image.Image]) -> str:
    """The whole style sheet.

    Args:
        targets: pictures of the built-in targets, in their order.
        examples: photos of the examples, in their order.
    """
    emotions = "".join(
        _tile(
            ".map-emotions label", number, "svg+xml", (ASSETS / f"emotion-{name}.svg").read_bytes()
        )
        for number, name in enumerate(EXPRESSIONS, 1)
    )
    faces = "".join(  # the first tiles are "Auto" and "Nobody"
        _tile("#target label", number, "webp", _webp(picture))
        for number, picture in enumerate(targets, 3)
    )
    photos = "".join(
        _tile("#examples button", number, "webp", _webp(picture))
        for number, picture in enumerate(examples, 1)
    )
    sheets = ((ASSETS / name).read_text() for name in ("page.css", "charts.css"))
    return "".join(sheets) + emotions + faces + photos


@dataclass(frozen=True)
class TargetCard:
    """A built-in target as the page shows it."""

    name: str
    description: str
    picture: Image.Image


def built_in_targets(checkpoint: Path) -> list[TargetCard]:
    """The built-in targets of a checkpoint, read without torch."""
    folder = checkpoint / "targets"
    if not folder.is_dir():
        return []
    config = json.loads((folder / "config.json").read_text())
    [weights] = folder.glob("*.safetensors")
    pictures = map(Image.fromarray, load_file(weights)["images"].transpose(0, 2, 3, 1))
    cards = zip(config["names"], config["descriptions"], pictures, strict=True)
    return [TargetCard(*card) for card in cards]


def _tile(tiles: str, number: int, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return (
        f"{tiles}:nth-of-type({number})::before "
        f'{{ background-image: url("data:image/{kind};base64,{data}"); }}\n'
    )


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.fit(picture.convert("RGB"), (TILE_PIXELS, TILE_PIXELS)).save(
        buffer, "WEBP", quality=85
    )
    return buffer.getvalue()
