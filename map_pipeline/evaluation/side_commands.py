"""`map-protect profile`, `curves` and `blind`: where time goes, how losses fall, what is seen."""

import argparse
import sys
from pathlib import Path
from typing import Any

from map_pipeline.config import DEFAULT_MODE, MODES
from map_pipeline.evaluation.command import add_photos

# Modules that load torch are imported in the functions, so that help and a typing error come fast.


def add_profile(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "profile",
        help="show where the time of a protection goes",
        description="Protect a photo once to warm up, once by the clock and once counting "
        "operations; print a table of the stages and the ratio to the machine's limit. Whatever "
        "else runs meanwhile slows it down.",
    )
    parser.add_argument(
        "photo", type=Path, nargs="?", metavar="PHOTO", help="default: a built-in composite"
    )
    parser.add_argument("--mode", choices=tuple(MODES), default="fast", help="default: fast")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.set_defaults(run=run_profile)
    return parser


def run_profile(options: argparse.Namespace) -> int:
    """Print the profile as Markdown."""
    from map_pipeline.cli import load_pipeline
    from map_pipeline.evaluation.profile import profile

    pipe = load_pipeline(options)
    print(profile(pipe, options.photo, options.mode, options.seed).to_markdown())
    return 0


def add_curves(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "curves",
        help="show how the losses fall, with and without projection and EMA",
        description="Protect each photo as shipped, without projection and without EMA; write "
        "steps.csv with the losses and the share of conflicting layers at every step, curves.png "
        "with their means over the photos, and print a table.",
    )
    add_photos(parser, required=True)
    parser.add_argument("--emotion", default="happy", help="asked, or all in turn (default: happy)")
    parser.add_argument(
        "--mode", choices=tuple(MODES), default=DEFAULT_MODE, help=f"default: {DEFAULT_MODE}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.set_defaults(run=run_curves)
    return parser


def run_curves(options: argparse.Namespace) -> int:
    """Write the steps and the picture, and print the table as Markdown."""
    from map_pipeline.cli import check_writable, load_pipeline
    from map_pipeline.evaluation.curves import collect, to_markdown, write_results
    from map_pipeline.evaluation.data import PhotoSet
    from map_pipeline.evaluation.settings import Settings

    photos = PhotoSet(options.pairs)
    settings = Settings(
        emotion=options.emotion,
        targets=options.targets or (),
        skip=options.skip,
        limit=options.limit,
        seed=options.seed,
    )
    check_writable("--out", options.out)
    runs, problems = collect(load_pipeline(options), photos, settings, options.mode)
    for problem in (*photos.problems, *problems):
        print(f"map-protect: {problem.name}: {problem.rule}", file=sys.stderr)
    write_results(runs, options.mode, options.out)
    print(to_markdown(runs, options.mode))
    return 0


def add_blind(commands: Any) -> None:
    """Add the subcommand, which has two of its own."""
    parser = commands.add_parser(
        "blind", help="name the emotions of protected faces without knowing what was asked"
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")

    sheets = steps.add_parser("sheets", help="write numbered contact sheets and their key")
    sheets.add_argument(
        "folder", type=Path, metavar="RUN", help="folder of an evaluation with --emotion all"
    )
    sheets.add_argument("--out", type=Path, required=True, help="new folder for the sheets")
    sheets.add_argument("--count", type=int, default=48, help="faces to show (default: 48)")
    sheets.add_argument("--seed", type=int, default=0, help="of choice and order (default: 0)")
    sheets.add_argument("--method", help="whose results, if the run has several methods")
    sheets.set_defaults(run=run_sheets)

    score = steps.add_parser("score", help="compare answers with the key")
    score.add_argument("folder", type=Path, metavar="DIR", help="folder with the sheets")
    score.add_argument("answers", type=Path, metavar="ANSWERS", help="CSV file: number,emotion")
    score.set_defaults(run=run_score)


def run_sheets(options: argparse.Namespace) -> int:
    """Write the sheets and say what to do with them."""
    from map_pipeline.config import EMOTIONS
    from map_pipeline.evaluation.blind import ANSWERS, KEY, make_sheets

    sheets = make_sheets(options.folder, options.out, options.count, options.seed, options.method)
    print(f"{len(sheets)} sheets: {', '.join(map(str, sheets))}")
    print(f"Write one of {', '.join(EMOTIONS)} for each number into {options.out / ANSWERS},")
    print(f"without a look at {KEY}, then: map-protect blind score {options.out} ", end="")
    print(options.out / ANSWERS)
    return 0


def run_score(options: argparse.Namespace) -> int:
    """Print the confusion table and the accuracy as Markdown."""
    from map_pipeline.evaluation.blind import score

    print(score(options.folder, options.answers))
    return 0
