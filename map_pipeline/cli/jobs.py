"""Which photos a run of `map-protect protect` reads, and which files it writes.

Everything is decided before any work, so that a run never replaces a photo of the user, and a
mistake costs no time.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.files import check_new
from map_pipeline.video.reading import SUFFIXES as CLIP_SUFFIXES

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg")
RESULT_EXISTS = "its result exists"  # why a photo is skipped


@dataclass(frozen=True)
class Job:
    """One photo to protect.

    Attributes:
        name: how reports and messages call it: its path within IN, or its file name.
        source: the photo; output: the file to write.
    """

    name: str
    source: Path
    output: Path


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        jobs: photos to protect.
        skipped: name -> why it is left out.
    """

    jobs: list[Job]
    skipped: dict[str, str]


def plan_jobs(
    source: Path,
    output: Path,
    *,
    recursive: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    also_read: Sequence[Path] = (),
) -> Plan:
    """Pair every photo with an output of its own.

    Args:
        source: a photo or a folder; output: a picture file or a folder.
        recursive: go into the folders of a folder.
        overwrite: outputs may replace files, but never one that is read.
        skip_existing: photos whose output is there are left out.
        also_read: photos that are read besides those to protect.

    Raises:
        InvalidImageError: nothing there, a folder without photos, or an output that doesn't fit
            the input.
        UnknownOptionError: an output would replace a file.
    """
    if overwrite and skip_existing:
        raise UnknownOptionError("`--overwrite` must not be given with --skip-existing.")
    if same_file(source, output):
        raise InvalidImageError(f"`OUT` must differ from `IN`, got {output.name!r} for both.")
    if not source.exists():
        raise InvalidImageError(f"`IN` must be an existing file or folder, got {source.name!r}.")
    if source.is_dir():
        plan = _plan_folder(source, output, recursive)
    else:
        plan = Plan([Job(source.name, source, _output_file(source, output))], {})
    existing = [job for job in plan.jobs if os.path.lexists(job.output)]
    if skip_existing:
        done = dict.fromkeys((job.name for job in existing), RESULT_EXISTS)
        jobs = [job for job in plan.jobs if job.name not in done]
        return Plan(jobs, plan.skipped | done)
    read = [*(job.source for job in plan.jobs), *also_read]
    check_no_input("OUT", [job.output for job in existing], read)
    if existing and not overwrite:
        first = existing[0].output.name
        got = repr(first) if len(existing) == 1 else f"{first!r} and {len(existing) - 1} more"
        raise UnknownOptionError(
            f"`OUT` must not exist, got {got}; --overwrite replaces files, --skip-existing leaves "
            "out photos whose result is there."
        )
    return plan


def check_no_input(option: str, paths: Iterable[Path], read: Iterable[Path]) -> None:
    """Refuse to write over a photo that is read, also by another name of it.

    Raises:
        UnknownOptionError: one of `paths` is an input.
    """
    inputs = {_identity(one) for one in read} - {None}
    for path in paths:
        if _identity(path) in inputs:
            raise UnknownOptionError(
                f"`{option}` must not be a photo that is read, got {path.name!r}."
            )


