"""`map-protect evaluate video`: clips protected and judged by recognisers that were left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from map_pipeline.cli.options import Inline, Model, check_writable, load_pipeline
from map_pipeline.config import DEFAULT_MARGIN, DEFAULT_MODE, DEFAULT_TARGET
from map_pipeline.errors import check_setting

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Options:
    """Protect clips and measure the result: dodging per frame and of the mean, flicker, speed.

    Each recogniser of the surrogates is left out once, with its family, and judges. The clips that
    were protected stay in the folder, and a second run measures what is there.

    Attributes:
        clips: Clips of one person each.
        out: Folder of the protected clips and of video.csv.
        references: Another photo of each clip's person, in the same order. Without them the mean of
            the original clip is what the person is recognised by, which is harder to escape.
        leave_out: Leave recognisers out in turn, or none: then all of them judge.
        mode: fast or strong.
        target: As for `map-protect protect`.
        emotion: Expression to show.
        margin: As for `map-protect protect`.
        seed: Same seed, same result.
    """

    clips: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    references: tuple[Path, ...] = ()
    leave_out: Literal["rotate", "none"] = "rotate"
    mode: Literal["fast", "strong"] = DEFAULT_MODE
    target: str = DEFAULT_TARGET
    emotion: str = "happy"
    margin: str = DEFAULT_MARGIN
    seed: int = 0
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        fits = len(self.references) in (0, len(self.clips))
        check_setting(self, "references", fits, f"none or one for each of {len(self.clips)} clips")


def run(options: Options) -> int:
    """Protect what is missing, measure everything and print the table."""
    import pandas as pd

    from map_pipeline.evaluation.leave_one_out import rotation
    from map_pipeline.video.reading import open_clip

    check_writable("--out", options.out)
    for clip in options.clips:
        open_clip(clip)
    pipe = load_pipeline(options.model)
    rows = []
    references = options.references or (None,) * len(options.clips)
    for clip, reference in zip(options.clips, references, strict=True):
        for left_out in rotation(pipe, options.leave_out):
            rows += measure(pipe, clip, reference, left_out, options)
            table = pd.DataFrame(rows)
            table.to_csv(options.out / "video.csv", index=False)
    print(table.to_markdown(index=False, floatfmt=".3f"))
    return 0


def measure(
    pipe: "MAPPipeline", clip: Path, reference: Path | None, left_out: str, options: Options
) -> Sequence[dict[str, Any]]:
    """Rows of one clip.

    Args:
        reference: another photo of the person.
        left_out: recogniser that judges; "" for all of them.
    """
    import time

    import torch

    from map_pipeline.evaluation.leave_one_out import leave_one_out, surrogates_without
    from map_pipeline.evaluation.video import compare_clips

    name = f"{clip.stem}.without_{left_out}.mp4" if left_out else f"{clip.stem}.mp4"
    output, seconds = options.out / name, float("nan")
    if not output.exists():
        started = time.perf_counter()
        leave_one_out(pipe, left_out).protect_video(
            clip,
            output,
            emotion=options.emotion,
            target=options.target,
            mode=options.mode,
            margin=options.margin,
            surrogates=surrogates_without(pipe, left_out),
            generator=torch.Generator().manual_seed(options.seed),
        )
        seconds = time.perf_counter() - started
    judges = [left_out] if left_out else list(pipe.recognisers)
    scores, calm = compare_clips(pipe, clip, output, judges, reference)
    return [
        {
            "clip": clip.stem,
            "judge": score.judge,
            "frames": score.frames,
            "dodged": score.dodged,
            "dodged before": score.dodged_before,
            "mean dodged": score.mean_dodged,
            "similarity of means": score.mean_similarity,
            "threshold": score.threshold,
            "longest match": score.longest_match,
            "flicker": calm.flicker,
            "residual flicker": calm.residual_flicker,
            "frames per second": score.frames / seconds,
        }
        for score in scores
    ]
