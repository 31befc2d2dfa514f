"""The target of a protection: whom recognisers shall see in a face."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from map_pipeline.config import FAR, HIDE
from map_pipeline.copying import OWN_IMAGE
from map_pipeline.errors import UnknownOptionError, naming_photo
from map_pipeline.faces.detect import select_faces
from map_pipeline.faces.face import Face
from map_pipeline.faces.quality import quality_issues
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.identity.targets import Target, TargetBank, choose_target
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.measure import View


class TargetMixin:
    """The targets of `MAPPipeline`; stands before `DiffusionPipeline`."""

    # Of the pipeline itself.
    config: Any
    targets: TargetBank | None
    recognisers: RecogniserEnsemble
    find_faces: Callable[[np.ndarray], list[Face]]
    view: Callable[[np.ndarray, np.ndarray], View]
    embed: Callable[[View], dict[str, Tensor]]
    _execution_device: torch.device

    @property
    @abstractmethod
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""

    def built_in_target(self, name: str, source: Mapping[str, Tensor]) -> Target:
        """Look up a composite, or choose one if `name` is "auto".

        Args:
            source: recogniser name -> embedding `[1,D]` of the face to protect; for "auto" only.
        """
        if self.targets is None:
            raise UnknownOptionError("`target` must be an image: this checkpoint has no targets.")
        template = torch.tensor(self.config.alignment_template)
        known = {
            key: self.targets.embed_with(key, net, template, self._execution_device)
            for key, net in self.recognisers.items()
        }
        if name == "auto":
            judges = {key: self.recognisers[key] for key in self.surrogates}
            limits = {k: net.threshold(FAR) for k, net in judges.items() if net.config.thresholds}
            ranker = self.config.target_ranker or self.surrogates[0]
            name = self.targets.names[choose_target(source, known, limits, ranker)]
        index = self.targets.index(name)
        return Target(name, {key: value[index : index + 1] for key, value in known.items()})

    def _own_target(self, target: str | ImageInput) -> Target | None:
        """Embed a user's own target picture; None if `target` is a name."""
        if isinstance(target, str) and not Path(target).is_file():
            if target not in ("auto", HIDE) and self.targets is not None:
                self.targets.index(target)  # an unknown name is an error before any work
            return None
        with naming_photo("`target`"):
            lost: list[str] = []
            photo = to_array(load_image(target, lost))
            found = self.find_faces(photo)
            [face] = select_faces(found, "largest")
        notes = [f"target picture: {note}" for note in lost]
        if len(found) > 1:
            notes.append(f"the target picture shows {len(found)} faces; the largest was taken")
        if problems := quality_issues(face, photo):
            notes.append(f"the face in the target picture is {', '.join(problems)}")
        return Target(OWN_IMAGE, self.embed(self.view(photo, face.landmarks)), tuple(notes))
