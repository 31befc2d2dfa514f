"""Options and their types that several commands of the evaluation share."""

import argparse
from pathlib import Path
from typing import Any


def add_photos(parser: Any, required: bool = False) -> None:
    """Add the options that choose photos and targets to a parser or one of its groups."""
    parser.add_argument(
        "--pairs",
        type=Path,
        required=required,
        help="folder or zip with NAME_a.* (to protect) and NAME_b.* (another photo of the same "
        "person), or with one folder per identity; targets as ID_enroll.* and ID_probe.*",
    )
    parser.add_argument(
        "--targets",
        type=names,
        help="ids of targets, names of built-in composites, or auto, used in turn "
        "(default: all in --pairs, else auto)",
    )
    parser.add_argument("--skip", type=whole, default=0, help="leave out the first photos")
    parser.add_argument("--limit", type=positive, help="protect only so many photos")


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once, for argparse."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError("must hold at least one name")
    return found


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def whole(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def rates(text: str) -> tuple[float, ...]:
    """False accept rates in (0,1) separated by commas, for argparse."""
    values = tuple(float(one) for one in names(text))
    if not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"must lie in (0, 1), got {text}")
    return values
