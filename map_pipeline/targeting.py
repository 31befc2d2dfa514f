"""What recognisers shall see instead of a person: the target part of `MAPPipeline`."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class TargetChoice:
    """The `target` of a call.

    Attributes:
        name: of a composite, "auto" or `HIDE`; says nothing beside `own`.
        own: the target in the user's own picture.
    """

    name: str
    own: Target | None = None

    @property
    def hide(self) -> bool:
        """Whether faces are only to be hidden."""
        return self.own is None and self.name == HIDE

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the user's own picture, a phrase each."""
        return () if self.own is None else self.own.notes


class TargetMixin:
    """The choice of targets of `MAPPipeline`; stands before `DiffusionPipeline`."""

    # Of the pipeline itself.
    find_faces: Callable[[np.ndarray], list[Face]]
    view: Callable[[np.ndarray, np.ndarray], View]
    embed: Callable[[View], dict[str, Tensor]]
    recognisers: RecogniserEnsemble
    targets: TargetBank | None
    config: Any
    _execution_device: torch.device

    @property
    @abstractmethod
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""

    def read_target(self, target: str | ImageInput | None) -> TargetChoice:
        """The `target` of a call: a name, or a user's own picture, which is embedded.

        Raises:
            UnknownOptionError: no composite has this name.
            NoFaceError, InvalidImageError: of the user's own picture.
        """
        if target is None:
            return TargetChoice(HIDE)
        if isinstance(target, str) and (self.names_target(target) or not Path(target).is_file()):
            if not self.names_target(target) and self.targets is not None:
                self.targets.index(target)  # an unknown name is an error before any work
            return TargetChoice(target)
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
        embeddings = self.embed(self.view(photo, face.landmarks))
        return TargetChoice("", Target(OWN_IMAGE, embeddings, tuple(notes)))

    def names_target(self, text: str) -> bool:
        """Whether a text is "none", "auto" or the name of a composite, and no path of a picture."""
        return text in ("auto", HIDE, *(self.targets.names if self.targets is not None else ()))

    def target_of(
        self, choice: TargetChoice, source: Mapping[str, Tensor], surrogates: Sequence[str]
    ) -> Target | None:
        """The target of one face; None if it is only to be hidden. See `built_in_target`."""
        if choice.hide or choice.own is not None:
            return choice.own
        return self.built_in_target(choice.name, source, surrogates)

    def built_in_target(
        self, name: str, source: Mapping[str, Tensor], surrogates: Sequence[str] = ()
    ) -> Target:
        """Look up a composite, or choose one if `name` is "auto".

        Args:
            source: recogniser name -> embedding `[1,D]` of the face to protect; for "auto" only.
            surrogates: names of the recognisers that choose; default the checkpoint's setting.
        """
        if self.targets is None:
            raise UnknownOptionError("`target` must be an image: this checkpoint has no targets.")
        template = torch.tensor(self.config.alignment_template)
        known = {
            key: self.targets.embed_with(key, net, template, self._execution_device)
            for key, net in self.recognisers.items()
        }
        if name == "auto":
            surrogates = surrogates or self.surrogates
            judges = {key: self.recognisers[key] for key in surrogates}
            limits = {k: net.threshold(FAR) for k, net in judges.items() if net.config.thresholds}
            ranker = self.config.target_ranker
            if ranker not in surrogates:
                ranker = surrogates[0]
            name = self.targets.names[choose_target(source, known, limits, ranker)]
        index = self.targets.index(name)
        return Target(name, {key: value[index : index + 1] for key, value in known.items()})
