"""`map-protect protect`: protect one photo, every photo of a folder, or a clip."""

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from map_pipeline.cli.jobs import (
    RESULT_EXISTS,
    Job,
    Plan,
    check_report,
    is_clip,
    is_output_file,
    plan_jobs,
)
from map_pipeline.cli.options import Amounts, Inline, Model, check_writable, load_pipeline
from map_pipeline.config import DEFAULT_MARGIN, DEFAULT_MODE, DEFAULT_TARGET, HIDE, MODES
from map_pipeline.errors import MAPError, UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.copying import ShownExpression
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.report import FaceReport

NOBODY_JUDGES = "no recogniser of this checkpoint has a threshold to judge by"
UNMET = {
    "dodging": "the original is still recognised by",
    "impersonation": "the target isn't seen by",
}
OWN_TARGET_NOTICE = (
    "Notice: recognisers may take the protected photo for the person in your target picture. "
    "Use only a picture of somebody who agreed to that."
)


@dataclass(frozen=True)
class Options:
    """Protect a photo, every photo of a folder, or the people in a clip.

    Attributes:
        input: Photo, folder of photos, or clip (.mp4, .m4v, .mov, .mkv, .webm or .avi).
        output: File ending in .png or .jpg (JPEG 95), for a clip in .mp4, .m4v, .mov or .mkv
            (H.264); or an existing or new folder, which gets PNGs or an MP4.
        emotion: Expression to show: angry, disgust, fear, happy, neutral, sad, surprise, contempt
            or closed_smile.
        target: Who software should see: none to only hide the person, the name of a built-in
            composite (see `map-protect targets`), auto, or a picture of your own.
        faces: Which faces to protect; the largest if not given. In a clip that's the person who is
            seen most and nearest.
        rotate: Find faces lying on their side or upside down, too, where there are upright ones.
        mode: fast takes seconds; strong takes three times as long, for a cleaner picture.
        margin: How sure the protection should be: normal, high, or a number of steps beyond the
            match threshold, each dividing the false accept rate by 10. More is more visible.
        expression_strength: How far the expression is changed: 0 to 1 (as far as people go), at
            most 1.5.
        action_units: Single movements besides the emotion, each from -1 to 1, such as smile=0.5
            brows_up=-0.3: smile, mouth_open, brows_up, inner_brows, eyes_wide, squint,
            nose_wrinkle, lip_corners_down, pucker, lips_pressed, wink_left, wink_right (sides of
            the photo; below 0 the eye opens wide), or smirk, where 1 is the corner of the mouth at
            the left of the photo and -1 the one at the right.
        expression_of: Photo whose expression is copied in place of the emotion, as far as the
            strength says; works best with one of the same person.
        refine_steps: At most so many fine-tuning steps on each face; 0 takes one pass of the MAP
            network, or only changes the expression if the checkpoint has none.
        compile: Use torch.compile, on cuda only: slower for the first photo, made for folders.
        seed: Same seed, same result.
        detector: Which detector finds the faces; the checkpoint's setting if not given.
        recursive: Go into the folders of a folder.
        overwrite: Replace existing results and reports; a photo that is read is never replaced.
        skip_existing: Skip photos whose result exists, and add to an existing report: this
            continues a run of a folder that was stopped.
        report: Write what was measured as JSON, after every photo.
        require: Exit with code 3 unless every recogniser no longer matches the original (dodging)
            or sees the target (impersonation); may be given twice. Every face found counts, unless
            `--faces largest` says that others may stay as they are. In a clip it must hold
            for nine of ten frames examined, and for the mean of all.
    """

    input: Annotated[Path, tyro.conf.arg(metavar="IN"), tyro.conf.Positional]
    output: Annotated[Path, tyro.conf.arg(metavar="OUT"), tyro.conf.Positional]
    emotion: str = "happy"
    target: str = DEFAULT_TARGET
    faces: Literal["largest", "all"] | None = None
    rotate: bool = False
    mode: Literal["fast", "strong"] = DEFAULT_MODE
    margin: str = DEFAULT_MARGIN
    expression_strength: float | None = None
    action_units: Amounts = field(default_factory=dict)
    expression_of: Path | None = None
    refine_steps: int | None = None
    compile: bool = False
    seed: int = 0
    detector: Literal["auto", "bundled", "insightface", "insightface-download"] | None = None
    recursive: bool = False
    overwrite: bool = False
    skip_existing: bool = False
    report: Path | None = None
    require: tyro.conf.UseAppendAction[tuple[Literal["dodging", "impersonation"], ...]] = ()
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        if "impersonation" in self.require and self.target == HIDE:
            raise UnknownOptionError("`--require impersonation` must come with a `--target`.")


