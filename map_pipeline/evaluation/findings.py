"""Look-ups in a summary, and its figures as text, for the report, the README and the plots.

A summary is the content of `summary.json`, see `map_pipeline.evaluation.summary`. A *rate* in it is
`{"rate", "low", "high", "n"}` with values in [0,1]; low and high bound its 95 % Wilson interval.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods.ablations import ABLATED
from map_pipeline.evaluation.methods.trade_off import CURVES, VARIED

Summary = Mapping[str, Any]
Rate = Mapping[str, Any]

FAR = "0.01"  # the field reports a false accept rate of 1 %; used if thresholds of it exist
REFERENCES = ("none", "blur", "mosaic")  # what people do today
REQUIRED = ("config", "versions", "weights", "date", "photos", "thresholds", "methods")
TRANSFORMATIONS = {
    "none": "as saved",
    "share": "half size + JPEG 75",
    "jpeg90": "JPEG 90",
    "jpeg75": "JPEG 75",
    "jpeg50": "JPEG 50",
    "resize50": "half size",
    "resize25": "quarter size",
    "blur": "Gaussian blur",
    "noise": "Gaussian noise",
    "squeeze4": "4-bit colours",
    "grey": "grey-scale",
}
PAIR = "protected_pair"  # the person's other photo is protected as well


def load(path: Path) -> dict[str, Any]:
    """Read a `summary.json`.

    Raises:
        UnknownOptionError: the file is missing, isn't JSON, or isn't a summary.
    """
    rule = "`summary` must be the summary.json of `map-protect evaluate`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnknownOptionError(f"{rule}, got {path.name!r}, which doesn't exist.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnknownOptionError(f"{rule}, got {path.name!r}, not JSON ({error}).") from None
    missing = [key for key in REQUIRED if not isinstance(content, dict) or key not in content]
    if missing:
        raise UnknownOptionError(f"{rule}, got {path.name!r} without {', '.join(missing)}.")
    return content


def is_ablation(method: str) -> bool:
    """Whether a method is MAP with a part taken out."""
    return method in ABLATED


def is_varied(method: str) -> bool:
    """Whether a method is MAP at one of the strengths of a trade-off curve."""
    return method in VARIED


def table_methods(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """All methods but those of the trade-off, which have a table of their own, by name."""
    return {name: one for name, one in summary["methods"].items() if not is_varied(name)}


def main_methods(summary: Summary) -> list[str]:
    """All methods but the ablations and the trade-off, in the order of the summary."""
    return [name for name in table_methods(summary) if not is_ablation(name)]


def ablations(summary: Summary) -> list[str]:
    """What the ablations are compared with, then the ablations; empty if none was run."""
    found = [name for name in summary["methods"] if is_ablation(name)]
    return ["map", *found] if found and "map" in summary["methods"] else found


def trade_off(summary: Summary) -> dict[str, dict[str, int]]:
    """Knob -> method -> its value in percent, rising; a curve has at least two points."""
    found = {
        knob: {name: percent for name, percent in curve.items() if name in summary["methods"]}
        for knob, curve in CURVES.items()
    }
    return {knob: curve for knob, curve in found.items() if len(curve) > 1}


def on_common_photos(summary: Summary) -> Summary:
    """The summary with MAP and its ablations on the photos that all of them protected."""
    common = summary.get("ablations") or {}
    methods = {
        name: {**entry, **common.get(name, {})} for name, entry in summary["methods"].items()
    }
    return {**summary, "methods": methods}


def leading_method(summary: Summary) -> str:
    """The method that headlines are about: MAP as shipped, else the first that isn't a reference.

    Raises:
        UnknownOptionError: the summary holds no method.
    """
    methods = list(summary["methods"])
    if not methods:
        raise UnknownOptionError("`summary` must hold at least one method, got none.")
    others = [name for name in main_methods(summary) if name not in REFERENCES]
    return next((name for name in ("map", *others) if name in methods), methods[0])


def title(summary: Summary, method: str) -> str:
    """What people call a method."""
    return summary["methods"][method].get("title") or method


def probe(summary: Summary) -> str:
    """What a photo is compared with to judge impersonation."""
    return summary.get("probe") or "another photo of the target"


def transformation_title(name: str) -> str:
    """What people call a transformation; an unknown name stays as it is."""
    if name.startswith("purify"):
        return f"purified, t = {name.removeprefix('purify')}"
    return "both photos protected" if name == PAIR else TRANSFORMATIONS.get(name, name)


def transformations(summary: Summary) -> list[str]:
    """All transformations that any method was judged under, in order of appearance."""
    entries = (
        entry for method in summary["methods"].values() for entry in method.get("verification", [])
    )
    return list(dict.fromkeys(entry["transformation"] for entry in entries))


def false_accept_rates(summary: Summary) -> list[str]:
    """The rates that thresholds were taken at, in order."""
    return list(dict.fromkeys(far for by_far in summary["thresholds"].values() for far in by_far))


def main_far(summary: Summary) -> str:
    """The false accept rate that headlines are about: 1 %, or else the first."""
    found = false_accept_rates(summary)
    return FAR if FAR in found or not found else found[0]


def pooled(
    summary: Summary, method: str, transformation: str = "none", far: str | None = None
) -> Mapping[str, Any] | None:
    """Rates over the recognisers left out in turn; None if none was left out.

    Args:
        far: of the thresholds; `main_far` by default.
    """
    entries = summary["methods"][method].get("mean_unseen", [])
    found = _rates_at(entries, transformation, far or main_far(summary))
    return found[0] if found and found[0]["impersonation"]["n"] else None


def _rates_at(
    entries: Sequence[Mapping[str, Any]], transformation: str, far: str
) -> list[Mapping[str, Any]]:
    return [e for e in entries if e["transformation"] == transformation and e["far"] == far]


def groups(summary: Summary, method: str) -> dict[str, list[Mapping[str, Any]]]:
    """Attribute -> the groups with their rates; empty without attributes."""
    found = summary["methods"][method].get("groups") or {}
    return {attribute: list(e) for attribute, e in found.items() if attribute != "gap" and e}


def recogniser_title(summary: Summary, name: str) -> str:
    """What people call a recogniser."""
    for method in summary["methods"].values():
        for entry in method.get("verification", []):
            if entry["recogniser"] == name:
                return entry["title"]
    return name


def use(unseen: bool) -> str:
    """Whether a recogniser had a part in the optimisation, as tables and plots say it."""
    return "not used" if unseen else "used"


def judges(
    summary: Summary, method: str, transformation: str = "none", far: str | None = None
) -> list[Mapping[str, Any]]:
    """Verification entries under one transformation at one FAR, one per recogniser.

    A recogniser that was left out for some photos counts with these only; one that was always used
    in the optimisation counts with what it has, and `unseen` tells so.
    """
    entries = summary["methods"][method].get("verification", [])
    entries = _rates_at(entries, transformation, far or main_far(summary))
    found: dict[str, Mapping[str, Any]] = {}
    for entry in sorted(entries, key=lambda e: not e["unseen"]):
        if entry["impersonation"]["n"]:
            found.setdefault(entry["recogniser"], entry)
    order = dict.fromkeys(entry["recogniser"] for entry in entries)
    return [found[name] for name in order if name in found]


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any, digits: int = 1, unit: str = "") -> str:
    """A measured value, or its mean if it is `{"mean", ...}`; "-" if there is none."""
    value = value.get("mean") if isinstance(value, Mapping) else value
    if value == math.inf:
        return "infinite"
    return f"{value:.{digits}f}{unit}" if is_number(value) else "-"


def span(counts: Collection[int]) -> str:
    """The least and the greatest of some numbers: "24", "8 to 24"; "0" if there is none."""
    return " to ".join(str(one) for one in sorted({min(counts), max(counts)})) if counts else "0"


def photos(count: int) -> str:
    """A number of photos: "1 photo", "24 photos"."""
    return f"{count} photo{'' if count == 1 else 's'}"


def percent(rate: Rate | None) -> str:
    """A rate without its interval: "97.2 %", or "-" if nothing was counted."""
    return f"{100 * rate['rate']:.1f} %" if rate and rate["n"] else "-"


def interval(rate: Rate | None) -> str:
    """The 95 % interval of a rate in percent: "90-99", or "" if nothing was counted."""
    return f"{100 * rate['low']:.0f}-{100 * rate['high']:.0f}" if rate and rate["n"] else ""


def percent_with_interval(rate: Rate | None) -> str:
    """A rate with its 95 % interval: "97.2 % (90-99)"."""
    return f"{percent(rate)} ({interval(rate)})" if rate and rate["n"] else "-"


def overlap(first: Rate, second: Rate) -> bool:
    """Whether the intervals of two rates have a point in common."""
    return first["low"] <= second["high"] and second["low"] <= first["high"]


def far_title(far: str) -> str:
    """A false accept rate in percent: "0.01" is "1 %"."""
    return f"{100 * float(far):g} %"
