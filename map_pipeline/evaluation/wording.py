"""Sentences and tables about a run that both the report and the README tell.

Every figure comes from the summary; see `findings` for what it holds.
"""

import argparse
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from map_pipeline.cli.evaluate import add_evaluate, config_of, to_arguments
from map_pipeline.evaluation.findings import (
    PAIR,
    TRANSFORMATIONS,
    Rate,
    Summary,
    ablations,
    far_title,
    is_ablation,
    is_number,
    is_varied,
    judges,
    leading_method,
    main_far,
    number,
    on_common_photos,
    overlap,
    percent,
    percent_with_interval,
    photos,
    pooled,
    probe,
    recogniser_title,
    title,
    trade_off,
    transformation_title,
    transformations,
)
from map_pipeline.evaluation.methods.trade_off import LOW_EXPRESSION

# Options that hold a path; others, such as a checkpoint's Hub id, are cut if they look like one.
PATHS = ("pairs", "attributes", "expression_judge", "lpips", "inception", "out")
NOISE_METHODS = ("pgd", "mifgsm", "tidim", "tipim")
COMPARISON_HEADER = ["", "n", "impersonation", "dodging", "asked expression", "PSNR", "SSIM"]
TRADE_OFF_NOTE = (
    "Strength is the visible change that protection may cost, with an expression strength of "
    f"{LOW_EXPRESSION:g}; expression is how far the expression is changed, while the "
    "protection has the strength of the other methods."
)
OVERLAP_NOTE = "Where intervals overlap, this many photos leave open which is better."


def headline(summary: Summary) -> list[str]:
    """The result of the leading method in plain words, one sentence or two per entry."""
    method = leading_method(summary)
    saved, shared = pooled(summary, method), pooled(summary, method, "share")
    far = far_title(main_far(summary))
    if saved is None:
        lines = [
            "No recogniser was left out of the optimisation. What those used in it say is an upper "
            "bound of the protection."
        ]
    else:
        lines = [
            f"{title(summary, method)}, judged by recognisers left out of the optimisation "
            f"together with their family, at a false accept rate of {far}: of the protected photos "
            f"{percent_with_interval(saved['dodging'])} no longer match another photo of the same "
            f"person ({percent(saved['dodging_clean'])} before), and "
            f"{percent_with_interval(saved['impersonation'])} match {probe(summary)} "
            f"({percent(saved['impersonation_clean'])} before). Brackets hold 95 % intervals, "
            f"n = {saved['impersonation']['n']}."
        ]
    if shared is not None:
        lines.append(
            f"After half size and JPEG 75, as on sharing: dodging "
            f"{percent_with_interval(shared['dodging'])}, impersonation "
            f"{percent_with_interval(shared['impersonation'])}."
        )
    lines += robustness_facts(summary)
    unseen = [e for e in judges(summary, method) if e["unseen"] and e["dodging"]["n"]]
    if unseen:
        hardest = min(unseen, key=lambda entry: entry["dodging"]["rate"])
        rate = hardest["dodging"]
        lines.append(
            f"Hardest to dodge of those not used: {hardest['title']}, "
            f"{percent_with_interval(rate)} at FAR {far}, n = {rate['n']}."
        )
    failures = len(summary["methods"][method].get("failures", []))
    if failures:
        lines.append(f"{photos(failures)} could not be protected, counted as not protected.")
    return lines


def robustness_facts(summary: Summary) -> list[str]:
    """What weakens the leading method most, and whether two protected photos match each other."""
    method = leading_method(summary)
    entries = {name: pooled(summary, method, name) for name in transformations(summary)}
    both = entries.pop(PAIR, None)
    entries.pop("none", None)
    facts = []
    for key in ("dodging", "impersonation"):
        rates = {name: e[key] for name, e in entries.items() if e is not None and e[key]["n"]}
        if len(rates) > 1:
            name = min(rates, key=lambda name: rates[name]["rate"])
            facts.append(
                f"Of {len(rates)} transformations, {transformation_title(name)} leaves the least "
                f"{key}: {percent_with_interval(rates[name])}."
            )
    if both is not None and both["dodging"]["n"]:
        facts.append(
            "If both photos of a person are protected, "
            f"{percent_with_interval(both['dodging'])} no longer match each other "
            f"({percent(both['dodging_clean'])} before)."
        )
    return facts


def ablation_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the full method first."""
    summary = on_common_photos(summary)
    return COMPARISON_HEADER, [_comparison(summary, name) for name in ablations(summary)]


def trade_off_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows, weakest first: the protection's strength, then the expression's."""
    curves = trade_off(summary).values()
    return COMPARISON_HEADER, [_comparison(summary, name) for curve in curves for name in curve]


def _comparison(summary: Summary, name: str) -> list[str]:
    """Cells of one method for `COMPARISON_HEADER`."""
    rates, quality = _compared_rates(summary, name), summary["methods"][name]["quality"]
    n = next((str(rate["n"]) for rate in rates.values() if rate), "-")
    cells = [percent_with_interval(rate) for rate in rates.values()]
    figures = [number(quality.get("psnr"), 1, " dB"), number(quality.get("ssim"), 3)]
    return [title(summary, name), n, *cells, *figures]


def ablation_facts(summary: Summary) -> Iterator[str]:
    """One sentence per ablation: its distance to the full method in points."""
    names = ablations(summary)
    if "map" not in names:
        return
    summary = on_common_photos(summary)
    full = _compared_rates(summary, "map")
    for name in names[1:]:
        part = _compared_rates(summary, name)
        clauses = [
            f"{label} {100 * (part[label]['rate'] - full[label]['rate']):+.1f} points (intervals "
            f"{'overlap' if overlap(part[label], full[label]) else 'do not overlap'})"
            for label in full
            if (full[label] or {}).get("n") and (part[label] or {}).get("n")
        ]
        clauses += _quality_differences(summary, name)
        yield f"{title(summary, name)} against {title(summary, 'map')}: {', '.join(clauses)}."


