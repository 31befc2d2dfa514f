"""Sections of the report on protection: who is still recognised, when, and by whom."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from map_pipeline.evaluation import findings, wording
from map_pipeline.evaluation.findings import Summary, far_title, number, use
from map_pipeline.evaluation.html_page import (
    Picture,
    Plots,
    Section,
    Table,
    change,
    described,
    rate_cell,
    words,
)


def verification(summary: Summary, plots: Plots) -> Section:
    """Whether the target is seen, by method and recogniser."""
    return Section(
        "verification",
        "Verification: is the target seen?",
        [
            f"Impersonation: the share of protected photos that match {findings.probe(summary)}. "
            'Brackets hold 95 % intervals (Wilson). "Not used": the recogniser had no part in '
            "the optimisation or in training what it starts from; those left out in turn are left "
            "out with their family.",
        ],
        described(plots, psr="Rates per method", psr_by_recogniser="Rates per recogniser")
        + _histograms(summary, plots),
        _rate_tables(summary, "impersonation"),
    )


def _histograms(summary: Summary, plots: Plots) -> list[Picture]:
    leading = findings.leading_method(summary)
    names = [leading, *(name for name in findings.main_methods(summary) if name != leading)]
    return [
        replace(
            plots[f"similarities_{name}"],
            alt=f"Similarities before and after: {findings.title(summary, name)}",
            folded=name != leading,
        )
        for name in names
        if f"similarities_{name}" in plots
    ]


def dodging(summary: Summary) -> Section:
    """Whether the person is still seen, by method and recogniser."""
    return Section(
        "dodging",
        "Dodging: is the person still seen?",
        [
            "Dodging: the share of photos that no longer match another photo of the same person. A "
            "photo in which no face is found any more counts as a failure.",
        ],
        tables=_rate_tables(summary, "dodging"),
    )


def _rate_tables(summary: Summary, key: str) -> list[Table]:
    """Methods down, judges across: one table per FAR; the field's FAR first, others folded."""
    tables = []
    for far in findings.false_accept_rates(summary):
        found = {m: findings.judges(summary, m, far=far) for m in findings.table_methods(summary)}
        names = list(dict.fromkeys(e["recogniser"] for entries in found.values() for e in entries))
        rows = []
        for method, entries in found.items():
            by_name = {entry["recogniser"]: entry for entry in entries}
            mean = findings.pooled(summary, method, far=far)
            cells = [change(mean, key), *(change(by_name.get(name), key) for name in names)]
            rows.append([findings.title(summary, method), *cells])
        header = [_judge_heading(found.values(), name) for name in names]
        caption = f"{key.capitalize()} at FAR {far_title(far)}: unprotected -> protected"
        tables.append(
            Table(
                caption,
                ("method", "all left out in turn", *header),
                rows,
                far != findings.main_far(summary),
            )
        )
    return tables


def _judge_heading(found: Any, name: str) -> str:
    entry = next(e for entries in found for e in entries if e["recogniser"] == name)
    return f"{entry['title']} ({use(entry['unseen'])})"


def identification(summary: Summary) -> Section:
    """Whether a search in a gallery still finds the person."""
    methods = findings.main_methods(summary)
    found = {m: _best_known(summary["methods"][m].get("identification", [])) for m in methods}
    names = list(dict.fromkeys(name for entries in found.values() for name in entries))
    if not names:
        return Section("identification", "Identification")
    sizes = {entry["gallery"] for entries in found.values() for entry in entries.values()}
    size = findings.span(sizes)
    tables = []
    for key, label in (("rank1", "Rank 1"), ("rank5", "Rank 5")):
        rows = [
            [
                findings.title(summary, method),
                change(summary["methods"][method].get("identification_unseen"), key),
                *(change(found[method].get(name), key) for name in names),
            ]
            for method in methods
        ]
        unseen = {n: all(e[n]["unseen"] for e in found.values() if n in e) for n in names}
        header = [f"{findings.recogniser_title(summary, n)} ({use(unseen[n])})" for n in names]
        caption = f"{label}, person found: unprotected -> protected"
        tables.append(Table(caption, ("method", "all left out in turn", *header), rows))
    return Section(
        "identification",
        "Identification: is the person found in a gallery?",
        [
            f"Each photo is searched in a gallery of {size} faces that holds one other photo of "
            "everybody and the target. Rank 1 and rank 5: the share of photos whose person is the "
            "first hit, or among the first five. Lower is better for the person."
        ],
        tables=tables,
    )


