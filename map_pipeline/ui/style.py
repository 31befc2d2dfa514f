"""The page's style sheet: layout, and radio buttons that look like galleries of pictures."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from safetensors.numpy import load_file

from map_pipeline.config import EMOTIONS
from map_pipeline.ui import charts

ASSETS = Path(__file__).parent / "assets"
TILE_PIXELS = 112  # side of a target's picture in the page, twice what is shown

# Radio buttons stay radio buttons: the keyboard and screen readers work as ever.
LAYOUT = """
.dark { --color-accent: var(--primary-400); }
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#intro h1 { font-size: clamp(1.5rem, 3.2vw, 2.1rem); line-height: 1.2; margin: .4em 0 .2em; }
#intro p { font-size: 1.05rem; color: var(--body-text-color-subdued); max-width: 70ch; }
.prose pre, .prose pre code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.map-note { color: var(--body-text-color-subdued); font-size: 13px; margin: 4px 0; }
.html-container { padding: 0 !important; }
/* Room for Gradio's own display of the queue. */
#faces-note:has(> .wrap:not(.hide)), #status:has(> .wrap:not(.hide)) { min-height: 64px; }
.map-how svg { display: block; width: min(100%, 680px); height: auto; margin: 12px auto; }
.block:has(> .wrap.hide):has(> .html-container > .prose:empty) { display: none; }

#photo-area { position: relative; }
#photo-area .image-frame img { object-fit: contain; width: 100%; height: 100%; }
#outlines {
    /* Above the row of upload buttons, which is 40 px high. */
    position: absolute !important; inset: 0 0 40px; pointer-events: none; z-index: 3;
    background: none !important; border: 0 !important; padding: 0 !important; min-width: 0;
    overflow: hidden;
}
#outlines > *, #outlines .prose, #outlines .html-container {
    height: 100%; padding: 0 !important; margin: 0;
}
.map-outlines { width: 100%; height: 100%; display: block; }
.map-face-box { fill: none; stroke: #22c55e; }
.map-face-label { fill: #15803d; }
.map-face-unclear .map-face-box { stroke: #f59e0b; stroke-dasharray: 6 4; }
.map-face-unclear .map-face-label { fill: #b45309; }
.map-outlines text { fill: #fff; font-weight: 700; font-family: system-ui, sans-serif; }

.map-tiles .wrap:has(> label) { display: grid !important; gap: 8px; }
.map-tiles label {
    position: relative; display: flex !important; flex-direction: column; align-items: center;
    justify-content: flex-start; gap: 4px; padding: 8px 4px 6px !important; text-align: center;
    border: 2px solid transparent; border-radius: 14px; cursor: pointer; min-width: 0;
}
.map-tiles label::before {
    content: ""; width: 100%; aspect-ratio: 1; background: center / contain no-repeat;
    border-radius: 10px;
}
.map-tiles label input { position: absolute; opacity: 0; }
.map-tiles label span { margin: 0 !important; font-size: 12px; line-height: 1.2; }
.map-tiles label:hover { border-color: var(--border-color-primary); }
.map-tiles label:has(input:checked) {
    border-color: var(--color-accent); background: var(--color-accent-soft);
    color: var(--body-text-color);
}
.map-tiles label:has(input:focus-visible) {
    outline: 3px solid var(--color-accent); outline-offset: 2px;
}
#emotion .wrap:has(> label) { grid-template-columns: repeat(7, minmax(0, 1fr)); }
#emotion label { padding: 6px 2px !important; }
#emotion label::before { width: min(100%, 52px); }
#target .wrap:has(> label) {
    grid-template-columns: repeat(auto-fill, minmax(52px, 1fr)); gap: 4px;
}
#target label { padding: 3px !important; box-shadow: none; }
/* Names of the pictures are for screen readers, and shown where the pointer or the focus is. */
#target label:not(:nth-of-type(1)) span {
    position: absolute; z-index: 5; bottom: calc(100% + 2px); left: 50%; opacity: 0;
    transform: translateX(-50%); padding: 3px 8px; border-radius: 8px; pointer-events: none;
    white-space: nowrap; background: var(--body-text-color); color: var(--body-background-fill);
}
#target label:hover span, #target label:has(input:focus-visible) span { opacity: 1 !important; }
#target label:nth-of-type(1) span { position: absolute; bottom: 6px; font-weight: 600; }
#target, #target .wrap { overflow: visible !important; }
#target label:nth-of-type(1)::before {
    display: grid; place-items: center; content: "✦"; font-size: 30px; color: var(--color-accent);
    background: var(--color-accent-soft);
}

#examples .gallery {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); gap: 8px;
}
#examples button {
    display: flex; flex-direction: column; align-items: center; gap: 6px; padding: 6px;
    border-radius: 14px; font-size: 12px; line-height: 1.2; text-align: center; height: 100%;
}
#examples button::before {
    content: ""; width: 100%; aspect-ratio: 1; background: center / cover no-repeat;
    border-radius: 10px;
}
#examples button div { white-space: normal !important; overflow: visible; }

