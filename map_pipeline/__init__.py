"""MAP, Machine Pareidolia: protect a photo from face recognition by changing the expression.

>>> from map_pipeline import MAPPipeline
>>> pipe = MAPPipeline.from_pretrained()  # doctest: +SKIP
>>> output = pipe("photo.jpg", emotion="happy")  # doctest: +SKIP

Names are loaded on first use, so that `python -m map_pipeline --help` doesn't wait for torch.
"""

import os
from importlib import import_module
from typing import Any

# From 1.29 on, onnxruntime's official builds send usage data to Microsoft on Linux, too, and leave
# an identifier in the home folder, unless this is set before they're imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0"

# Public name -> module that defines it.
_MODULES = {
    "EMOTIONS": "config",
    "CheckpointError": "errors",
    "ClassifierEnsemble": "expression.classifiers",
    "ExpressionClassifier": "expression.classifiers",
    "ExpressionSpace": "expression.space",
    "FaceConditioner": "diffusion.conditioner",
    "FaceMesh": "faces.mesh",
    "FaceRecogniser": "identity.recognisers",
    "FaceReport": "report",
    "FaceTooSmallError": "errors",
    "InvalidImageError": "errors",
    "MAPConfig": "config",
    "MAPError": "errors",
    "MAPNetwork": "diffusion.map_network",
    "MAPPipeline": "pipeline",
    "MAPPipelineOutput": "output",
    "NoFaceError": "errors",
    "Objective": "identity.objectives",
    "RecogniserEnsemble": "identity.recognisers",
    "TargetBank": "identity.targets",
    "TransformersExpressionClassifier": "expression.classifiers",
    "UnknownOptionError": "errors",
    "default_objectives": "identity.objectives",
    "objectives_for": "identity.objectives",
    "with_weights": "identity.objectives",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # diffusers loads a component of this library only if the library also has its base class.
    if name == "ModelMixin":
        return import_module("diffusers").ModelMixin
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