def _best_known(entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Recogniser -> its entry, where it was left out if that was counted."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in sorted(entries, key=lambda e: not e["unseen"]):
        if entry["rank1"]["n"]:
            found.setdefault(entry["recogniser"], entry)
    return found


def robustness(summary: Summary, plots: Plots) -> Section:
    """The same rates after transformations; empty if there was none."""
    names = findings.transformations(summary)
    pooled = {
        m: {name: findings.pooled(summary, m, name) for name in names}
        for m in findings.main_methods(summary)
        if findings.pooled(summary, m) is not None
    }
    header = ("after", *(findings.title(summary, method) for method in pooled))
    tables = []
    for key in ("impersonation", "dodging"):
        counts = {e[key]["n"] for entries in pooled.values() for e in entries.values() if e}
        rows = [
            [
                findings.transformation_title(name),
                *(change(entries[name], key, with_n=False) for entries in pooled.values()),
            ]
            for name in names
        ]
        n = findings.span(counts)
        caption = f"{key.capitalize()}: unprotected -> protected (95 % interval), n = {n}"
        tables.append(Table(caption, header, rows))
    return Section(
        "robustness",
        "Robustness: does it survive sharing and attacks?",
        [
            "The protected photo is transformed, a face is searched in it again, and the "
            "recognisers left out judge it. The unprotected photo goes through the same."
        ],
        described(plots, robustness="Rates after each transformation"),
        tables if pooled and len(names) > 1 else (),
    )


def styles(summary: Summary) -> Section:
    """Rates for filtered sources; empty without any."""
    far = findings.main_far(summary)
    rows = [
        [
            findings.title(summary, method),
            words(entry["style"]),
            change(entry, "impersonation"),
            change(entry, "dodging"),
            number(entry["ssim"], 3),
        ]
        for method, values in findings.table_methods(summary).items()
        for entry in values.get("styles") or []
        if entry["far"] == far
    ]
    text = "The photos were filtered before they were protected; recognisers left out."
    header = ("method", "style", "impersonation", "dodging", "SSIM")
    tables = [Table(f"At FAR {far_title(far)}: unprotected -> protected", header, rows)]
    return Section(
        "styles", "Uncommon styles", [text] if rows else (), tables=tables if rows else ()
    )


def commercial(summary: Summary) -> Section:
    """What Face++ says; empty if it wasn't asked."""
    rows = [
        [
            findings.title(summary, method),
            number(found["confidence_clean"], 1),
            number(found["confidence_protected"], 1),
            str(found["confidence_protected"]["n"]),
        ]
        for method, values in summary["methods"].items()
        if (found := values.get("facepp"))
    ]
    header = ("method", "unprotected", "protected", "n")
    caption = "Mean confidence of Face++ compare, 0 to 100, that the photo shows the target"
    tables = [Table(caption, header, rows)] if rows else ()
    return Section("commercial", "Commercial service: Face++", tables=tables)


def groups(summary: Summary, plots: Plots) -> Section:
    """Rates by group of people; empty without attributes."""
    method = findings.leading_method(summary)
    gaps = (summary["methods"][method].get("groups") or {}).get("gap", {})
    tables = []
    for attribute, entries in findings.groups(summary, method).items():
        rows = [
            [
                e["group"],
                rate_cell(e["impersonation"]),
                rate_cell(e["dodging"]),
                str(e["dodging"]["n"]),
            ]
            for e in entries
        ]
        gap = gaps.get(attribute, {})
        points = [
            f"{100 * gap[key]:.1f} points" if findings.is_number(gap.get(key)) else "-"
            for key in ("impersonation", "dodging")
        ]
        rows.append(["largest gap", *points, ""])
        tables.append(Table(words(attribute), ("group", "impersonation", "dodging", "n"), rows))
    fars = findings.false_accept_rates(summary)
    lead = (
        f"{findings.title(summary, method)} at FAR {far_title(fars[0]) if fars else '-'} on "
        "recognisers left out. Small groups have wide intervals: a gap inside of them may be "
        "chance."
    )
    return Section(
        "groups",
        "Groups: is everybody protected alike?",
        [lead] if tables else [],
        described(plots, groups="Rates by group"),
        tables,
    )


def ablations(summary: Summary, plots: Plots) -> Section:
    """MAP with one part taken out; empty if there are none."""
    if len(findings.ablations(summary)) < 2:
        return Section("ablations", "Ablations")
    header, rows = wording.ablation_table(summary)
    far = far_title(findings.main_far(summary))
    caption = f"Recognisers left out, FAR {far}, 95 % intervals in brackets"
    return Section(
        "ablations",
        "Ablations: what does each part do?",
        [
            *wording.ablation_facts(summary),
            wording.OVERLAP_NOTE,
        ],
        described(plots, ablations="Rates of MAP with one part taken out"),
        [Table(caption, header, rows)],
    )


def trade_off(summary: Summary, plots: Plots) -> Section:
    """MAP in fast mode over its strengths; empty without a curve."""
    header, rows = wording.trade_off_table(summary)
    if not rows:
        return Section("trade-off", "Trade-off")
    far = far_title(findings.main_far(summary))
    caption = f"Recognisers left out, FAR {far}, 95 % intervals in brackets"
    return Section(
        "trade-off",
        "Trade-off: what does a visible change buy?",
        [wording.TRADE_OFF_NOTE],
        described(plots, trade_off="Rates against SSIM and PSNR, one point per strength"),
        [Table(caption, header, rows)],
    )
