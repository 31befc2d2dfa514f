"""Command line of the leave-one-out evaluation."""

import argparse
import sys
from pathlib import Path

from map_pipeline.errors import MAPError
from map_pipeline.evaluation.data import PhotoSet
from map_pipeline.evaluation.expression_judge import judge_expressions
from map_pipeline.evaluation.leave_one_out import SUMMARY_HEADER, run, summarise
from map_pipeline.expression import ExpressionEncoder
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.report import format_table


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main() -> int:
    """Run the evaluation and print its table, clean baseline -> protected."""
    parser = argparse.ArgumentParser(prog="python -m map_pipeline.evaluation", description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder or zip, see data.py")
    parser.add_argument("--target", required=True, help="id of a target in the same place")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.csv and PNGs")
    parser.add_argument("--emotion", default="happy")
    parser.add_argument("--limit", type=positive, help="protect only the first photos")
    parser.add_argument(
        "--judges",
        nargs="+",
        default=["dlib_resnet", "mobilefacenet", "faceres"],
        help="recognisers to leave out in turn, each with its family",
    )
    parser.add_argument(
        "--expression-judge", type=Path, help="converted network, see expression_judge.py"
    )
    parser.add_argument("--checkpoint", help="folder or Hub repository (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        photos = PhotoSet(options.pairs)
        pipe = MAPPipeline.from_pretrained(options.checkpoint)
        pairs = list(photos.pairs(options.limit))
        rows = run(
            pipe,
            pairs,
            photos.target(options.target),
            options.judges,
            options.emotion,
            options.out,
            options.seed,
        )
    except (MAPError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 2
    print("\n".join(format_table(SUMMARY_HEADER, list(summarise(rows)))))
    if options.expression_judge is not None:
        judge = ExpressionEncoder.from_pretrained(options.expression_judge).eval()
        print(options.emotion, judge_expressions(pipe, judge, pairs, options.out, options.emotion))
    return 0


if __name__ == "__main__":
    sys.exit(main())
