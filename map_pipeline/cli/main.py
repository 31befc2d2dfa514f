"""Command line: `map-protect protect|compare|evaluate|profile|blind|train|targets|info`.

Exit codes: 0 all done; 1 some files of a folder failed (they are listed at the end); 2 the input or
an option is wrong, and nothing was written; 3 all was written, but a recogniser sees other than
`--require` asks for; 130 stopped with Ctrl-C.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from map_pipeline.cli.blind import add_blind
from map_pipeline.cli.evaluate import add_evaluate
from map_pipeline.cli.profile import add_profile
from map_pipeline.cli.train import add_train
from map_pipeline.config import DEFAULT_MODE, DETECTORS, MODES
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.report import FaceReport

OWN_TARGET_NOTICE = (
    "Notice: recognisers may take the protected photo for the person in your target picture. "
    "Use only a picture of somebody who agreed to that."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (MAPError, OSError) as error:
        return fail(error)
    except ValueError as error:  # a number outside its range, named in the text
        return fail(error)
    except KeyboardInterrupt:
        print("map-protect: stopped; no partial file was left.", file=sys.stderr)
        return 130


def fail(error: Exception) -> int:
    """Print an error as one line and return exit code 2."""
    print("map-protect: " + " ".join(str(error).split()), file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """The whole command line with its help texts."""
    parser = argparse.ArgumentParser(
        prog="map-protect",
        description="Protect photos from face recognition by changing the facial expression.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    protect = commands.add_parser("protect", help="protect a photo or a folder of photos")
    protect.add_argument("input", type=Path, metavar="IN", help="photo, or folder of photos")
    protect.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="file ending in .png or .jpg (JPEG 95), or an existing or new folder, which gets PNGs",
    )
    protect.add_argument("--emotion", default="happy", help="expression to show (default: happy)")
    protect.add_argument(
        "--target",
        default="auto",
        help="name of a built-in composite (see `targets`), auto, or your own picture",
    )
    protect.add_argument("--faces", choices=("largest", "all"), default="largest")
    protect.add_argument(
        "--mode",
        choices=tuple(MODES),
        default=DEFAULT_MODE,
        help=f"fast takes seconds, strong protects better (default: {DEFAULT_MODE})",
    )
    protect.add_argument(
        "--strength", type=float, help="visible change that protection may cost, 0 to 1"
    )
    protect.add_argument(
        "--expression-strength", type=float, help="how far the expression is changed, 0 to 1"
    )
    protect.add_argument(
        "--refine-steps",
        type=int,
        help="fine-tuning steps on each face (default: the mode's); 0: one pass of the trained "
        "network, towards built-in targets only",
    )
    protect.add_argument(
        "--compile",
        action="store_true",
        help="use torch.compile, on cuda only: slower for the first photo, made for folders",
    )
    protect.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    protect.add_argument("--detector", choices=DETECTORS)
    protect.add_argument("--report", type=Path, help="write what was measured as JSON")
    protect.add_argument(
        "--require",
        action="append",
        choices=("dodging", "impersonation"),
        default=[],
        help="exit with code 3 unless every recogniser no longer matches the original (dodging) or "
        "sees the target (impersonation); may be given twice",
    )
    add_model_options(protect)
    protect.set_defaults(run=run_protect)

    compare = commands.add_parser("compare", help="ask every recogniser about two photos")
    compare.add_argument("first", type=Path, metavar="A", help="photo with a face")
    compare.add_argument("second", type=Path, metavar="B", help="another one")
    compare.add_argument("--detector", choices=DETECTORS)
    add_model_options(compare)
    compare.set_defaults(run=run_compare)

    add_model_options(add_evaluate(commands))
    add_model_options(add_profile(commands))
    add_blind(commands)
    add_train(commands)

    targets = commands.add_parser("targets", help="list the built-in targets")
    targets.add_argument("--export", type=Path, help="folder to write their pictures to")
    add_model_options(targets)
    targets.set_defaults(run=run_targets)

    info = commands.add_parser("info", help="show versions, device and checkpoint")
    add_model_options(info)
    info.set_defaults(run=run_info)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads the checkpoint."""
    parser.add_argument("--checkpoint", help="folder or Hub repository (default: the bundled one)")
    parser.add_argument("--device", help="cpu, cuda ... (default: cuda if there is one)")


