"""`map-protect protect` for a clip."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from map_pipeline.cli.jobs import Job, check_new, check_report, same_file
from map_pipeline.cli.options import check_writable, load_pipeline
from map_pipeline.config import MODES
from map_pipeline.errors import InvalidVideoError, UnknownOptionError
from map_pipeline.video.reading import open_clip
from map_pipeline.video.writing import check_output

# Modules that load torch are imported in the functions, so that a wrong option is reported fast.
if TYPE_CHECKING:
    from map_pipeline.cli.protect import Options
    from map_pipeline.video.report import VideoReport

FOR_PHOTOS = ("rotate", "recursive", "skip_existing")


def run_clip(options: "Options") -> int:
    """Protect the people in a clip; return the exit code."""
    job = plan_clip(options)
    open_clip(job.source)  # a clip that can't be used is found out before networks are loaded
    check_writable("OUT", job.output.parent)
    pipe = load_pipeline(options.model, options.detector)
    import torch

    from map_pipeline.cli.protect import notice_own_target
    from map_pipeline.files import write_atomically

    notice_own_target(pipe, options.target)
    report = pipe.protect_video(
        job.source,
        job.output,
        emotion=options.emotion,
        target=options.target,
        faces=options.faces,
        margin=options.margin,
        expression_strength=options.expression_strength,
        action_units=options.action_units,
        expression_of=options.expression_of,
        refine_steps=options.refine_steps,
        config=replace(MODES[options.mode], compile=options.compile),
        generator=torch.Generator().manual_seed(options.seed),
        overwrite=options.overwrite,
    )
    print(report.headline())
    print(report.to_table())
    if options.report is not None:
        content = json.dumps({job.name: report.to_dict()}, indent=2)
        write_atomically(options.report, content.encode())
    return check_clip(job.name, report, options.require, options.faces != "largest")


def plan_clip(options: "Options") -> Job:
    """What is read and written.

    Raises:
        InvalidVideoError: the output doesn't fit a clip.
        UnknownOptionError: an option is for photos only, or a file would be replaced.
    """
    for name in FOR_PHOTOS:
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise UnknownOptionError(f"`{option}` must not be given for a clip.")
    source, output = options.input, options.output
    if output.is_dir() or not output.suffix:
        output = output / f"{source.stem}.mp4"
    check_output(output)
    if same_file(source, output):
        raise InvalidVideoError(f"`OUT` must differ from `IN`, got {output.name!r} for both.")
    check_new("OUT", output, options.overwrite)
    job = Job(source.name, source, output)
    if options.report is not None:
        check_report(options.report, [job], options.overwrite)
        check_writable("--report", Path(options.report).parent)
    return job


def check_clip(
    name: str, report: "VideoReport", requirements: Sequence[str], all_faces: bool
) -> int:
    """Print what isn't as required; return exit code 3 if there's anything.

    Args:
        all_faces: whether faces that are left unprotected break a requirement.
    """
    from map_pipeline.cli.protect import NOBODY_JUDGES
    from map_pipeline.verdict import join_names

    problems = []
    if requirements and all_faces and report.unprotected:
        problems.append(f"--require: faces are left unprotected, {report.left_text()}")
    wrong = {
        "dodging": "the original is still recognised by",
        "impersonation": "the target isn't seen by",
    }
    for requirement in dict.fromkeys(requirements):
        if failed := report.failed(requirement):
            problems.append(f"--require {requirement}: {wrong[requirement]} {join_names(failed)}")
        elif not report.judges:
            problems.append(f"--require {requirement}: {NOBODY_JUDGES}")
    for problem in problems:
        print(f"map-protect: {name}: {problem}.", file=sys.stderr)
    return 3 if problems else 0
