"""`map-protect profile`: where the time of a protection goes."""

import argparse
from pathlib import Path
from typing import Any

from map_pipeline.config import MODES

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
    from map_pipeline.cli.main import load_pipeline
    from map_pipeline.evaluation.profile import profile

    pipe = load_pipeline(options)
    print(profile(pipe, options.photo, options.mode, options.seed).to_markdown())
    return 0
