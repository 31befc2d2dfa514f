"""Uploads that can't be protected."""

from pathlib import Path

from conftest import ASTRONAUT
from PIL import Image


def bad_picture(folder: Path, kind: str) -> Path:
    """A file called holiday.png: "no face", "small face", "text" or "truncated"."""
    path = folder / "holiday.png"
    photo = Image.open(ASTRONAUT).convert("RGB")
    if kind == "no face":
        Image.new("RGB", (200, 200), "steelblue").save(path)
    elif kind == "small face":
        photo.resize((170, 170)).save(path)  # its face becomes 31 px wide
    elif kind == "text":
        path.write_text("not a picture")
    else:
        photo.save(path)
        path.write_bytes(path.read_bytes()[:2000])
    return path
