"""The loop: every photo is protected by every method, transformed, and judged by all recognisers.

Faces are detected anew in every picture, as a recogniser's owner would. Work goes photo by photo
and each finished unit is on disk before the next begins (see `results`), so a killed run loses at
most one photo; the same command continues it.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import Queue, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from map_pipeline.config import EMOTIONS, HIDE, MODES
from map_pipeline.errors import CheckpointError, MAPError, NoFaceError, UnknownOptionError
from map_pipeline.evaluation.cost import Cost, measure
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.expression_judge import judge_expression
from map_pipeline.evaluation.face_quality import face_quality
from map_pipeline.evaluation.gallery import (
    DetectedFace,
    EmbeddingCache,
    Embeddings,
    Gallery,
    build_gallery,
    embed_largest_face,
)
from map_pipeline.evaluation.leave_one_out import (
    leave_one_out,
    rotation,
    surrogates_without,
)
from map_pipeline.evaluation.methods import Method, Task, create
from map_pipeline.evaluation.metrics import pair_quality
from map_pipeline.evaluation.names import resolve, transform
from map_pipeline.evaluation.results import (
    NO_SECOND,
    NO_TARGET,
    NOT_FOUND,
    PhotoRow,
    Row,
    Unit,
    append_rows,
    photo_file,
    photos_file,
    repair,
    results_file,
    unit,
)
from map_pipeline.evaluation.settings import RESUMABLE_FIELDS, Settings, check_same_run
from map_pipeline.evaluation.subjects import Goal, Goals, Subject, Tools, label, one_line
from map_pipeline.images import save_image, to_pil
from map_pipeline.pipeline import MAPPipeline

PROTECTED_PAIR = "protected_pair"

Job = tuple[int, str]
"""Index of the pair, and style, of a photo to protect."""
Result = tuple[list[Row], PhotoRow]
"""What is measured of one unit of work."""


class Evaluation:
    """One run on one photo set.

    Args:
        pipe: recognisers, detector and what the methods need.
        photos: the set; settings: what to measure; out: folder of the results; tools: extras.

    Raises:
        UnknownOptionError: a setting names something that doesn't exist.
        NoFaceError: a target's photo shows no face.
    """

    def __init__(
        self,
        pipe: MAPPipeline,
        photos: PhotoSet,
        settings: Settings,
        out: Path,
        tools: Tools | None = None,
    ) -> None:
        settings = resolve(settings)
        self.pipe, self.photos, self.settings, self.out = pipe, photos, settings, out
        self.tools = tools or Tools()
        if self.tools.judge is not None:
            self.tools.judge.to(pipe.device)
        self.methods = {n: create(n, **settings.method_options) for n in settings.methods}
        self.rotation = rotation(pipe, settings.leave_out)
        self.targets = settings.targets or tuple(photos.targets) or ("auto",)
        self._transforms = {n: transform(pipe, n) for n in settings.transforms}
        self._goals = Goals(pipe, photos, self.targets)
        self._gallery: Gallery | None = None
        pipe.set_progress_bar_config(disable=True)

    @property
    def gallery(self) -> Gallery:
        """Clean embeddings of the set's first people; computed once, then kept in the folder."""
        if self._gallery is None:
            cache = EmbeddingCache(self.out / "embeddings.npz")
            wanted = self.settings.chosen(len(self.photos.pairs))
            self._gallery = build_gallery(
                self.pipe, self.photos, cache, self.settings.gallery, wanted.stop
            )
            cache.save()
        return self._gallery

    @property
    def probe(self) -> str:
        """What photos are compared with to judge impersonation, in words; "" without a target."""
        targets = [name for name in self.targets if name != HIDE]
        built_in = [name for name in targets if name not in self.photos.targets]
        if not built_in:
            return "another photo of the target" if targets else ""
        mirrored = "the composite itself, mirrored (there is no other photo of a composite)"
        return mirrored if len(built_in) == len(targets) else f"another photo, or {mirrored}"

    def titles(self, names: Iterable[str]) -> dict[str, str]:
        """Method -> title, also of methods of earlier runs into the same folder."""
        return {name: create(name, **self.settings.method_options).title for name in names}

    def run(
        self,
        fixed: Mapping[str, object] | None = None,
        workers: int = 1,
        factory: Callable[[], "Evaluation"] | None = None,
    ) -> None:
        """Do what isn't done yet; `results.csv` and `photos.csv` hold everything afterwards.

        This process alone writes, one finished photo after the other.

        Args:
            fixed: further settings, such as hashes of weights, that a continued run must share.
            workers: processes that share the work, >= 1.
            factory: makes this evaluation anew in each of several processes; can be pickled.

        Raises:
            UnknownOptionError: `out` holds results of other settings.
        """
        check_same_run(self.out, self._lasting_settings() | dict(fixed or {}))
        done = {unit(row) for row in repair(self.out)}
        _ = self.gallery  # workers then find it in the folder
        missing = {job: [one for one in self.units(*job) if one not in done] for job in self.jobs()}
        todo = [(job, units) for job, units in missing.items() if units]
        if workers == 1 or factory is None:
            for job, units in tqdm(todo, unit="photo"):
                self._save(self.protect_all(job, units))
            return
        with start_workers(workers, factory) as pool:
            futures = [pool.submit(protect_in_worker, job, units) for job, units in todo]
            try:
                for future in tqdm(as_completed(futures), total=len(futures), unit="photo"):
                    self._save(future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def protect_all(self, job: Job, units: Sequence[Unit]) -> Iterator[Result]:
        """Protect and judge one photo in all ways asked for."""
        subject = self.subject(*job)
        source = photo_file(self.out, "source", subject.label)
        if subject.photo is not None and not source.is_file():
            save_image(to_pil(subject.photo), source)
        for _, method, left_out in units:
            yield self.protect(subject, self.methods[method], left_out)

    def _save(self, results: Iterable[Result]) -> None:
        """Put results on disk; the line in `photos.csv` comes last and makes a unit count."""
        for rows, photo_row in results:
            append_rows(results_file(self.out), rows)
            append_rows(photos_file(self.out), [photo_row])

    def jobs(self) -> Iterator[Job]:
        """Index of the pair, and style, of every photo to protect."""
        for index in self.settings.chosen(len(self.photos.pairs)):
            for style in self.settings.styles:
                yield index, style

    def units(self, index: int, style: str) -> list[Unit]:
        """The units of work on one photo."""
        name = label(self.photos.pairs[index], style)
        return [(name, method, one) for one in self._left_out(index) for method in self.methods]

    def subject(self, index: int, style: str) -> Subject:
        """Read one photo and choose what it is protected with."""
        pair = self.photos.pairs[index]
        emotions = EMOTIONS if self.settings.emotion == "all" else (self.settings.emotion,)
        return Subject(
            self.pipe,
            self.photos,
            index,
            pair,
            style,
            emotions[index % len(emotions)],
            self._goals,
            self._left_out(index),
            self.gallery.second.get(pair.name),
            self._transforms,
            self.tools,
            self.settings.seed,
        )

    def protect(self, subject: Subject, method: Method, left_out: str) -> Result:
        """Protect one photo, save it and judge it; a failure gives rows, too."""
        try:
            if subject.photo is None:
                raise NoFaceError(subject.problem)
            result, spent = self._protect(method, subject, subject.photo, left_out)
        except (UnknownOptionError, CheckpointError):
            raise  # the run is wrong, not this photo
        except MAPError as error:
            return self._failed(subject, method, left_out, one_line(error))
        save_image(to_pil(result), photo_file(self.out, method.name, subject.label, left_out))
        seen = {
            name: embed_largest_face(self.pipe, treat(result, self.settings.seed))
            for name, treat in self._transforms.items()
        }
        second = self._protected_second(subject, method, left_out)
        rows = self._rows(subject, method, left_out, seen, second)
        measured = self._measured(subject, subject.goals[left_out], result, spent)
        return rows, self._photo_row(subject, method, left_out, seen["none"], **measured)

    def _protect(
        self, method: Method, subject: Subject, photo: np.ndarray, left_out: str
    ) -> tuple[np.ndarray, Cost]:
        surrogates = surrogates_without(self.pipe, left_out)
        task = Task(
            photo,
            subject.emotion,
            subject.goals[left_out].enroll,
            surrogates,
            seed=self.settings.seed,
        )
        pipe = leave_one_out(self.pipe, left_out)
        return measure(pipe, lambda: method.protect(pipe, task))

    def _protected_second(
        self, subject: Subject, method: Method, left_out: str
    ) -> Embeddings | None:
        """The person's second photo, protected too; `{}` if that fails or loses the face."""
        if subject.second is None or not self._compares_pairs(subject):
            return None
        try:
            result, _ = self._protect(method, subject, subject.second_photo(), left_out)
        except (UnknownOptionError, CheckpointError):
            raise
        except MAPError:
            return {}
        name = f"{subject.label}.second"
        save_image(to_pil(result), photo_file(self.out, method.name, name, left_out))
        seen = embed_largest_face(self.pipe, result)
        return seen.embeddings if seen else {}

    def _failed(self, subject: Subject, method: Method, left_out: str, status: str) -> Result:
        """Rows of a photo that couldn't be protected: it neither impersonates nor dodges."""
        nothing = dict.fromkeys(self._transforms)
        rows = self._rows(subject, method, left_out, nothing, {} if subject.second else None)
        return rows, self._photo_row(subject, method, left_out, None, status=status)

    def _measured(
        self, subject: Subject, goal: Goal, result: np.ndarray, spent: Cost
    ) -> dict[str, Any]:
        """What `PhotoRow` says of a photo that could be protected."""
        psnr, ssim = pair_quality(subject.photo, result)
        face = face_quality(self.pipe, subject.photo, result)
        face_psnr, face_ssim, patches = face or (None, None, None)
        return {
            "psnr": psnr,
            "ssim": ssim,
            "face_psnr": face_psnr,
            "face_ssim": face_ssim,
            "patches": patches,
            "facepp_clean": subject.facepp(goal),
            "facepp_protected": subject.ask_facepp(result, goal),
            **asdict(spent),
        }

    def _photo_row(
        self,
        subject: Subject,
        method: Method,
        left_out: str,
        seen: DetectedFace | None,
        **measured: Any,
    ) -> PhotoRow:
        return PhotoRow(
            photo=subject.label,
            method=method.name,
            left_out=left_out,
            style=subject.style,
            emotion=subject.emotion,
            emotion_before=subject.expression,
            emotion_after=judge_expression(self.tools.judge, seen),
            skin_angle=subject.skin_angle,
            **measured,
        )

    def _rows(
        self,
        subject: Subject,
        method: Method,
        left_out: str,
        seen: Mapping[str, DetectedFace | None],
        protected_second: Embeddings | None,
    ) -> list[Row]:
        """Rows of all transformations and recognisers.

        Args:
            seen: transformation -> the protected face.
            protected_second: for protected against protected; see `_protected_second`.
        """
        comparisons = [
            (name, subject.clean(name), face, subject.second) for name, face in seen.items()
        ]
        if self._compares_pairs(subject):
            pair = (PROTECTED_PAIR, subject.clean("none"), seen["none"], protected_second)
            comparisons.append(pair)
        goal = subject.goals[left_out]
        used = surrogates_without(self.pipe, left_out)[: method.surrogates]
        rows = []
        for recogniser in self.pipe.recognisers:
            for name, before, after, second in comparisons:
                clean = self._compare(subject, goal, recogniser, before, subject.second)
                protected = self._compare(subject, goal, recogniser, after, second)
                rows.append(
                    Row(
                        photo=subject.label,
                        method=method.name,
                        left_out=left_out,
                        recogniser=recogniser,
                        used=recogniser in used,
                        transformation=name,
                        found=after is not None,
                        target_clean=clean[0],
                        target_protected=protected[0],
                        person_clean=clean[1],
                        person_protected=protected[1],
                        rank_clean=clean[2],
                        rank_protected=protected[2],
                    )
                )
        return rows

    def _compare(
        self,
        subject: Subject,
        goal: Goal,
        recogniser: str,
        face: DetectedFace | None,
        second: Embeddings | None,
    ) -> tuple[float, float, int]:
        """Similarity of a face to the target's probe and to the person's second photo, and rank.

        Args:
            second: None if there is no second photo; `{}` if its face is lost.
        """
        if face is None:
            target = NO_TARGET if goal.name == HIDE else NOT_FOUND
            return target, NO_SECOND if second is None else NOT_FOUND, 0
        vector = face.embeddings[recogniser]
        target = float(vector @ goal.probe[recogniser])
        if second is None:
            return target, NO_SECOND, 0
        if not second:
            return target, NOT_FOUND, 0
        person = float(vector @ second[recogniser])
        place = self.gallery.place(subject.pair.name, recogniser, person, target, vector)
        return target, person, place

    def _left_out(self, index: int) -> tuple[str, ...]:
        """The recognisers of which one at a time is left out for a photo."""
        if self.settings.leave_out == "rotate":
            return (self.rotation[index % len(self.rotation)],)
        return self.rotation

    def _compares_pairs(self, subject: Subject) -> bool:
        return self.settings.protect_both and subject.style == "plain"

    def _lasting_settings(self) -> dict[str, object]:
        settings = {k: v for k, v in asdict(self.settings).items() if k not in RESUMABLE_FIELDS}
        return settings | {
            "targets": self.targets,
            "photos": self.photos.fingerprint(),
            "judge": self.tools.judge is not None,
            "facepp": self.tools.facepp is not None,
            "modes": {name: asdict(mode) for name, mode in MODES.items()},
        }


# The evaluation of a worker process, made once when the process starts.
_worker: Evaluation | None = None


def start_workers(workers: int, factory: Callable[[], Evaluation]) -> ProcessPoolExecutor:
    """Processes with an evaluation each; they share the CPU's threads and take GPUs in turn."""
    context = get_context("spawn")
    ranks = context.Queue()
    for index in range(workers):
        ranks.put(index)
    return ProcessPoolExecutor(workers, context, _start_worker, (factory, ranks, workers))


def protect_in_worker(job: Job, units: Sequence[Unit]) -> list[Result]:
    """`Evaluation.protect_all` of this process."""
    if _worker is None:
        raise RuntimeError("`protect_in_worker` must run in a process of `start_workers`.")
    return list(_worker.protect_all(job, units))


def _end_with_parent() -> None:
    """Workers wait for work, and would do so for ever if the process that gives it was killed."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _start_worker(factory: Callable[[], Evaluation], ranks: Queue, workers: int) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max((os.cpu_count() or 1) // workers, 1))
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.get() % torch.cuda.device_count())
    _worker = factory()