def check_report(
    report: Path, jobs: Sequence[Job], replace: bool, also_read: Iterable[Path] = ()
) -> None:
    """Refuse a report that would replace a photo, a result or its folder, or any file.

    Args:
        replace: an existing report may be replaced.
        also_read: photos that are read besides those of the jobs.

    Raises:
        UnknownOptionError: the path is a folder, an input, an output, or exists.
    """
    if report.is_dir():
        raise UnknownOptionError(f"`--report` must be a file, got the folder {report.name!r}.")
    check_no_input("--report", [report], [*(job.source for job in jobs), *also_read])
    taken = {path for job in jobs for path in (job.output, *job.output.parents)}
    if any(same_file(report, path) for path in taken):  # also a folder that isn't there yet
        raise UnknownOptionError(
            f"`--report` must differ from `OUT`, got {report.name!r} for both."
        )
    check_new("--report", report, replace)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file: through links, and in file systems without case."""
    identity = _identity(one)
    return one.resolve() == other.resolve() or (
        identity is not None and identity == _identity(other)
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_clip(path: Path) -> bool:
    """Whether `path` names a video file."""
    return path.suffix.lower() in CLIP_SUFFIXES and not path.is_dir()


def is_output_file(path: Path) -> bool:
    """Whether `path` names an output picture rather than a folder."""
    return path.suffix.lower() in OUTPUT_SUFFIXES and not path.is_dir()


def _output_file(source: Path, output: Path) -> Path:
    if is_output_file(output):
        return output
    if output.suffix and not output.is_dir():
        raise InvalidImageError(f"`OUT` must end in .png, .jpg or .jpeg, got {output.name!r}.")
    return output / f"{source.stem}.png"


def _plan_folder(source: Path, output: Path, recursive: bool) -> Plan:
    if is_output_file(output):
        raise InvalidImageError(f"`OUT` must be a folder when `IN` is one, got {output.name!r}.")
    photos, skipped = [], {}
    for path in sorted(_entries(source, output, recursive)):
        name = path.relative_to(source).as_posix()
        if reason := _reason_to_skip(path):
            skipped[name] = reason
        else:
            photos.append(name)
    if not photos:
        others = f", {len(skipped)} other entries" if skipped else ""
        raise InvalidImageError(f"`IN` must hold photos, got none in {source.name!r}{others}.")
    outputs = _distinct_names(photos)
    return Plan([Job(n, source / n, output / outputs[n]) for n in photos], skipped)


def _entries(folder: Path, output: Path, recursive: bool) -> Iterator[Path]:
    """Files and what can't be entered; hidden ones, also AppleDouble `._` files, are left out."""
    try:
        entries = list(folder.iterdir())
    except PermissionError:
        yield folder
        return
    if not os.access(folder, os.X_OK):  # its names can be listed, but nothing else is known
        yield folder
        return
    for path in entries:
        if path.name.startswith(".") or same_file(path, output):
            continue
        if recursive and path.is_dir() and not path.is_symlink():  # a link may lead in circles
            yield from _entries(path, output, recursive)
        else:
            yield path


def _reason_to_skip(path: Path) -> str | None:
    """Why an entry of a folder is no photo to protect; None for a photo."""
    from map_pipeline.images import SUFFIXES

    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            return "a folder that can't be read"
        return "a link to a folder" if path.is_symlink() else "a folder; --recursive goes into it"
    if path.is_symlink() and not path.exists():
        return "a broken link"
    if not path.is_file():
        return "not a regular file"
    if path.suffix.lower() in SUFFIXES:
        return None  # if it isn't one, that is an error worth reporting
    return None if _is_picture(path) else "not a picture in a known format"


def _is_picture(path: Path) -> bool:
    """Whether the first bytes of a file are those of a picture, whatever its name."""
    from PIL import Image, UnidentifiedImageError

    from map_pipeline.images import FORMATS
    from map_pipeline.images.heic import HEAD, is_heic

    try:
        with path.open("rb") as file:
            if is_heic(file.read(HEAD)):
                return True
        with Image.open(path, formats=FORMATS):
            return True
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _distinct_names(photos: Sequence[str]) -> dict[str, str]:
    """Photo -> name of its output, all different also where case doesn't count.

    A photo's stem if it is the only one with that, else its whole name, else that with a number.
    """
    stems = {name: Path(name).with_suffix("").as_posix() for name in photos}
    count = Counter(stem.casefold() for stem in stems.values())
    shared = {name: count[stems[name].casefold()] > 1 for name in photos}
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(photos, key=shared.__getitem__):  # who has a stem alone keeps it
        base = name if shared[name] else stems[name]
        choice, number = f"{base}.png", 1
        while choice.casefold() in taken:
            number += 1
            choice = f"{base}-{number}.png"
        taken.add(choice.casefold())
        found[name] = choice
    return found
