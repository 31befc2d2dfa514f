"""`map-protect protect` for a clip."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from map_pipeline.cli.jobs import Job, check_no_input, check_report, same_file
from map_pipeline.cli.options import check_writable, load_pipeline
from map_pipeline.config import MODES
from map_pipeline.errors import InvalidVideoError, UnknownOptionError
from map_pipeline.files import check_new
from map_pipeline.video.reading import open_clip
from map_pipeline.video.writing import check_output

# Modules that load torch are imported in the functions, so that a wrong option is reported fast.
if TYPE_CHECKING:
    from map_pipeline.cli.protect import Options

FOR_PHOTOS = ("rotate", "recursive", "skip_existing")


def run_clip(options: "Options") -> int:
    """Protect the people in a clip; return the exit code."""
    job = plan_clip(options)
    clip = open_clip(job.source)  # what can't be used is found out before networks are loaded
    for note in clip.notes:
        print(f"{job.name}: {note}.", file=sys.stderr)
    check_writable("OUT", job.output.parent)
    pipe = load_pipeline(options.model, options.detector)
    import torch

    from map_pipeline.cli.protect import notice_own_target, tell_unmet
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
    left = ""
    if options.faces != "largest" and report.unprotected:
        left = f"faces are left unprotected, {report.left_text()}"
    failed = {one: report.failed(one) for one in options.require}
    return tell_unmet(job.name, failed, report.judges > 0, left)


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
    from map_pipeline.cli.protect import also_read

    source, output = options.input, options.output
    if output.is_dir() or not output.suffix:
        output = output / f"{source.stem}.mp4"
    check_output(output)
    if same_file(source, output):
        raise InvalidVideoError(f"`OUT` must differ from `IN`, got {output.name!r} for both.")
    check_new("OUT", output, options.overwrite)
    check_no_input("OUT", [output], [source, *also_read(options)])
    job = Job(source.name, source, output)
    if options.report is not None:
        check_report(options.report, [job], options.overwrite, also_read(options))
        check_writable("--report", Path(options.report).parent)
    return job
