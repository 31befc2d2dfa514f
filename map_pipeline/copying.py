"""An expression that is copied from another photo."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from map_pipeline.config import FAR
from map_pipeline.expression.editor import EditableFace, ExpressionModel
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.images import ImageInput

OWN_IMAGE = "own image"  # what reports call a picture without a file name


@dataclass(frozen=True, eq=False)
class ShownExpression:
    """The face of a photo whose expression is copied.

    Attributes:
        name: what reports call the photo.
        face: its largest face.
        embeddings: recogniser name -> embedding `[1,D]` of it.
        emotion: the one of `EMOTIONS` that the classifiers see most; None without classifiers.
    """

    name: str
    face: EditableFace
    embeddings: Mapping[str, Tensor]
    emotion: str | None

    def model_for(
        self, source: Mapping[str, Tensor], recognisers: RecogniserEnsemble
    ) -> ExpressionModel:
        """What is copied to a face: of the same person if most recognisers say so.

        Args:
            source: recogniser name -> embedding `[1,D]` of that face.
        """
        matches = [
            float((source[name].cpu() * self.embeddings[name].cpu()).sum()) >= net.threshold(FAR)
            for name, net in recognisers.items()
            if net.config.thresholds
        ]
        return ExpressionModel(self.face, 2 * sum(matches) > len(matches))


def picture_name(photo: ImageInput) -> str:
    """What reports call a photo: the name of its file, if it is one."""
    return Path(photo).name if isinstance(photo, str | Path) else OWN_IMAGE
