"""`MAPPipeline.protect_video`: a clip in, a clip in which people are protected and a report out.

The clip is read three times, a frame at a time: to follow the faces, to find each person's change
on a few frames, and to write the result.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.config import (
    DEFAULT_MODE,
    DEFAULT_TARGET,
    FAR,
    MAPConfig,
    check_emotion,
    resolve_config,
)
from map_pipeline.copying import ShownExpression
from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.action_units import ACTION_UNITS, WINKS, check_action_units
from map_pipeline.faces.landmarks import LandmarkFinder, five_points
from map_pipeline.files import check_new
from map_pipeline.identity.recognisers import RecogniserEnsemble
from map_pipeline.identity.refine import RefineStep
from map_pipeline.identity.targets import Target
from map_pipeline.images import ImageInput
from map_pipeline.measure import View, view_face
from map_pipeline.stages import FaceStages, Plan, make_plan
from map_pipeline.targeting import TargetChoice
from map_pipeline.video.judging import Measured, frontality, sharpness, verdict
from map_pipeline.video.people import Person, choose, find_people
from map_pipeline.video.reading import Clip, open_clip
from map_pipeline.video.report import (
    PersonReport,
    VideoReport,
    spans,
)
from map_pipeline.video.role import Role, key_frames
from map_pipeline.video.tracking import LOOK_EVERY, Track, Tracker
from map_pipeline.video.writing import check_output, rewrite

# Of recognisers without thresholds: similarity from which two faces are taken for one person's.
UNKNOWN_THRESHOLD = 0.5
# What the parts of the work take: seconds a frame, a step, and a frame, on two cores.
FOLLOWING, FINDING, WRITING = 0.04, 0.8, 0.12

Progress = Callable[[float], None]
"""Called with the share of the work that is done, in [0,1]."""


# Single movements of clips: without winks, for a lid that's painted can't follow one that blinks.
MOVEMENTS = tuple(name for name in ACTION_UNITS if name not in WINKS)


class VideoMixin:
    """The video part of `MAPPipeline`; stands before `DiffusionPipeline`."""

    # Of the pipeline itself.
    recognisers: RecogniserEnsemble
    scheduler: Any
    map_network: Any
    embed: Callable[[View], dict[str, Tensor]]
    read_target: Callable[[str | ImageInput | None], TargetChoice]
    target_of: Callable[[TargetChoice, Mapping[str, Tensor], Sequence[str]], Target | None]
    read_expression: Callable[[ImageInput | ShownExpression], ShownExpression]
    check_inputs: Callable[..., None]
    face_detector: Any  # loaded on first use
    maybe_free_model_hooks: Callable[[], None]
    progress_bar: Callable[..., Any]

    @property
    @abstractmethod
    def surrogates(self) -> list[str]:
        """Names of the recognisers used in the optimisation by default."""

    @property
    @abstractmethod
    def stages(self) -> FaceStages:
        """The stages of one face."""

    @torch.no_grad()
    def protect_video(
        self,
        clip: str | os.PathLike[str],
        output: str | os.PathLike[str],
        emotion: str = "happy",
        target: str | ImageInput | None = DEFAULT_TARGET,
        faces: Literal["largest", "all"] | None = "largest",
        mode: str = DEFAULT_MODE,
        margin: str | float | None = None,
        expression_strength: float | None = None,
        action_units: Mapping[str, float] | None = None,
        expression_of: ImageInput | ShownExpression | None = None,
        refine_steps: int | None = None,
        surrogates: Sequence[str] | None = None,
        config: MAPConfig | None = None,
        generator: torch.Generator | None = None,
        overwrite: bool = False,
        on_progress: Progress | None = None,
    ) -> VideoReport:
        """Protect people in a clip: each gets one target and one expression for all of it.

        Args:
            clip: MP4, MOV, Matroska, WebM or AVI, up to 4096 px; longer clips take no more memory
                but for 1.5 MB for each change that is found.
            output: file to write, ending in .mp4, .mov, .m4v or .mkv: H.264 with the clip's sound
                (as AAC if it can't hold that as it is) and without its metadata. It's whole, or not
                there if anything stops the work.
            emotion: one of `EMOTIONS`; it's added to what the speaker does, and lips part no more
                than they do themselves.
            target: as for photos.
            faces: "largest" (also None) is the person who is seen most and nearest, "all" everyone.
            mode, margin, expression_strength, refine_steps, surrogates, config: as for photos.
            action_units, expression_of: as for photos, and added to what the speaker does, too; but
                nobody winks, as a lid can't follow one that blinks.
            generator: source of randomness.
            overwrite: an existing `output` may be replaced; never the clip itself.
            on_progress: called with the share that is done, in [0,1].

        Raises:
            InvalidVideoError, InvalidImageError, NoFaceError, FaceTooSmallError,
                UnknownOptionError: see their texts.
            CheckpointError: an expression is to be copied, and the checkpoint can't edit any.
            ModuleNotFoundError: PyAV isn't installed.
            OSError: a file can't be read or written.
        """
        # 0. Check everything that can be checked without running a network.
        started = time.perf_counter()
        output = Path(output)
        if faces not in ("largest", "all", None):
            raise UnknownOptionError(f"`faces` must be 'largest' or 'all', got {faces!r}.")
        check_output(output)
        _check_replaces_nothing(Path(clip), output, overwrite)
        opened = open_clip(clip)
        plan, aim = self._video_plan(
            emotion,
            target,
            mode,
            surrogates,
            config,
            action_units or {},
            expression_of,
            margin=margin,
            expression_strength=expression_strength,
            refine_steps=refine_steps,
        )
        with self.progress_bar(total=100) as bar:
            progress = _Progress(bar, on_progress)
            followed, found = expected_shares(opened.frame_count, plan.config.refine_steps)

            # 1. Follow the faces, and ask who is who.
            tracks, seconds = self._follow_faces(opened, progress.part(0, followed))
            people = find_people(tracks, self._same_person())
            chosen, left = choose(people, faces == "all", seconds)

            # 2. Choose each person's target, and find their change on a few frames.
            roles = [self._role(person, aim, plan, seconds) for person in chosen]
            generator = generator or torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            find_changes(opened, roles, generator, progress.part(followed, found))

            # 3. Write the clip, and look at the result as recognisers do.
            measured = [Measured() for _ in roles]
            self._write(opened, output, roles, measured, progress.part(found, 1))
        self.maybe_free_model_hooks()
        reports = [
            self._person_report(role, one, plan, seconds)
            for role, one in zip(roles, measured, strict=True)
        ]
        return VideoReport(
            frames=len(seconds),
            seconds=float(seconds[-1] + 1 / opened.rate),
            width=opened.size[0],
            height=opened.size[1],
            seconds_taken=time.perf_counter() - started,
            detector=self.face_detector.name,
            people=reports,
            unprotected=left,
            notes=list(opened.notes),
        )

    def _video_plan(
        self,
        emotion: str,
        target: str | ImageInput | None,
        mode: str,
        surrogates: Sequence[str] | None,
        config: MAPConfig | None,
        action_units: Mapping[str, float],
        expression_of: ImageInput | ShownExpression | None,
        **settings: Any,
    ) -> tuple[Plan, TargetChoice]:
        check_emotion(emotion)
        levels = self.scheduler.config.num_train_timesteps
        config = resolve_config(config, mode, levels, **settings)
        surrogates = list(self.surrogates if surrogates is None else surrogates)
        self.check_inputs(emotion, surrogates, "pil")
        check_action_units(action_units, MOVEMENTS)
        aim = self.read_target(target)
        shown = None if expression_of is None else self.read_expression(expression_of)
        plan = make_plan(emotion, surrogates, None, config, self.map_network, aim.hide)
        movements = {name: float(amount) for name, amount in action_units.items() if amount}
        return replace(plan, action_units=movements, shown=shown), aim

    def _same_person(self) -> float:
        """Mean similarity from which two faces are one person's, of `_embed_all`."""
        limits = [
            net.threshold(FAR) if net.config.thresholds else UNKNOWN_THRESHOLD
            for net in self.recognisers.values()
        ]
        return sum(limits) / max(len(limits), 1)

    def _embed_all(self, frame: np.ndarray, landmarks68: np.ndarray) -> tuple[Tensor, View]:
        """What all recognisers say of a face, one vector of length 1, and what they saw."""
        view = view_face(frame, five_points(landmarks68), self.stages.device)
        joint = torch.cat([one[0].cpu() for one in self.embed(view).values()])
        return F.normalize(joint, dim=0), view

    def _split(self, joint: Tensor) -> dict[str, Tensor]:
        """The parts of such a vector by recogniser, `[1,D]` each of length 1."""
        lengths = [net.config.embedding_dim for net in self.recognisers.values()]
        parts = joint.to(self.stages.device).split(lengths)
        return {
            name: F.normalize(part[None])
            for name, part in zip(self.recognisers, parts, strict=True)
        }

    def _follow_faces(self, clip: Clip, progress: Progress) -> tuple[list[Track], np.ndarray]:
        """All tracks, and the seconds `[F]` of all frames."""

        def describe(frame: np.ndarray, landmarks68: np.ndarray) -> tuple[Tensor, float]:
            joint, view = self._embed_all(frame, landmarks68)
            return joint, sharpness(view.image) * frontality(landmarks68)

        finder: LandmarkFinder = self.stages.landmark_finder
        tracker = Tracker(self.face_detector, finder, describe, self._same_person())
        seconds = []
        for frame in clip.frames():
            tracker.add(frame.index, frame.seconds, frame.pixels())
            seconds.append(frame.seconds)
            progress(min(len(seconds) / clip.frame_count, 1))
        return tracker.finish(), np.array(seconds)

    def _role(self, person: Person, aim: TargetChoice, plan: Plan, seconds: np.ndarray) -> Role:
        """What is done to one person."""
        source = self._split(person.embedding)
        return Role(
            stages=self.stages,
            plan=plan,
            source=source,
            target=self.target_of(aim, source, plan.surrogates),
            places=person.places(seconds),
            candidates=key_frames(person, seconds),
        )

    def _write(
        self,
        clip: Clip,
        output: Path,
        roles: Sequence[Role],
        measured: Sequence[Measured],
        progress: Progress,
    ) -> None:
        def change(frame: Any) -> np.ndarray:
            pixels = frame.pixels()
            for role in roles:
                pixels = role.show(frame.index, pixels)
            for role, one in zip(roles, measured, strict=True):
                shown = frame.index in role.places
                if shown and frame.seconds - one.seconds >= LOOK_EVERY:
                    again = self._again(pixels, role.places[frame.index])
                    one.embeddings.append(self._embed_all(pixels, again)[0])
                    one.seconds = frame.seconds
            progress(min((frame.index + 1) / clip.frame_count, 1))
            return pixels

        rewrite(clip, output, change)

    def _again(self, pixels: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Landmarks `[68,2]` found anew in a changed frame, as a recogniser would."""
        found = self.stages.landmark_finder.find_aligned(pixels, five_points(before))
        return before if found is None else found

    def _person_report(
        self, role: Role, measured: Measured, plan: Plan, seconds: np.ndarray
    ) -> PersonReport:
        used = plan.networks_used(())
        frames = [self._split(joint) for joint in measured.embeddings]
        return PersonReport(
            emotion=plan.shown_emotion,
            action_units=dict(plan.action_units),
            expression_of=None if plan.shown is None else plan.shown.name,
            target=None if role.target is None else role.target.name,
            frames=len(role.places),
            key_frames=[float(seconds[key.frame]) for key in role.keys],
            spans=spans(sorted(role.places), seconds.tolist()),
            recognisers=[
                verdict(
                    name,
                    net,
                    name in used,
                    role.source[name],
                    torch.cat([one[name] for one in frames]),
                    None if role.target is None else role.target.embeddings[name],
                )
                for name, net in self.recognisers.items()
            ],
        )


def find_changes(
    clip: Clip, roles: Sequence[Role], generator: torch.Generator, progress: Progress
) -> None:
    """Find every person's change on the frames that were chosen for them."""
    total = sum(len(role.candidates) for role in roles)
    last = max(index for role in roles for index in role.candidates)
    done = 0

    def on_step(index: int, step: RefineStep) -> Tensor:
        progress((done + (index + 1) / (index + 2)) / total)
        return step.latents

    for frame in clip.frames():
        for role in roles:
            if frame.index in role.candidates:
                role.find(frame.index, frame.pixels(), generator, on_step)
                done += 1
                progress(done / total)
        if frame.index >= last:
            break


def expected_shares(frame_count: int, steps: int) -> tuple[float, float]:
    """At which shares of the work, in [0,1], the faces are followed, and the changes found."""
    following, finding = FOLLOWING * frame_count, FINDING * (steps + 1)
    total = following + finding + WRITING * frame_count
    return following / total, (following + finding) / total


def _check_replaces_nothing(clip: Path, output: Path, overwrite: bool) -> None:
    if output.exists() and clip.exists() and output.samefile(clip):
        raise UnknownOptionError(f"`OUT` must differ from `IN`, got {output.name!r} for both.")
    check_new("OUT", output, overwrite)


class _Progress:
    """Turns shares of three parts of the work into one that grows."""

    def __init__(self, bar: Any, on_progress: Progress | None) -> None:
        self._bar, self._on_progress, self._shown = bar, on_progress, 0

    def part(self, start: float, end: float) -> Progress:
        """What a part of the work calls that lies between two shares of the whole."""
        return lambda share: self._show(start + (end - start) * share)

    def _show(self, share: float) -> None:
        percent = int(100 * share)
        self._bar.update(percent - self._shown)
        self._shown = percent
        if self._on_progress is not None:
            self._on_progress(share)
