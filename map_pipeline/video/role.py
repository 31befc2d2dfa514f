"""One person's part in a clip: their change, found on few frames and shown on all of theirs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from map_pipeline.expression.composed import ingredients
from map_pipeline.expression.editor import (
    EditableFace,
    ExpressionModel,
    asked_change,
    copied_change,
)
from map_pipeline.expression.space import ExpressionSpace, straighten
from map_pipeline.faces.align import Alignment, apply_affine
from map_pipeline.faces.face import Face
from map_pipeline.faces.landmarks import five_points
from map_pipeline.identity.objectives import Goals
from map_pipeline.identity.refine import StepCallback
from map_pipeline.identity.targets import Target
from map_pipeline.measure import view_face
from map_pipeline.stages import FaceStages, FaceTask, Plan
from map_pipeline.video.change import KeyChange, express, follow, joined, show, unchanged
from map_pipeline.video.people import Person

# So often the change is checked and renewed, seconds: people turn their heads in that time.
KEY_EVERY = 2.0
# What a frame may lack of the first one's protection, in steps of the margin (see `Goals`).
TOLERANCE = 0.5
# Of the objectives of identity, relative to a photo's: a clip is compared with its own frames,
# which are more alike than two photos. Less of it flickers less and protects less.
IDENTITY_WEIGHT = 4.0
FARTHEST = 0.0234  # how far features move at least, see `MAPConfig.max_shift`: 3 of 128 px


def for_clips(plan: Plan) -> Plan:
    """How a change for a whole clip is found on one of its frames.

    Other frames may lack `TOLERANCE` of that frame's protection, so it goes as much further. With
    a photo's weights and motions alone, a clip's frames would still match each other.
    """
    config = plan.config
    farthest = max(config.max_shift, FARTHEST)
    config = replace(config, margin=config.margin + TOLERANCE, max_shift=farthest)
    objectives = [
        replace(one, weight=IDENTITY_WEIGHT * one.weight) if one.side == "identity" else one
        for one in plan.objectives
    ]
    return replace(plan, config=config, objectives=objectives)


@dataclass(eq=False)
class Role:
    """What is done to one person of a clip.

    Attributes:
        stages, plan: of the pipeline.
        source: recogniser name -> mean embedding `[1,D]` in the unprotected clip.
        target: what recognisers shall see; None hides.
        places: frame index -> landmarks `[68,2]` px, smoothed.
        candidates: frames on which the change is looked for, in order.
        keys: changes that were found, in the order of their frames.
    """

    stages: FaceStages
    plan: Plan
    source: Mapping[str, Tensor]
    target: Target | None
    places: Mapping[int, np.ndarray]
    candidates: Sequence[int]
    keys: list[KeyChange] = field(default_factory=list)
    _reached: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def find(
        self,
        index: int,
        frame: np.ndarray,
        generator: torch.Generator,
        on_step: StepCallback | None = None,
    ) -> None:
        """Find the change on a frame, starting from the first one, so that all are alike.

        Where the first protects this frame as well as its own, nothing more is looked for.

        Args:
            on_step: called after each step of the optimisation.
        """
        alignment, landmarks = self._aligned(index)
        if self.keys:
            base = follow(self.keys[:1], [1.0], landmarks, index)
        else:
            base = self._expression(index, frame, alignment, landmarks)
        shown = show(frame, alignment, base)
        if self.keys and self._is_as_good(self._similarities(index, shown)):
            return
        face = Face((0, 0, 0, 0), five_points(self.places[index]), 1.0)
        plan = for_clips(self.plan)
        task = FaceTask(face, self.source, self.target, plan)
        found = self.stages.find_change(shown, alignment, task, generator, on_step)
        key = joined(base, found)
        if not self.keys:
            self._reached = self._similarities(index, show(frame, alignment, key))
        self.keys.append(key)

    def _similarities(self, index: int, shown: np.ndarray) -> dict[str, tuple[float, float]]:
        """Surrogate -> similarity of a changed frame to the person, and to the target (or 1)."""
        view = view_face(shown, five_points(self.places[index]), self.stages.device)
        found = {}
        for name in self.plan.surrogates:
            seen = self.stages.recognisers[name](*view).float()[0]
            target = 1.0 if self.target is None else float(seen @ self.target.embeddings[name][0])
            found[name] = (float(seen @ self.source[name][0]), target)
        return found

    def _is_as_good(self, similarities: Mapping[str, tuple[float, float]]) -> bool:
        """Whether a frame reaches what the first key frame did, or the goals."""
        for name, (source, target) in similarities.items():
            net = self.stages.recognisers[name]
            goals, one = Goals.of(net, self.plan.config.margin), Goals.of(net, 1.0)
            slack = TOLERANCE * (one.target - one.source) / 2
            reached = self._reached[name]
            if source > max(goals.source, reached[0] + slack):
                return False
            if target < min(goals.target, reached[1] - slack):
                return False
        return True

    def show(self, index: int, frame: np.ndarray) -> np.ndarray:
        """A frame `uint8 [H,W,3]` with the person's change; itself where they aren't seen."""
        if index not in self.places:
            return frame
        alignment, landmarks = self._aligned(index)
        return show(frame, alignment, self._mixed(index, landmarks))

    def _aligned(self, index: int) -> tuple[Alignment, Tensor]:
        """Where the crop lies in a frame, and the landmarks `[68,2]` in it, crop px."""
        points = torch.from_numpy(self.places[index])
        face = Face((0, 0, 0, 0), five_points(self.places[index]), 1.0)
        alignment = self.stages.align(face)
        return alignment, apply_affine(alignment.image_to_crop, points)

    def _mixed(self, index: int, landmarks: Tensor) -> KeyChange:
        """The changes of the key frames before and after a frame, mixed, as they look on it."""
        after = bisect_right([key.frame for key in self.keys], index)
        keys = self.keys[max(after - 1, 0) : after + 1]
        if len(keys) == 1:
            return follow(keys, [1.0], landmarks, index)
        share = (index - keys[0].frame) / (keys[1].frame - keys[0].frame)
        share = min(max(share, 0), 1)
        share = share * share * (3 - 2 * share)
        return follow(keys, [1 - share, share], landmarks, index)

    def _expression(
        self, index: int, frame: np.ndarray, alignment: Alignment, landmarks: Tensor
    ) -> KeyChange:
        """The asked expression on a frame; none where it can't be made."""
        strength, space = self.plan.config.expression_strength, self.stages.expression_space
        asked_for = strength or self.plan.action_units
        face = self.stages.editable(frame, alignment) if asked_for and space else None
        if face is None or space is None:
            return unchanged(landmarks, alignment.size, index)
        shown, model = self.plan.shown, None
        if shown is not None:
            model = shown.model_for(self.source, self.stages.recognisers)
        emotion, movements = self.plan.emotion, self.plan.action_units
        return express_face(space, face, emotion, strength, movements, model, index)


