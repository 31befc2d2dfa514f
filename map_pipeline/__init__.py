"""MAP, Machine Pareidolia: protect a photo from face recognition by changing the expression.

>>> from map_pipeline import MAPPipeline
>>> pipe = MAPPipeline.from_pretrained()  # doctest: +SKIP
>>> output = pipe("photo.jpg", emotion="happy")  # doctest: +SKIP

Every module with a component class is imported here: diffusers finds the classes named in a
`model_index.json` only in modules that are loaded already.
"""

from map_pipeline.config import MAPConfig
from map_pipeline.errors import (
    CheckpointError,
    FaceTooSmallError,
    InvalidImageError,
    MAPError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.expression import EMOTIONS, ExpressionEncoder, TransformersExpressionEncoder
from map_pipeline.guidance import Objective, default_objectives, with_weights
from map_pipeline.pipeline import MAPPipeline, MAPPipelineOutput
from map_pipeline.recognition import FaceRecogniser
from map_pipeline.report import FaceReport
from map_pipeline.targets import TargetBank

__version__ = "0.1.0"

__all__ = [
    "EMOTIONS",
    "CheckpointError",
    "ExpressionEncoder",
    "FaceRecogniser",
    "FaceReport",
    "FaceTooSmallError",
    "InvalidImageError",
    "MAPConfig",
    "MAPError",
    "MAPPipeline",
    "MAPPipelineOutput",
    "NoFaceError",
    "Objective",
    "TargetBank",
    "TransformersExpressionEncoder",
    "UnknownOptionError",
    "default_objectives",
    "with_weights",
]