def _compared_rates(summary: Summary, name: str) -> dict[str, Rate | None]:
    entry = pooled(summary, name) or {}
    expression = summary["methods"][name].get("expression") or {}
    return {
        "impersonation": entry.get("impersonation"),
        "dodging": entry.get("dodging"),
        "asked expression": expression.get("hits_after"),
    }


def _quality_differences(summary: Summary, name: str) -> Iterator[str]:
    full, part = (summary["methods"][method]["quality"] for method in ("map", name))
    for label, key, digits, unit in (("PSNR", "psnr", 1, " dB"), ("SSIM", "ssim", 3, "")):
        means = [(one.get(key) or {}).get("mean") for one in (part, full)]
        if all(is_number(mean) for mean in means):
            difference = round(means[0] - means[1], digits) + 0.0  # turns -0.0 into 0.0
            yield f"{label} {difference:+.{digits}f}{unit}"


def commands(summary: Summary) -> list[str]:
    """The commands whose results lie in the folder, in the order in which they were first run."""
    runs = summary.get("runs") or [summary["config"]]
    return [command({**summary, "config": config}) for config in runs]


def command(summary: Summary, only: Collection[str] = ()) -> str:
    """The command that made a summary: options that aren't the defaults, paths cut to a name.

    Args:
        only: names of options to tell; all by default.
    """
    parser = add_evaluate(argparse.ArgumentParser().add_subparsers())
    defaults = config_of(parser.parse_args([]))
    given = {
        name: _without_folder(name, value)
        for name, value in summary["config"].items()
        if value != defaults.get(name) and (not only or name in only)
    }
    return shlex.join(["map-protect", "evaluate", *to_arguments(given)])


def settings(summary: Summary) -> dict[str, str]:
    """All options as text, paths cut to a name."""
    return {
        name: _as_text(_without_folder(name, value)) for name, value in summary["config"].items()
    }


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _without_folder(name: str, value: Any) -> Any:
    """Reports are passed on: the folders of a machine concern nobody else."""
    is_path = name in PATHS or str(value).startswith(("/", ".", "~", "\\"))
    if not isinstance(value, str) or not is_path:
        return value
    return PurePath(value.replace("\\", "/")).name or value


def not_computed(summary: Summary) -> list[tuple[str, str]]:
    """(what, why) for everything that a full report holds and this summary doesn't."""
    methods, config = summary["methods"], summary["config"]
    missing = [
        (f"{title(summary, name)} on recognisers left out", "none was left out (--leave-out)")
        for name in methods
        if pooled(summary, name) is None
    ]
    missing += _missing_thresholds(summary) + _missing_transformations(summary)
    missing += _missing_quality(summary)
    options = (
        ("Expression", "expression", "no judge was given (--expression-judge)"),
        ("Groups", "groups", "no attributes were given (--attributes)"),
    )
    missing += [
        (label, why)
        for label, key, why in options
        if not any(method.get(key) for method in methods.values())
    ]
    if not set(methods) & set(NOISE_METHODS):
        missing.append(("Noise baselines", "not among the methods of this run (--methods)"))
    if not any(is_ablation(name) for name in methods):
        missing.append(("Ablations", "not asked for (--ablations)"))
    if not any(is_varied(name) for name in methods):
        missing.append(("Trade-off over the strengths", "not asked for (--trade-off)"))
    if not any(method.get("styles") for method in methods.values()):
        missing.append(("Uncommon styles of the photos", "not asked for (--styles)"))
    if not any(method.get("facepp") for method in methods.values()):
        why = "it gave no answer" if config.get("facepp") else "off by default (--facepp)"
        missing.append(("Face++ compare", why))
    if PAIR not in transformations(summary):
        missing.append(("Protected against protected", "not asked for (--protect-both)"))
    if not summary.get("weights_date"):
        missing.append(("Date of the weights", "the checkpoint doesn't tell it"))
    return missing


def _missing_thresholds(summary: Summary) -> list[tuple[str, str]]:
    names: dict[tuple[str, int], list[str]] = {}
    for name, by_far in summary["thresholds"].items():
        for far, values in by_far.items():
            if values.get("estimated") is None:
                key = far, values.get("impostor_pairs", 0)
                names.setdefault(key, []).append(recogniser_title(summary, name))
    return [
        (
            f"Thresholds at a FAR of {far_title(far)}, re-estimated for {', '.join(found)}",
            f"{pairs} pairs of strangers are too few",
        )
        for (far, pairs), found in names.items()
    ]


def _missing_transformations(summary: Summary) -> list[tuple[str, str]]:
    seen = transformations(summary)
    absent = [transformation_title(name) for name in TRANSFORMATIONS if name not in seen]
    missing = [(f"Robustness against {', '.join(absent)}", "not asked for (--transforms)")]
    if not any(name.startswith("purify") for name in seen):
        missing.append(
            ("Robustness against diffusion purification", "not asked for (--all-transforms)")
        )
    return missing if absent else missing[1:]


def _missing_quality(summary: Summary) -> list[tuple[str, str]]:
    missing = []
    for key, label in (("lpips", "LPIPS"), ("fid", "FID"), ("naturalness_after", "Naturalness")):
        values = [method.get("quality", {}).get(key) for method in summary["methods"].values()]
        reasons = {
            value.removeprefix("not computed: ") if isinstance(value, str) and value else "no value"
            for value in values
            if not isinstance(value, Mapping) or not value["n"]
        }
        missing += [(label, reason) for reason in sorted(reasons)]
    return missing
