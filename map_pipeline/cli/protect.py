"""`map-protect protect`: protect one photo, or every photo of a folder."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, check_writable, load_pipeline
from map_pipeline.config import DEFAULT_MARGIN, DEFAULT_MODE, MODES
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.report import FaceReport

OWN_TARGET_NOTICE = (
    "Notice: recognisers may take the protected photo for the person in your target picture. "
    "Use only a picture of somebody who agreed to that."
)


@dataclass(frozen=True)
class Options:
    """Protect a photo, or every photo of a folder.

    Attributes:
        input: Photo, or folder of photos.
        output: File ending in .png or .jpg (JPEG 95), or an existing or new folder, which gets
            PNGs.
        emotion: Expression to show.
        target: What software shall see: name of a built-in composite (see `map-protect targets`),
            auto, your own picture, or none: the person is only hidden.
        faces: Which faces to protect; the largest if not given.
        rotate: Find faces that lie on their side or are upside down also beside upright ones.
        mode: fast takes seconds, strong protects better.
        margin: How sure the protection shall be: normal, high, or a number of steps beyond the
            match threshold, each a tenth of the false accept rate. More is more visible.
        expression_strength: How far the expression is changed, 0 to 1.
        refine_steps: Most fine-tuning steps on each face; 0 changes the expression only, unless the
            checkpoint has a trained MAP network.
        compile: Use torch.compile, on cuda only: slower for the first photo, made for folders.
        seed: Same seed, same result.
        detector: Which detector finds the faces; the checkpoint's setting if not given.
        report: Write what was measured as JSON.
        require: Exit with code 3 unless every recogniser no longer matches the original (dodging)
            or sees the target (impersonation); may be given twice. Every face found counts, unless
            `--faces largest` says that others may stay as they are.
    """

    input: Annotated[Path, tyro.conf.arg(metavar="IN"), tyro.conf.Positional]
    output: Annotated[Path, tyro.conf.arg(metavar="OUT"), tyro.conf.Positional]
    emotion: str = "happy"
    target: str = "auto"
    faces: Literal["largest", "all"] | None = None
    rotate: bool = False
    mode: Literal["fast", "strong"] = DEFAULT_MODE
    margin: str = DEFAULT_MARGIN
    expression_strength: float | None = None
    refine_steps: int | None = None
    compile: bool = False
    seed: int = 0
    detector: Literal["auto", "bundled", "insightface", "insightface-download"] | None = None
    report: Path | None = None
    require: tyro.conf.UseAppendAction[tuple[Literal["dodging", "impersonation"], ...]] = ()
    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """Protect one photo, or every photo of a folder."""
    from map_pipeline.files import write_atomically

    jobs = list(plan_jobs(options.input, options.output))
    check_writable("OUT", options.output.parent if is_file_name(options.output) else options.output)
    if options.report is not None:
        check_writable("--report", options.report.parent)
    pipe = load_pipeline(options.model, options.detector)
    if options.target != "auto" and Path(options.target).is_file():
        print(OWN_TARGET_NOTICE, file=sys.stderr)
    if not options.input.is_dir():
        reports = {options.input.name: protect_file(pipe, *jobs[0], options)}
        failures: dict[str, str] = {}
    else:
        reports, failures = protect_folder(pipe, jobs, options)
    if options.report is not None:
        content = {name: [face.to_dict() for face in faces] for name, faces in reports.items()}
        write_atomically(options.report, json.dumps(content, indent=2).encode())
    for name, text in failures.items():
        print(f"map-protect: {name}: {text}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(jobs)} photos failed.", file=sys.stderr)
        return 1
    return check_requirements(reports, options.require, all_faces=options.faces != "largest")


def check_requirements(
    reports: Mapping[str, Sequence["FaceReport"]],
    requirements: Sequence[str],
    all_faces: bool = True,
) -> int:
    """Print what isn't as required; return exit code 3 if there's anything.

    Args:
        all_faces: whether faces that are left unprotected break a requirement.
    """
    from map_pipeline.report import join_names, judged, remaining_matches, unprotected_faces

    wrong = {
        "dodging": "the original is still recognised by",
        "impersonation": "the target isn't seen by",
    }
    unmet = 0
    for name, faces in reports.items():
        if requirements and all_faces and (left := unprotected_faces(faces)):
            unmet += 1
            print(
                f"map-protect: {name}: --require: {left} of {len(faces) + left} faces found "
                f"{'is' if left == 1 else 'are'} left unprotected. Choose --faces all, or --faces "
                "largest if that is meant.",
                file=sys.stderr,
            )
        for requirement in dict.fromkeys(requirements):
            if failed := remaining_matches(faces, requirement):
                text = f"{wrong[requirement]} {join_names(failed)}"
            elif not judged(faces):
                text = "no recogniser of this checkpoint has a threshold to judge by"
            else:
                continue
            unmet += 1
            print(f"map-protect: {name}: --require {requirement}: {text}.", file=sys.stderr)
    return 3 if unmet else 0


def plan_jobs(source: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of input and output file.

    Raises:
        InvalidImageError: a folder without photos, or an output that doesn't fit the input.
    """
    from map_pipeline.images import SUFFIXES

    if output.resolve() == source.resolve():
        raise InvalidImageError(f"`OUT` must differ from `IN`, got {output.name!r} for both.")
    if not source.is_dir():
        if is_file_name(output):
            yield source, output
        elif output.suffix and not output.is_dir():
            raise InvalidImageError(f"`OUT` must end in .png, .jpg or .jpeg, got {output.name!r}.")
        else:
            yield source, output / f"{source.stem}.png"
        return
    if is_file_name(output):
        raise InvalidImageError(f"`OUT` must be a folder when `IN` is one, got {output.name!r}.")
    photos = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES)
    if not photos:
        raise InvalidImageError(f"`IN` must hold photos ({', '.join(SUFFIXES)}), got none.")
    names = [photo.stem for photo in photos]
    for photo in photos:
        # Two inputs that differ only in their suffix must not overwrite each other.
        name = photo.stem if names.count(photo.stem) == 1 else photo.name
        yield photo, output / f"{name}.png"


