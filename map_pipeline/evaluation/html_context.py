"""Sections of the report on all but protection: set-up, looks, cost, and what is missing."""

from collections.abc import Mapping
from typing import Any

from map_pipeline.evaluation import findings, published, wording
from map_pipeline.evaluation.findings import Summary, far_title, number
from map_pipeline.evaluation.html_page import Cell, Plots, Section, Table, described, rate_cell


def measured(summary: Summary) -> Section:
    """The run: photos, methods, versions, thresholds, hashes, and the command."""
    facts = {
        "photos": str(summary["photos"]),
        "methods": ", ".join(findings.title(summary, name) for name in summary["methods"]),
        "seed": str(summary["config"].get("seed", "-")),
        "measured on": summary["date"],
        "date of the weights": summary.get("weights_date") or "unknown",
        "impersonation is judged against": findings.probe(summary),
        "faces found by": summary.get("detector", "-"),
        "thresholds": summary["config"].get("thresholds", "stored"),
        "versions": ", ".join(f"{name} {value}" for name, value in summary["versions"].items()),
    }
    weights = [[name, value] for name, value in summary["weights"].items()]
    config = [list(pair) for pair in wording.settings(summary).items()]
    return Section(
        "measured",
        "What was measured",
        [
            "Faces are searched anew in every picture. A recogniser takes two faces for one person "
            "if their similarity reaches its threshold; the false accept rate (FAR) is the share "
            "of pairs of strangers that it takes for one person at this threshold. Unprotected "
            "photos are judged in the same way and always stand beside the result. The command, "
            "with folders left out:"
        ],
        command=wording.command(summary),
        tables=[
            Table("This run", ("", ""), [list(pair) for pair in facts.items()]),
            _thresholds(summary),
            Table("Hashes of the weights (SHA-256)", ("part", "hash"), weights, folded=True),
            Table("All settings", ("setting", "value"), config, folded=True),
        ],
    )


def _thresholds(summary: Summary) -> Table:
    rows = []
    for name, by_far in summary["thresholds"].items():
        for far, values in by_far.items():
            stored, estimated = values.get("stored"), values.get("estimated")
            both = findings.is_number(stored) and findings.is_number(estimated)
            rows.append(
                [
                    findings.recogniser_title(summary, name),
                    far_title(far),
                    number(stored, 3),
                    number(estimated, 3),
                    f"{estimated - stored:+.3f}" if both else "-",
                    rate_cell(values.get("genuine_matched")),
                    str(values.get("impostor_pairs", "-")),
                    str(values.get("genuine_pairs", "-")),
                ]
            )
    return Table(
        "Thresholds: stored with the recogniser, and re-estimated on these unprotected photos",
        (
            "recogniser",
            "FAR",
            "stored",
            "re-estimated",
            "difference",
            "clean pairs that match",
            "pairs of strangers",
            "pairs of one person",
        ),
        rows,
    )


QUALITY = (
    ("psnr", "PSNR", 1, " dB"),
    ("ssim", "SSIM", 3, ""),
    ("ms_ssim", "MS-SSIM", 3, ""),
    ("lpips", "LPIPS", 3, ""),
    ("fid", "FID", 1, ""),
    ("naturalness_before", "naturalness before", 1, " dB"),
    ("naturalness_after", "naturalness after", 1, " dB"),
)


def quality(summary: Summary) -> Section:
    """How much the photos were changed."""
    rows = [
        [
            findings.title(summary, name),
            *(_quality_cell(values["quality"].get(k), d, unit) for k, _, d, unit in QUALITY),
        ]
        for name, values in findings.table_methods(summary).items()
    ]
    return Section(
        "quality",
        "Quality: how much was changed?",
        [
            "Of the whole photo, protected against original; mean and standard deviation. Higher "
            "is closer for PSNR, SSIM and MS-SSIM, lower for LPIPS and FID. Naturalness is how "
            "well our own face model predicts the face: higher is more like the faces it knows."
        ],
        tables=[Table("Quality", ("method", *(label for _, label, _, _ in QUALITY)), rows)],
    )


