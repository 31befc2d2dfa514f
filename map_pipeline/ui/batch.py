"""Several photos in one run: one after another, each with its own result or reason."""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from map_pipeline.errors import UnknownOptionError
from map_pipeline.report import FaceReport, with_notes
from map_pipeline.ui import texts
from map_pipeline.ui.cache import keep
from map_pipeline.ui.requests import plain_words
from map_pipeline.ui.result_files import write_files
from map_pipeline.ui.service import (
    Failed,
    Files,
    Job,
    Progress,
    Protected,
    ProtectionService,
    Update,
    read_upload,
)
from map_pipeline.ui.settings import Choices, PageSettings
from map_pipeline.verdict import headline

Run = Callable[[Sequence[Job]], Iterator[Update]]
"""Does jobs on the GPU, or here."""


@dataclass(frozen=True)
class Outcome:
    """What became of one photo of a batch.

    Attributes:
        number: its place in the batch, from 1.
        files: of the result, None where it failed; reports: one per protected face.
        reason: why it failed, fit for the visitor.
    """

    number: int
    files: Files | None = None
    reports: Sequence[FaceReport] = ()
    reason: str = ""

    @property
    def text(self) -> str:
        """What came of it, in a sentence or two."""
        return headline(self.reports) if self.files else self.reason

    @property
    def name(self) -> str:
        """Name of the result in the archive: by its place, so that it gives nothing away."""
        return f"photo-{self.number}{Path(self.files.after).suffix}" if self.files else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; "file" is the name in the archive, None if it failed."""
        return {
            "number": self.number,
            "protected": self.files is not None,
            "file": self.name or None,
            "verdict": self.text,
            "faces": [one.to_dict() for one in self.reports],
        }


@dataclass(frozen=True)
class Batch:
    """The photos of one request, and how all of them are to be protected.

    Args:
        service: the models; run: does jobs where the GPU is.
        settings: with the limits of the page.
        folder: where results are written.
    """

    service: ProtectionService
    run: Run
    settings: PageSettings
    folder: str

    def check_count(self, paths: Sequence[str]) -> None:
        """Raise `UnknownOptionError` if these are more photos than one go may have."""
        if len(paths) > self.settings.batch_photos:
            raise UnknownOptionError(
                f"`photos` must be at most {self.settings.batch_photos} at once, got {len(paths)}."
            )

    def work(
        self, paths: Sequence[str], own_target: str | None, choices: Choices
    ) -> Iterator[Progress | Outcome]:
        """Protect uploads: progress of one after another, and the outcome of each.

        Raises:
            MAPError: something about all of them isn't possible; the text is fit for the visitor.
        """
        self.check_count(paths)
        own, notes = None, []
        if own_target:
            read = read_upload(own_target).photo
            own, notes = read.pixels, [f"target picture: {note}" for note in read.notes]
        self.service.check(own, choices)

        jobs: dict[int, Job] = {}
        for number, path in enumerate(paths, 1):
            yield Progress(number - 1, len(paths), _of_photo(number, paths, "Looking for faces"))
            try:
                job = self.service.job(read_upload(path).photo.pixels, own, choices, path)
                self.check_time([*jobs.values(), job])
                jobs[number] = job
            except Exception as error:
                yield Outcome(number, reason=plain_words(error))
        if jobs:
            yield from self._protect(paths, jobs, notes)

    def _protect(
        self, paths: Sequence[str], jobs: dict[int, Job], notes: Sequence[str]
    ) -> Iterator[Progress | Outcome]:
        waiting, started = list(jobs), False
        kept = [paths[number - 1] for number in waiting]
        copied = jobs[waiting[0]].choices.expression_of
        if copied:  # read again for every photo that comes minutes later
            kept.append(copied["path"])
        keep(kept)
        try:
            todo = list(jobs.values())
            for update in self.service.timed(todo, self.run(todo)):
                started = True
                number = waiting[0]
                if isinstance(update, Progress):
                    yield replace(update, text=_of_photo(number, paths, update.text))
                    continue
                outcome = self._outcome(number, jobs[number], update, notes)
                del waiting[0], update  # which is a large picture
                if outcome.files:
                    kept += outcome.files
                yield outcome
                keep(kept)
        except Exception as error:
            if not started:  # that's the platform, not a photo
                raise
            reason = plain_words(error)
            for number in waiting:
                yield Outcome(number, reason=reason)

    def _outcome(
        self, number: int, job: Job, update: Protected | Failed, notes: Sequence[str]
    ) -> Outcome:
        if isinstance(update, Failed):
            return Outcome(number, reason=update.reason)
        try:
            noted = Protected(update.photo, with_notes(update.reports, notes))
            files, protected = write_files(
                read_upload(str(job.photo)),
                noted,
                self.folder,
                job.choices.file_type,
                self.settings.max_upload_bytes,
            )
        except Exception as error:
            return Outcome(number, reason=plain_words(error))
        return Outcome(number, files, protected.reports)

    def check_time(self, jobs: Sequence[Job]) -> None:
        """Raise `UnknownOptionError` if the GPU isn't lent for long enough for all these jobs."""
        faces = sum(len(job.boxes) for job in jobs)
        wanted = jobs[0].choices.gpu_seconds_wanted(faces, len(jobs))
        if wanted > self.settings.batch_seconds:
            raise UnknownOptionError(
                texts.NO_TIME_LEFT if len(jobs) > 1 else texts.too_much_for_gpu(faces)
            )

    def archive(self, outcomes: Sequence[Outcome]) -> str | None:
        """Write all results and a report into a ZIP file; its path, or None if there are none."""
        done = [one for one in outcomes if one.files]
        if not done:
            return None
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "protected.zip"
        with zipfile.ZipFile(path, "w") as archive:  # pictures don't get smaller by packing
            for one in done:
                archive.write(one.files.after, one.name)
            report = json.dumps([one.to_dict() for one in outcomes], indent=2)
            archive.writestr("report.json", report)
        return str(path)


def total_gpu_seconds(jobs: Sequence[Job]) -> int:
    """GPU time to ask for, in whole seconds, for jobs with the same choices."""
    return jobs[0].choices.gpu_seconds(sum(len(job.boxes) for job in jobs), len(jobs))


def _of_photo(number: int, paths: Sequence[str], text: str) -> str:
    return f"Photo {number} of {len(paths)}: {text[0].lower()}{text[1:]}"
