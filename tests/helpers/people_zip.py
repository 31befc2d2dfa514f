"""A zip of people in several expressions, as `map_pipeline.expression.people` reads it."""

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_people(path: Path, photos: Iterable[tuple[str, str, np.ndarray]]) -> Path:
    """Write photos `uint8 [H,W,3]` with their subject and emotion."""
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for number, (subject, emotion, photo) in enumerate(photos):
            content = io.BytesIO()
            Image.fromarray(photo).save(content, "PNG")
            file = f"set/{number}.png"
            archive.writestr(file, content.getvalue())
            label = {"file": file, "source": "set", "subject": subject, "emotion": emotion}
            lines.append(json.dumps(label))
        archive.writestr("labels.jsonl", "\n".join(lines))
    return path
