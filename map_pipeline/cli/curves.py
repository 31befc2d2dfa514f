"""`map-protect curves`: how the losses fall, with and without projection and EMA."""

import argparse
import sys
from pathlib import Path
from typing import Any

from map_pipeline.cli.options import add_photos
from map_pipeline.config import DEFAULT_MODE, MODES

# Modules that load torch are imported in the functions, so that help and a typing error come fast.


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
    from map_pipeline.cli.main import check_writable, load_pipeline
    from map_pipeline.evaluation.curves import collect, to_markdown, write_results
    from map_pipeline.evaluation.dataset import PhotoSet
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