.map-progress { padding: 4px 2px; }
.map-progress-text {
    display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 12px;
    margin-bottom: 6px;
}
.map-progress-track {
    height: 10px; border-radius: 5px; overflow: hidden;
    background: color-mix(in srgb, var(--body-text-color) 12%, transparent);
}
.map-progress-track div {
    height: 100%; border-radius: 5px; background: var(--color-accent); transition: width .4s;
}
.map-empty {
    display: grid; place-content: center; gap: 4px; text-align: center; min-height: 260px;
    padding: 20px; border: 2px dashed var(--border-color-primary); border-radius: 14px;
    color: var(--body-text-color-subdued);
}
.map-empty p { margin: 0; }
.map-verdict {
    display: flex; gap: 12px; padding: 14px 16px; border-radius: 14px;
    border: 1px solid var(--map-tone); color: var(--body-text-color);
    background: color-mix(in srgb, var(--map-tone) 10%, transparent);
}
.map-verdict p { margin: 0 0 4px; }
.map-verdict b { font-size: 17px; }
.map-verdict-good { --map-tone: #15803d; }
.map-verdict-warn { --map-tone: #c2410c; }
.dark .map-verdict-good { --map-tone: #4ade80; }
.dark .map-verdict-warn { --map-tone: #fb923c; }
.map-verdict-mark {
    flex: none; display: grid; place-items: center; width: 30px; height: 30px;
    border-radius: 50%; background: var(--map-tone); color: #fff; font-weight: 700;
}
.dark .map-verdict-mark { color: #111; }
/* Its width isn't that of its content, or tables would widen the page. */
.map-scroll { overflow-x: auto; contain: inline-size; margin-bottom: 12px; }
.map-table { border-collapse: collapse; width: 100%; font-size: 13px; }
.map-table caption { text-align: left; font-weight: 600; padding: 4px 0; }
.map-table th, .map-table td {
    text-align: left; padding: 5px 8px; white-space: nowrap;
    border-bottom: 1px solid var(--border-color-primary);
}
@media (max-width: 480px) {
    .gradio-container .app, .gradio-container main.fillable { padding: 12px !important; }
    .tab-container button { padding: 0 10px !important; }
    #emotion .wrap:has(> label) { grid-template-columns: repeat(4, minmax(0, 1fr)); }
}
@media (prefers-reduced-motion: reduce) { .map-progress-track div { transition: none; } }
"""


def page_css(targets: Sequence[Image.Image], examples: Sequence[Image.Image]) -> str:
    """The whole style sheet.

    Args:
        targets: pictures of the built-in targets, in their order.
        examples: photos of the examples, in their order.
    """
    emotions = "".join(
        _tile("emotion label", number, "svg+xml", (ASSETS / f"emotion-{name}.svg").read_bytes())
        for number, name in enumerate(EMOTIONS, 1)
    )
    faces = "".join(  # the first tile is "Auto"
        _tile("target label", number, "webp", _webp(picture))
        for number, picture in enumerate(targets, 2)
    )
    photos = "".join(
        _tile("examples button", number, "webp", _webp(picture))
        for number, picture in enumerate(examples, 1)
    )
    return LAYOUT + charts.CSS + emotions + faces + photos


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
        f"#{tiles}:nth-of-type({number})::before "
        f'{{ background-image: url("data:image/{kind};base64,{data}"); }}\n'
    )


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.fit(picture.convert("RGB"), (TILE_PIXELS, TILE_PIXELS)).save(
        buffer, "WEBP", quality=85
    )
    return buffer.getvalue()
