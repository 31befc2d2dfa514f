"""TensorFlow.js graph models, written by hand."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np


def b64(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def integers(*values: int) -> dict[str, Any]:
    return {"list": {"i": [str(value) for value in values]}}


class TfjsFile:
    """Writes a graph model with float32, float16 and 8-bit weights."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.data = b""

    def constant(self, name: str, values: np.ndarray, coding: str = "float32") -> np.ndarray:
        """Returns what a reader should get."""
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if values.dtype == np.int32:
            entry["dtype"], stored = "int32", values
        elif coding == "uint8":
            low, step = float(values.min()), float(np.ptp(values)) / 255
            stored = np.round((values - low) / step).astype(np.uint8)
            entry["quantization"] = {"dtype": "uint8", "scale": step, "min": low}
            values = (stored * step + low).astype(np.float32)
        elif coding == "float16":
            stored = values.astype(np.float16)
            entry["quantization"] = {"dtype": "float16"}
            values = stored.astype(np.float32)
        else:
            stored = values
        self.entries.append(entry)
        self.data += stored.tobytes()
        self.nodes.append({"name": name, "op": "Const"})
        return values

    def add(self, name: str, op: str, *inputs: str, **attributes: Any) -> None:
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})

    def write(self, folder: Path) -> Path:
        half = len(self.data) // 2  # two shards, split in the middle of a tensor
        (folder / "a.bin").write_bytes(self.data[:half])
        (folder / "b.bin").write_bytes(self.data[half:])
        manifest = [{"paths": ["a.bin", "b.bin"], "weights": self.entries}]
        document = {"modelTopology": {"node": self.nodes}, "weightsManifest": manifest}
        path = folder / "model.json"
        path.write_text(json.dumps(document))
        return path