def load_pipeline(options: argparse.Namespace) -> "MAPPipeline":
    """Load the checkpoint on the chosen device."""
    import torch

    from map_pipeline.images import quiet_pillow
    from map_pipeline.pipeline import MAPPipeline

    quiet_pillow()
    settings = {} if getattr(options, "detector", None) is None else {"detector": options.detector}
    pipe = MAPPipeline.from_pretrained(options.checkpoint, **settings)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return pipe.to(device)


def run_protect(options: argparse.Namespace) -> int:
    """Protect one photo, or every photo of a folder."""
    from map_pipeline.images import write_atomically

    jobs = list(plan_jobs(options.input, options.output))
    check_writable("OUT", options.output.parent if is_file_name(options.output) else options.output)
    if options.report is not None:
        check_writable("--report", options.report.parent)
    pipe = load_pipeline(options)
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
    return check_requirements(reports, options.require)


def check_requirements(
    reports: Mapping[str, Sequence["FaceReport"]], requirements: Sequence[str]
) -> int:
    """Print which recognisers don't see what is required; return exit code 3 if there are any."""
    from map_pipeline.report import join_names, judged, remaining_matches

    wrong = {
        "dodging": "the original is still recognised by",
        "impersonation": "the target isn't seen by",
    }
    unmet = 0
    for name, faces in reports.items():
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


def check_writable(option: str, folder: Path) -> None:
    """Create the folder and a nameless file in it, so that a full run isn't lost at its end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"`{option}` must lie in a folder that can be written, got {folder} ({error.strerror})."
        ) from None


def protect_file(
    pipe: "MAPPipeline", source: Path, output: Path, options: argparse.Namespace
) -> list["FaceReport"]:
    """Protect one photo, write it and print its report."""
    import torch

    from map_pipeline.images import save_image
    from map_pipeline.report import advice, headline, remaining_matches

    result = pipe(
        source,
        emotion=options.emotion,
        target=options.target,
        faces=options.faces,
        mode=options.mode,
        max_change=options.strength,
        expression_strength=options.expression_strength,
        refine_steps=options.refine_steps,
        config=replace(MODES[options.mode], compile=options.compile),
        generator=torch.Generator().manual_seed(options.seed),
    )
    save_image(result.images[0], output)
    reports = result.reports[0]
    print(headline(reports), *([advice(options.mode)] if remaining_matches(reports) else []))
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
    pipe: "MAPPipeline", jobs: Sequence[tuple[Path, Path]], options: argparse.Namespace
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


def run_compare(options: argparse.Namespace) -> int:
    """Print what every recogniser says about the largest faces of two photos."""
    from map_pipeline.compare import compare_photos
    from map_pipeline.report import format_table

    rows = [
        [
            one.title,
            f"{one.similarity:.3f}",
            "-" if one.threshold is None else f"{one.threshold:.3f}",
            "-" if one.matches is None else "yes" if one.matches else "no",
        ]
        for one in compare_photos(load_pipeline(options), options.first, options.second)
    ]
    print("\n".join(format_table(("recogniser", "similarity", "threshold", "same person"), rows)))
    return 0


def run_targets(options: argparse.Namespace) -> int:
    """List the built-in targets, and export their pictures if asked."""
    from map_pipeline.images import save_image

    pipe = load_pipeline(options)
    if pipe.targets is None:
        raise MAPError("This checkpoint holds no built-in targets.")
    if options.export is not None:
        check_writable("--export", options.export)
    for name, description in zip(pipe.targets.names, pipe.targets.config.descriptions, strict=True):
        print(f"{name:28}{description}")
        if options.export is not None:
            save_image(pipe.targets.picture(name), options.export / f"{name}.png")
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Print versions, device, detector and the networks of the checkpoint."""
    from importlib.metadata import version

    from map_pipeline import __version__

    pipe = load_pipeline(options)
    print(f"{'map-pipeline':14}{__version__}")
    packages = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")
    for package in packages:
        print(f"{package:14}{version(package)}")
    print(f"{'device':14}{pipe.device} ({os.cpu_count()} CPU threads)")
    print(f"{'detector':14}{pipe.face_detector.name}")
    print(f"{'targets':14}{len(pipe.targets.names) if pipe.targets else 0}")
    for name, net in pipe.recognisers.items():
        role = "surrogate" if name in pipe.surrogates else "judge only"
        print(f"{'recogniser':14}{name}: {net.config.title}, {role}, {net.config.licence}")
    for name, net in pipe.expression_classifiers.items():
        print(f"{'expression':14}{name}: {net.config.title}")
    for name, net in {"map_network": pipe.map_network}.items() if pipe.map_network else ():
        print(f"{'trained':14}{name}: on {', '.join(net.surrogates)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