def _quality_cell(value: Any, digits: int, unit: str) -> Cell:
    if isinstance(value, str):  # the reason stands under "not computed"
        return "not computed"
    text = number(value, digits, unit)
    several = isinstance(value, Mapping) and value["n"] > 1
    deviation = value["std"] if several else None
    return (text, f"± {number(deviation, digits)}") if findings.is_number(deviation) else text


def expression(summary: Summary, plots: Plots) -> Section:
    """How often the asked emotion is seen; empty without a judge."""
    methods = findings.table_methods(summary)
    found = {m: v["expression"] for m, v in methods.items() if v.get("expression")}
    if not found:
        return Section("expression", "Expression")
    rows = [
        [
            findings.title(summary, method),
            rate_cell(entry["hits_before"]),
            rate_cell(entry["hits_after"]),
            number(entry["probability_before"], 2),
            number(entry["probability_after"], 2),
            str(entry["hits_after"]["n"]),
        ]
        for method, entry in found.items()
    ]
    header = ("method", "on top before", "on top after", "probability before", "after", "n")
    judge = next(iter(found.values()))["judge"]
    return Section(
        "expression",
        "Expression: is the asked emotion seen?",
        [f"Judged by {judge}, which has no part in the optimisation."],
        described(plots, expression="Emotions asked for and seen"),
        [Table("The asked emotion", header, rows)],
    )


def cost(summary: Summary) -> Section:
    """Time, memory and calls per photo."""
    rows = [
        [
            findings.title(summary, name),
            number(cost["seconds_median"], 1, " s"),
            number(cost["seconds_p90"], 1, " s"),
            number(cost["peak_memory_mb"], 0, " MB"),
            number(cost["unet_calls"], 0),
            number(cost["recogniser_calls"], 0),
            str(cost["n"]),
        ]
        for name, values in findings.table_methods(summary).items()
        if (cost := values.get("cost")) and cost["n"]
    ]
    header = (
        "method",
        "median",
        "90 % take at most",
        "peak memory",
        "U-Net calls",
        "recogniser calls",
        "n",
    )
    return Section(
        "cost",
        "Cost per photo",
        [
            "Time and calls: median over the photos; memory: the highest. A call is one forward "
            "pass, however large its batch."
        ],
        tables=[Table("Cost per photo", header, rows)],
    )


def problems(summary: Summary) -> Section:
    """Files and photos that failed, by name."""
    files = [[one["name"], one["rule"]] for one in summary.get("problems", [])]
    failures = [
        [one["photo"], findings.title(summary, method), one["status"]]
        for method, values in summary["methods"].items()
        for one in values.get("failures", [])
    ]
    tables = []
    if files:
        tables.append(Table("Files that could not be used", ("name", "why"), files))
    if failures:
        caption = "Photos that could not be protected; they count as not protected"
        tables.append(Table(caption, ("photo", "method", "why"), failures))
    text = "" if tables else "Every file could be used and every photo could be protected."
    return Section("problems", "Problems and failures", [text] if text else [], tables=tables)


def missing(summary: Summary) -> Section:
    """What wasn't computed, and why."""
    rows = [list(pair) for pair in wording.not_computed(summary)]
    tables = [Table("Not computed", ("what", "why"), rows)] if rows else []
    return Section("not-computed", "What was not computed", tables=tables)


def published_figures() -> Section:
    """What other methods' papers report, under its own heading."""
    sources = published.SOURCES.items()
    return Section(
        "published",
        "Published figures of other methods",
        [published.NOTE, f"Sources: {'; '.join(f'({k}) {v}' for k, v in sources)}."],
        tables=[
            Table(
                "Impersonation at FAR 1 % in %, as published: CelebA-HQ, average with LADN",
                published.IMPERSONATION_HEADER,
                published.impersonation_rows(),
            ),
            Table(
                "Dodging at FAR 0.1 % in %, as published: CelebA-HQ, against the same photo",
                published.DODGING_HEADER,
                published.dodging_rows(),
            ),
        ],
    )
