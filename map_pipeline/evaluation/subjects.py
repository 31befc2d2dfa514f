"""Photos to protect and the targets they are protected with, with all that is known beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from map_pipeline.config import HIDE
from map_pipeline.errors import MAPError, NoFaceError
from map_pipeline.evaluation.dataset import Pair, PhotoSet
from map_pipeline.evaluation.expression_judge import judge_expression
from map_pipeline.evaluation.facepp import FacePlusPlus
from map_pipeline.evaluation.gallery import (
    DetectedFace,
    Embeddings,
    embed_composite,
    embed_largest_face,
)
from map_pipeline.evaluation.leave_one_out import surrogates_without
from map_pipeline.evaluation.names import Transform
from map_pipeline.evaluation.skin_tone import skin_angle
from map_pipeline.evaluation.styles import STYLES
from map_pipeline.expression.classifiers import ExpressionClassifier
from map_pipeline.images import load_image, to_array
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Tools:
    """An optional network and an optional service: the expression judge, and Face++."""

    judge: ExpressionClassifier | None = None
    facepp: FacePlusPlus | None = None


@dataclass(frozen=True, eq=False)
class Goal:
    """A target.

    Attributes:
        name: id or name of the composite, or "none".
        enroll: what methods optimise towards: `uint8 [H,W,3]`, a composite's name, or "none".
        probe: embeddings of what they are tested against, NaN for "none"; probe_photo: its
            `uint8 [H,W,3]`.
    """

    name: str
    enroll: np.ndarray | str
    probe: Embeddings
    probe_photo: np.ndarray | None = None


class Goals:
    """Targets by name, each embedded once.

    Args:
        pipe: for composites, recognisers and detector; photos: for the set's own targets.
        names: photo i gets target i mod their number; "auto" is a composite that fits the photo.

    Raises:
        UnknownOptionError: there is no such target.
        NoFaceError: a target's photo shows no face.
    """

    def __init__(self, pipe: MAPPipeline, photos: PhotoSet, names: tuple[str, ...]) -> None:
        self._pipe, self._photos, self._names = pipe, photos, names
        self._known: dict[str, Goal] = {}
        for name in names:
            if name != "auto":
                self._get(name)  # a wrong one is an error before any work

    def choose(self, index: int, face: DetectedFace | None, left_out: str) -> Goal:
        """The target of photo `index` with the given face; "auto" is the first without a face.

        Args:
            left_out: recogniser that has no part in the choice, nor has its family; "" for none.
        """
        name = self._names[index % len(self._names)]
        if name == "auto":
            bank = self._pipe.targets
            name = bank.names[0] if face is None else self._resembling(face, left_out)
        return self._get(name)

    def _resembling(self, face: DetectedFace, left_out: str) -> str:
        surrogates = surrogates_without(self._pipe, left_out)
        return self._pipe.built_in_target("auto", self._pipe.embed(face.view), surrogates).name

    def _get(self, name: str) -> Goal:
        if name == HIDE:
            nobody = self._pipe.recognisers.items()
            return Goal(name, name, {k: np.full(n.config.embedding_dim, np.nan) for k, n in nobody})
        if name not in self._known:
            own = name in self._photos.targets
            self._known[name] = self._from_set(name) if own else self._from_bank(name)
        return self._known[name]

    def _from_set(self, name: str) -> Goal:
        photos = self._photos.target(name)
        enroll, probe = to_array(load_image(photos.enroll)), to_array(load_image(photos.probe))
        seen = {
            "enroll": embed_largest_face(self._pipe, enroll),
            "probe": embed_largest_face(self._pipe, probe),
        }
        for role, face in seen.items():
            if face is None:
                raise NoFaceError(f"`target` must show a face, got none in {name}_{role}.")
        return Goal(name, enroll, seen["probe"].embeddings, probe)

    def _from_bank(self, name: str) -> Goal:
        seen, picture = embed_composite(self._pipe, name)
        return Goal(name, name, seen.embeddings, picture)


class Subject:
    """One photo to protect. What is measured on the unprotected photo is measured once.

    Args:
        index: of the pair in its set; pair: whose photo it is; style: name in `STYLES`.
        emotion: the asked one; goals: where its targets come from.
        left_out: recognisers of which one at a time is left out.
        second: embeddings of the person's other photo; None if it can't be used.
        transforms: name -> transformation; seed: of all randomness.

    Attributes:
        label: the pair's name, with `@STYLE` if it isn't plain.
        goals: left-out recogniser -> target.
        photo: `uint8 [H,W,3]`; None if it can't be read, for which `problem` is the reason.
    """

    def __init__(
        self,
        pipe: MAPPipeline,
        photos: PhotoSet,
        index: int,
        pair: Pair,
        style: str,
        emotion: str,
        goals: Goals,
        left_out: Sequence[str],
        second: Embeddings | None,
        transforms: Mapping[str, Transform],
        tools: Tools,
        seed: int,
    ) -> None:
        self.pair, self.style, self.emotion, self.second = pair, style, emotion, second
        self.label = label(pair, style)
        self._pipe, self._photos, self._tools = pipe, photos, tools
        self._transforms, self._seed = transforms, seed
        self._clean: dict[str, DetectedFace | None] = {}
        self._facepp: dict[str, float | None] = {}
        self.photo: np.ndarray | None = None
        self.problem = ""
        try:
            self.photo = STYLES[style](to_array(load_image(photos.read(pair.first))))
        except (MAPError, OSError) as error:
            self.problem = one_line(error)
        self.goals = {one: goals.choose(index, self.clean("none"), one) for one in left_out}

    def clean(self, transformation: str) -> DetectedFace | None:
        """The face of the unprotected photo under a transformation; None if there's none."""
        if self.photo is None:
            return None
        if transformation not in self._clean:
            changed = self._transforms[transformation](self.photo, self._seed)
            self._clean[transformation] = embed_largest_face(self._pipe, changed)
        return self._clean[transformation]

    @cached_property
    def skin_angle(self) -> float | None:
        """See `skin_tone.skin_angle`."""
        return None if self.photo is None else skin_angle(self._pipe, self.photo)

    @cached_property
    def expression(self) -> str:
        """See `judge_expression`."""
        return judge_expression(self._tools.judge, self.clean("none"))

    def facepp(self, goal: Goal) -> float | None:
        """Face++'s confidence in 0..100 that the unprotected photo shows a target; asked once."""
        if self.photo is not None and goal.name not in self._facepp:
            self._facepp[goal.name] = self.ask_facepp(self.photo, goal)
        return self._facepp.get(goal.name)

    def ask_facepp(self, photo: np.ndarray, goal: Goal) -> float | None:
        """Face++'s confidence that a photo shows a target's probe.

        None if it isn't asked, or finds no face; `ServiceError` stops the run, to be continued.
        """
        if self._tools.facepp is None or goal.probe_photo is None:
            return None
        try:
            return self._tools.facepp.compare(photo, goal.probe_photo)
        except NoFaceError:
            return None

    def second_photo(self) -> np.ndarray:
        """The person's other photo `uint8 [H,W,3]`; only where `second` isn't None."""
        return to_array(load_image(self._photos.read(self.pair.second)))


def label(pair: Pair, style: str) -> str:
    """Name of a photo in all rows and files."""
    return pair.name if style == "plain" else f"{pair.name}@{style}"


def one_line(error: Exception) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())