def run(options: Options) -> int:
    """Protect one photo, every photo of a folder, or a clip."""
    if is_clip(options.input):
        from map_pipeline.cli.protect_clip import run_clip

        return run_clip(options)
    plan = plan_jobs(
        options.input,
        options.output,
        recursive=options.recursive,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        also_read=also_read(options),
    )
    report = Report.open(options, plan)
    folder = options.output.parent if is_output_file(options.output) else options.output
    check_writable("OUT", folder)
    pipe = load_pipeline(options.model, options.detector)
    notice_own_target(pipe, options.target)
    shown = options.expression_of and pipe.read_expression(options.expression_of)
    failures: dict[str, str] = {}
    if options.input.is_dir():
        failures = protect_folder(pipe, plan.jobs, options, report, shown)
    else:
        for job in plan.jobs:
            protect_file(pipe, job, options, report, shown)
    for name, reason in plan.skipped.items():
        print(f"map-protect: {name}: skipped: {reason}", file=sys.stderr)
    for name, text in failures.items():
        print(f"map-protect: {name}: {text}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(plan.jobs)} photos failed.", file=sys.stderr)
        return 1
    if not options.require:
        return 0
    known = {**report.earlier(plan.skipped), **report.faces}
    unmet = check_requirements(known, options.require, all_faces=options.faces != "largest")
    unknown = [n for n, why in plan.skipped.items() if why == RESULT_EXISTS and n not in known]
    if unknown:
        text = "no earlier report says what became of what was skipped"
        print(f"map-protect: {', '.join(unknown)}: --require: {text}.", file=sys.stderr)
        return 3
    return unmet


class Report:
    """What was measured, and the file that grows with it.

    Attributes:
        path: the JSON file; None writes none.
        faces: name of a photo -> its faces, of this run.
    """

    def __init__(self, path: Path | None, earlier: Mapping[str, Any]) -> None:
        self.path, self.faces = path, dict[str, list["FaceReport"]]()
        self._content = dict(earlier)

    @classmethod
    def open(cls, options: Options, plan: Plan) -> "Report":
        """Check the path and go on with an earlier report if asked.

        Raises:
            UnknownOptionError: the path is a folder or a photo, or a file is there that may not be
                replaced.
            OSError: its folder can't be written.
        """
        path = options.report
        if path is None:
            return cls(None, {})
        replace = options.overwrite or options.skip_existing
        check_report(path, plan.jobs, replace, also_read(options))
        check_writable("--report", path.parent)
        goes_on = options.skip_existing and path.exists()
        return cls(path, read_report(path) if goes_on else {})

    def earlier(self, names: Iterable[str]) -> dict[str, list["FaceReport"]]:
        """What the earlier report says of these photos, of those that this version can read."""
        from map_pipeline.report import FaceReport

        found = {}
        for name in names:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                found[name] = [FaceReport.from_dict(one) for one in self._content[name]]
        return found

    def add(self, name: str, faces: list["FaceReport"]) -> None:
        """Note a photo; the file is whole at any time."""
        from map_pipeline.files import write_atomically

        self.faces[name] = faces
        self._content[name] = [face.to_dict() for face in faces]
        if self.path is not None:
            write_atomically(self.path, json.dumps(self._content, indent=2).encode())


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report.

    Raises:
        UnknownOptionError: the file is none.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UnknownOptionError(
            f"`--report` must be an earlier report with --skip-existing, got {path.name!r}."
        )
    return content


def also_read(options: Options) -> list[Path]:
    """The pictures of a target and of an expression, which must not be replaced either."""
    given = (Path(options.target), options.expression_of)
    return [path for path in given if path is not None and path.is_file()]


def notice_own_target(pipe: "MAPPipeline", target: str) -> None:
    """Say what a picture as a target may lead to, where it is one."""
    if not pipe.names_target(target) and Path(target).is_file():
        print(OWN_TARGET_NOTICE, file=sys.stderr)


def check_requirements(
    reports: Mapping[str, Sequence["FaceReport"]],
    requirements: Sequence[str],
    all_faces: bool = True,
) -> int:
    """Print what isn't as required; return exit code 3 if there's anything.

    Args:
        all_faces: whether faces that are left unprotected break a requirement.
    """
    from map_pipeline.report import judged, remaining_matches, unprotected_faces

    codes = {0}
    for name, faces in reports.items():
        text = ""
        if all_faces and (left := unprotected_faces(faces)):
            text = (
                f"{left} of {len(faces) + left} faces found {'is' if left == 1 else 'are'} left "
                "unprotected. --faces all protects those that are large enough; with --faces "
                "largest, others may stay as they are"
            )
        failed = {one: remaining_matches(faces, one) for one in requirements}
        codes.add(tell_unmet(name, failed, judged(faces), text))
    return max(codes)