def express_face(
    space: ExpressionSpace,
    face: EditableFace,
    emotion: str,
    strength: float,
    action_units: Mapping[str, float],
    model: ExpressionModel | None = None,
    frame: int = 0,
) -> KeyChange:
    """The change that gives a face of a clip another expression, see `change.express`.

    Args:
        model: whose expression is copied in place of the emotion; None copies none.
        frame: index of the frame that shows the face.
    """
    straight, _ = straighten(face.shape[None].cpu().float() / face.alignment.size, space.mean)
    start, movements = ingredients(emotion, strength, action_units, copied=model is not None)
    copied = None if model is None else copied_change(space, face, model, strength)
    asked = asked_change(space, straight[0], start, strength, movements, copied)
    return express(space, face, asked, frame)


def key_frames(person: Person, seconds: np.ndarray) -> list[int]:
    """The clearest look of every `KEY_EVERY` seconds of each track, in order."""
    chosen: dict[tuple[int, int], tuple[float, int]] = {}
    for number, track in enumerate(person.tracks):
        for look in track.looks:
            slot = (number, int((seconds[look.frame] - seconds[track.start]) // KEY_EVERY))
            chosen[slot] = max(chosen.get(slot, (-1.0, 0)), (look.quality, look.frame))
    return sorted(index for _, index in chosen.values())
