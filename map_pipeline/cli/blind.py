"""`map-protect blind`: name the emotions of protected faces without knowing what was asked."""

import argparse
from pathlib import Path
from typing import Any

# Modules that load torch are imported in the functions, so that help and a typing error come fast.


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