def tell_unmet(name: str, failed: Mapping[str, Sequence[str]], judged: bool, left: str) -> int:
    """Print what isn't as required of a photo or clip; return exit code 3 if there's anything.

    Args:
        failed: what is required -> titles of the recognisers that don't see it.
        judged: whether any recogniser can say.
        left: which faces are left unprotected, where that matters.
    """
    from map_pipeline.verdict import join_names

    problems = [f"--require: {left}"] if failed and left else []
    for requirement, titles in failed.items():
        if titles:
            problems.append(f"--require {requirement}: {UNMET[requirement]} {join_names(titles)}")
        elif not judged:
            problems.append(f"--require {requirement}: {NOBODY_JUDGES}")
    for problem in problems:
        print(f"map-protect: {name}: {problem}.", file=sys.stderr)
    return 3 if problems else 0


def protect_file(
    pipe: "MAPPipeline",
    job: Job,
    options: Options,
    report: Report,
    shown: "ShownExpression | None" = None,
) -> None:
    """Protect one photo, write it, note what was measured and print it.

    Args:
        shown: an expression to copy.
    """
    import torch

    from map_pipeline.images import save_image
    from map_pipeline.report import (
        doubtful_faces,
        notes_of,
        remaining_matches,
        unprotected_faces,
        with_notes,
    )
    from map_pipeline.verdict import advice, headline

    result = pipe(
        job.source,
        emotion=options.emotion,
        target=options.target,
        faces=options.faces,
        rotate=options.rotate,
        mode=options.mode,
        margin=options.margin,
        expression_strength=options.expression_strength,
        action_units=options.action_units,
        expression_of=shown,
        refine_steps=options.refine_steps,
        config=replace(MODES[options.mode], compile=options.compile),
        generator=torch.Generator().manual_seed(options.seed),
    )
    notes = save_image(result.images[0], job.output)
    reports = with_notes(result.reports[0], notes)
    report.add(job.name, reports)
    hints = [advice(options.mode)] if remaining_matches(reports) else []
    if unprotected_faces(reports) and options.faces is None:
        hints.append("--faces all protects all of them.")
    print(headline(reports), *hints, flush=True)  # a closed output is noticed at once
    for note in notes_of(reports):
        print(f"{job.name}: {note}.", file=sys.stderr)
    if boxes := doubtful_faces(reports):
        print(f"{job.name}: {tell_doubts(boxes, options.rotate)}", file=sys.stderr)
    for number, face in enumerate(reports, 1):
        print(face.to_table(), end="\n\n")
        if face.problems:
            print(
                f"{job.name}: face {number} is {', '.join(face.problems)}. It may be less "
                "well protected than the figures say.",
                file=sys.stderr,
            )


def tell_doubts(boxes: Sequence[Sequence[float]], rotated: bool) -> str:
    """Where more faces may be, and what may find them unless turned ones were looked for."""
    from map_pipeline.verdict import join_names

    corners = [f"({', '.join(f'{corner:.0f}' for corner in box)}) px" for box in boxes[:3]]
    places = join_names(corners) + (f" and {len(boxes) - 3} more" if boxes[3:] else "")
    hint = "" if rotated else "; --rotate may find them"
    text = f"there may be more faces, rotated or half hidden, at {places}"
    return f"{text}. They aren't protected{hint}."


def protect_folder(
    pipe: "MAPPipeline",
    jobs: Sequence[Job],
    options: Options,
    report: Report,
    shown: "ShownExpression | None" = None,
) -> dict[str, str]:
    """Protect photo after photo, whatever happens to one of them; return error texts by name."""
    from tqdm import tqdm

    pipe.set_progress_bar_config(disable=True)
    failures = {}
    for job in tqdm(jobs, unit="photo"):
        try:
            protect_file(pipe, job, options, report, shown)
        except (UnknownOptionError, BrokenPipeError):
            raise  # an option is wrong, or nobody listens any more; it isn't this photo
        except (MAPError, OSError) as error:
            failures[job.name] = " ".join(str(error).split())
        except Exception as error:  # a defect of ours, or no memory: the others can still be done
            failures[job.name] = (
                f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
            )
    return failures
