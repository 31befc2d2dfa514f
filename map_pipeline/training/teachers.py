"""Further recognisers as teachers: those that can't be shipped still shape a network that can.

A teacher is an ONNX file and a JSON of how it takes faces. `FILE.onnx` is described by `FILE.json`
beside it, or by the one of this name in `teacher_descriptions/`:

    {"title": "...", "family": "...", "embedding_dim": 128, "channel_order": "rgb",
     "mean": 127.5, "std": 128, "trimmed_columns": 0, "thresholds": {"0.01": 0.27, "0.001": 0.36}}

Faces are aligned to ArcFace's 112-px template; `trimmed_columns` are cut off left and right.
"""

import json
from pathlib import Path
from typing import Any

from map_pipeline.errors import CheckpointError
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.graph.executor import Node
from map_pipeline.identity.recognisers import FaceRecogniser

DESCRIPTIONS = Path(__file__).parent / "teacher_descriptions"
INPUT_SIZE = 112


def load_teacher(path: Path) -> FaceRecogniser:
    """A recogniser from an ONNX file.

    Raises:
        CheckpointError: there is no description, it lacks something, or the file isn't an ONNX
            network that can be converted.
    """
    from map_pipeline.graph.convert import onnx  # needs the `onnx` package

    described = _read_description(path)
    nodes, state = onnx.convert(path)
    columns = described.get("trimmed_columns", 0)
    try:
        teacher = FaceRecogniser(
            nodes=_trimmed(nodes, columns) if columns else nodes,
            title=described["title"],
            family=described["family"],
            input_size=INPUT_SIZE,
            template=ARCFACE_TEMPLATE_112.tolist(),
            mean=[described["mean"]] * 3,
            std=[described["std"]] * 3,
            embedding_dim=described["embedding_dim"],
            thresholds=described["thresholds"],
            channel_order=described.get("channel_order", "rgb"),
        )
    except KeyError as error:
        raise CheckpointError(
            f"`teacher` must be described with {error.args[0]}, got none for {path.name}."
        ) from None
    teacher.network.load_state_dict(state)
    return teacher.eval().requires_grad_(False)


def _read_description(path: Path) -> dict[str, Any]:
    for folder in (path.parent, DESCRIPTIONS):
        candidate = folder / f"{path.stem}.json"
        if candidate.is_file():
            try:
                return json.loads(candidate.read_text())
            except json.JSONDecodeError as error:
                raise CheckpointError(
                    f"`teacher` must be described by JSON, got {candidate} ({error})."
                ) from None
    raise CheckpointError(f"`teacher` must have a {path.stem}.json beside it, got {path} alone.")


def _trimmed(nodes: list[Node], columns: int) -> list[Node]:
    """The network behind a node that cuts columns off: padding by less than nothing."""
    first = {
        "name": "trimmed",
        "op": "pad",
        "inputs": ["input"],
        "amounts": [-columns] * 2 + [0] * 2,
    }
    renamed = [
        {**node, "inputs": ["trimmed" if name == "input" else name for name in node["inputs"]]}
        for node in nodes
    ]
    return [first, *renamed]
