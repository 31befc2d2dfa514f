"""The questions of README's tables, each a run of `map-protect evaluate` in a folder of its own.

Nothing here loads torch: the command line is made from it.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from map_pipeline.evaluation.settings import Settings

# What a shared photo goes through, and the strongest answer of an attacker: see `purify`.
SUITE_TRANSFORMS = (
    *("share", "jpeg90", "jpeg75", "jpeg50", "resize50", "resize25", "screenshot"),
    *("phone_filter", "blur", "noise", "squeeze4", "grey", "purify100", "purify200"),
)
AS_SHIPPED = {"leave_out": "none"}
HIDING = {**AS_SHIPPED, "targets": ("none",)}
NOISE = ("pgd", "mifgsm", "tidim", "tipim")


@dataclass(frozen=True)
class Part:
    """One question.

    Attributes:
        name: of its folder; question: its heading.
        settings: fields of `Settings` that differ from their defaults.
        tables: names of the tables that answer it.
        most: photos at most, None for all; quick: with `--quick`.
    """

    name: str
    question: str
    settings: Mapping[str, Any]
    tables: Sequence[str] = ("protection",)
    most: int | None = None
    quick: int = 1

    def complete(self, given: Settings, quick: bool) -> Settings:
        """What is measured, of the photos that `given` chooses."""
        bounds = [given.limit, self.most, self.quick if quick else None]
        limit = min((one for one in bounds if one is not None), default=None)
        return replace(given, **{"transforms": ("share",), **self.settings, "limit": limit})


PROTECTION = ("protection", "protection_0.001")
PARTS = (
    Part(
        "hide",
        "Hidden, are people still recognised?",
        {"methods": ("map-fast", "map"), **HIDING, "transforms": SUITE_TRANSFORMS},
        (*PROTECTION, "recognisers", "quality", "groups", "gaps", "robustness"),
        quick=6,
    ),
    Part(
        "auto",
        "And as somebody similar, a composite?",
        {"methods": ("map-fast", "map"), **AS_SHIPPED, "targets": ("auto",)},
        PROTECTION,
        quick=3,
    ),
    Part(
        "targets",
        "And as a person of the protocol?",
        {"methods": ("map-fast", "map"), **AS_SHIPPED},
        PROTECTION,
    ),
    Part(
        "left-out",
        "And by a family of recognisers that nothing was tuned on?",
        {"methods": ("map-fast", "map"), "targets": ("none",), "leave_out": "each"},
        PROTECTION,
        most=24,
    ),
    Part(
        "others",
        "What do blur, make-up and a free change of attributes achieve?",
        {"methods": ("none", "blur", "mosaic", "make-up", "free-form"), **HIDING},
        most=24,
    ),
    *(
        Part(
            f"noise-{eps}",
            f"What does noise of up to {eps} of 255 achieve?",
            {"methods": NOISE, **HIDING, "eps": float(eps)},
            most=24,
        )
        for eps in (4, 8, 16)
    ),
    Part(
        "trade-off",
        "What do margin and expression cost and buy?",
        {"methods": ("trade-off",), **HIDING},
        most=24,
    ),
    Part(
        "ablations",
        "What is each part of the method worth?",
        {"methods": ("ablations",), **HIDING},
        most=24,
    ),
    Part(
        "styles",
        "Does it work on unusual photos?",
        {"methods": ("map-fast",), **HIDING, "styles": ("all",)},
        ("styles",),
        most=12,
    ),
)
# Whose methods are drawn in one chart: all that only hide, protected with the same recognisers.
COMPARED = ("hide", "others", "noise-4", "noise-8", "noise-16")
# Line-ups: whose runs and methods are mixed, and for how many viewers there are sheets.
LINEUP_PARTS = ("hide", "others", "noise-8")
LINEUP_METHODS = ("map-fast", "map", "mifgsm", "tipim", "make-up", "free-form", "blur")
VIEWERS = 6


def options_of(settings: Settings) -> list[str]:
    """The options of `map-protect evaluate` that give these settings."""
    given: list[str] = []
    for one in fields(Settings):
        value = getattr(settings, one.name)
        if value == one.default:
            continue
        option = f"--{one.name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        given += [option, *map(str, values)]
    return given


def command(pairs: Path, out: Path, settings: Settings, more: Sequence[str] = ()) -> str:
    """What to type for one part alone.

    Args:
        more: further options, such as judges.
    """
    fixed = ["--pairs", str(pairs), "--out", str(out)]
    return "map-protect evaluate " + shlex.join([*fixed, *options_of(settings), *more])