def is_file_name(path: Path) -> bool:
    """Whether `path` names an output picture rather than a folder."""
    return path.suffix.lower() in (".png", ".jpg", ".jpeg") and not path.is_dir()


def protect_file(
    pipe: "MAPPipeline", source: Path, output: Path, options: Options
) -> list["FaceReport"]:
    """Protect one photo, write it and print its report."""
    import torch

    from map_pipeline.images import save_image
    from map_pipeline.report import (
        advice,
        doubtful_faces,
        headline,
        join_names,
        remaining_matches,
        unprotected_faces,
    )

    result = pipe(
        source,
        emotion=options.emotion,
        target=options.target,
        faces=options.faces,
        rotate=options.rotate,
        mode=options.mode,
        margin=options.margin,
        expression_strength=options.expression_strength,
        refine_steps=options.refine_steps,
        config=replace(MODES[options.mode], compile=options.compile),
        generator=torch.Generator().manual_seed(options.seed),
    )
    save_image(result.images[0], output)
    reports = result.reports[0]
    hints = [advice(options.mode)] if remaining_matches(reports) else []
    if unprotected_faces(reports) and options.faces is None:
        hints.append("--faces all protects all of them.")
    print(headline(reports), *hints)
    if boxes := doubtful_faces(reports):
        corners = [f"({', '.join(f'{corner:.0f}' for corner in box)})" for box in boxes[:3]]
        places = join_names(corners) + (f" and {len(boxes) - 3} places more" if boxes[3:] else "")
        print(
            f"{source.name}: there may be more faces, turned or half hidden, at {places} px. They "
            f"aren't protected{'' if options.rotate else '; --rotate may find them'}.",
            file=sys.stderr,
        )
    for number, face in enumerate(reports, 1):
        print(face.to_table(), end="\n\n")
        if face.problems:
            print(
                f"{source.name}: face {number} is {', '.join(face.problems)}. It may be protected "
                "less well than the figures say.",
                file=sys.stderr,
            )
    return reports


def protect_folder(
    pipe: "MAPPipeline", jobs: Sequence[tuple[Path, Path]], options: Options
) -> tuple[dict[str, list["FaceReport"]], dict[str, str]]:
    """Protect file after file; return reports and error texts by file name."""
    from tqdm import tqdm

    pipe.set_progress_bar_config(disable=True)
    reports, failures = {}, {}
    for source, output in tqdm(jobs, unit="photo"):
        try:
            reports[source.name] = protect_file(pipe, source, output, options)
        except UnknownOptionError:
            raise  # an option is wrong, not this photo
        except (MAPError, OSError) as error:
            failures[source.name] = " ".join(str(error).split())
    return reports, failures
