"""From rows to tables; no figure of a report comes from elsewhere.

Each table exists twice: its figures in long form, one row for each share or mean, and as people
read it. A share comes with n verdicts and its 95 % interval over people, a mean with its standard
deviation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from map_pipeline.evaluation.protocol import share_of
from map_pipeline.evaluation.results import NOT_FOUND, PhotoRow, Row

Limits = Mapping[str, float]
"""Recogniser -> threshold in use."""

SHARES = ("impersonation", "dodging", "rank1", "rank5")
FACE_PSNR, FACE_SSIM = "face PSNR, motion undone", "face SSIM, motion undone"
# Columns of `PhotoRow` -> what tables call them. The whole photo is compared as it is.
MEANS = {
    "face_psnr": FACE_PSNR,
    "face_ssim": FACE_SSIM,
    "patches": "share of patchy skin",
    "psnr": "photo PSNR",
    "ssim": "photo SSIM",
}
NO_FACE = "no face"  # what the expression judge "sees" where no face was found
SHARED = "share"  # the transformation that stands for what happens to a shared photo


@dataclass(frozen=True)
class Table:
    """One answer.

    Attributes:
        name: of the figures in `summary.json`; title: the question it answers.
        figures: long form; shown: what people read, all text.
    """

    name: str
    title: str
    figures: pd.DataFrame
    shown: pd.DataFrame


def frame(rows: Sequence[Row | PhotoRow]) -> pd.DataFrame:
    """Rows of a CSV file as a data frame with their columns."""
    return pd.DataFrame([asdict(row) for row in rows])


def outcomes(rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """Rows of recognisers with a threshold, with what each photo achieved.

    Returns:
        the columns of `rows` and nullable booleans "impersonation", "dodging", "rank1", "rank5"
        and the same ending in "_clean" for the unprotected photo. Dodging and ranks are missing
        for people without a usable second photo, impersonation for those who are only hidden. A
        protected photo that failed or lost its face gains nothing in a search: it counts with the
        place of its clean photo.
    """
    judged = rows[rows["recogniser"].isin(list(limits))].copy()
    limit = judged["recogniser"].map(dict(limits)).astype(float)
    nobody, hidden = judged["person_protected"].isna(), judged["target_protected"].isna()
    for state, ending in (("protected", ""), ("clean", "_clean")):
        target, person = judged[f"target_{state}"], judged[f"person_{state}"]
        passes = (target >= limit) & (target != NOT_FOUND)
        escapes = (person < limit) & (person != NOT_FOUND)
        place = judged[f"rank_{state}"].where(judged[f"rank_{state}"] > 0, judged["rank_clean"])
        judged[f"impersonation{ending}"] = passes.astype("boolean").mask(hidden)
        judged[f"dodging{ending}"] = escapes.astype("boolean").mask(nobody)
        for most in (1, 5):
            judged[f"rank{most}{ending}"] = (place <= most).astype("boolean").mask(nobody)
    return judged


def unseen(judged: pd.DataFrame) -> pd.DataFrame:
    """What recognisers say that were left out of the optimisation of the photo they judge.

    Where none was left out, those stand in that no method is optimised against, so that the same
    ones judge all methods.
    """
    left_out = judged[judged["recogniser"] == judged["left_out"]]
    used = judged.loc[judged["used"], "recogniser"]
    return left_out if len(left_out) else judged[~judged["recogniser"].isin(used)]


def shares(
    judged: pd.DataFrame, by: Sequence[str], measures: Sequence[str] = SHARES
) -> pd.DataFrame:
    """Long form: `by`, "measure", "share", "low", "high", "n", before ("_clean") and after."""
    lines = []
    for key, group in judged.groupby(list(by), sort=False, dropna=False):
        for measure in measures:
            for column in (measure, f"{measure}_clean"):
                known = group[column].dropna()
                one = share_of(known, group["photo"][known.index])
                lines.append((*key, column, one.value, one.low, one.high, one.n))
    return pd.DataFrame(lines, columns=[*by, "measure", "share", "low", "high", "n"])


def _finite(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values).replace([float("inf"), float("-inf")], float("nan"))


def means(photos: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Long form: `by`, "measure", "mean", "std", "n" of the finite values."""
    long = photos[[*by, *columns]].melt(list(by), list(columns), "measure", "value")
    long["value"] = _finite(long["value"])
    grouped = long.groupby([*by, "measure"], sort=False)["value"]
    return grouped.agg(["mean", "std", "count"]).reset_index().rename(columns={"count": "n"})


def protection(judged: pd.DataFrame, photos: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    """The main table: every method against recognisers that it never saw."""
    hidden = unseen(judged)
    hidden = hidden[hidden["transformation"].isin(["none", SHARED])]
    figures = shares(hidden, ["method", "transformation"])
    cell = _cells(figures, ["method", "transformation"])
    lines = []
    for method, group in photos.groupby("method", sort=False):
        done = group[group["status"] == "ok"]

        def after(measure: str, transformation: str = "none", method: str = method) -> str:
            return cell.get((method, transformation, measure), "-")

        lines.append(
            {
                "method": titles.get(method, method),
                "photos": len(group),
                "impersonation": _change(after, "impersonation"),
                "shared": after("impersonation", SHARED),
                "dodging": _change(after, "dodging"),
                "shared ": after("dodging", SHARED),
                "found first": _change(after, "rank1"),
                "among first 5": _change(after, "rank5"),
                FACE_SSIM: _number(done["face_ssim"].mean(), ".3f"),
                FACE_PSNR: _number(_finite(done["face_psnr"]).mean(), ".1f"),
                "patchy skin": _number(100 * done["patches"].mean(), ".1f") + " %",
                "seconds": _number(done["seconds"].median(), ".1f"),
                "failed": len(group) - len(done),
            }
        )
    shown = pd.DataFrame(lines)
    if hides_only(figures):
        shown = shown.drop(columns=["impersonation", "shared"])
    title = "Do recognisers that were left out still see the person, or the target?"
    return Table("protection", title, figures, shown)


def hides_only(figures: pd.DataFrame) -> bool:
    """Whether shares say nothing of impersonation, because nobody had a target."""
    return not figures.loc[figures["measure"] == "impersonation", "n"].any()


def strict(judged: pd.DataFrame, far: str, titles: Mapping[str, str]) -> Table:
    """The same by recognisers that let fewer strangers pass.

    Args:
        judged: see `outcomes`, at the thresholds of the false accept rate `far`.
    """
    hidden = unseen(judged)
    hidden = hidden[hidden["transformation"].isin(["none", SHARED])]
    by = ["method", "transformation"]
    figures = shares(hidden, by, SHARES[:2])
    title = f"And at a false accept rate of {100 * float(far):g} %?"
    return Table(f"protection_{far}", title, figures, wide(figures, by, titles))


def recognisers(judged: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    """Every recogniser, optimised against and not."""
    plain = judged[judged["transformation"] == "none"]
    by = ["method", "recogniser", "used"]
    figures = shares(plain, by, SHARES[:2])
    shown = wide(figures, by, titles).sort_values(["method", "recogniser"], kind="stable")
    shown["used"] = shown["used"].map({True: "yes", False: "no"})
    return Table("recognisers", "What does each recogniser say?", figures, shown)


def robustness(judged: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    """After JPEG, resizing and the like, on recognisers left out."""
    by = ["method", "transformation"]
    figures = shares(unseen(judged), by, SHARES[:2])
    title = "Does it last after JPEG, resizing and other treatment?"
    return Table("robustness", title, figures, wide(figures, by, titles))


def quality(
    photos: pd.DataFrame, titles: Mapping[str, str], features: pd.DataFrame | None = None
) -> Table:
    """Similarity of the face and of the whole photo before and after, and cost.

    Args:
        features: further measures, see `report.measure_features`.
    """
    done = photos[photos["status"] == "ok"]
    cost = ["seconds", "peak_memory_mb", "unet_calls", "recogniser_calls"]
    figures = means(done, ["method"], [*MEANS, *cost])
    if features is not None:
        figures = pd.concat([figures, features], ignore_index=True)
    wide = figures.pivot(index="method", columns="measure", values="mean")
    wide = wide.dropna(axis="columns", how="all").reindex(list(dict.fromkeys(done["method"])))
    shown = wide.map(lambda value: _number(value, ".4g"))
    shown.insert(0, "method_", [titles.get(name, name) for name in wide.index])
    shown = shown.rename(columns={**MEANS, "method_": "method"}).reset_index(drop=True)
    return Table("quality", "How much does the photo change, and at what cost?", figures, shown)


def styles(judged: pd.DataFrame, photos: pd.DataFrame, titles: Mapping[str, str]) -> Table | None:
    """Rates for each style of the source photos; None if there are only plain ones."""
    if set(photos["style"]) <= {"plain"}:
        return None
    with_style = unseen(judged[judged["transformation"] == "none"])
    by = ["method", "style"]
    figures = shares(with_style, by, SHARES[:2])
    title = "Does it work on unusual photos?"
    return Table("styles", title, figures, wide(figures, by, titles))


def expression(photos: pd.DataFrame, titles: Mapping[str, str], judge: str) -> Table | None:
    """What a held-out expression network sees; None if nothing was judged.

    A lost face and a failed photo count as misses.
    """
    seen = photos[photos["emotion_before"] != ""]
    if seen.empty:
        return None
    seen = seen.assign(
        asked=(seen["emotion_after"].map(_strongest) == seen["emotion"]).astype("boolean"),
        asked_clean=(seen["emotion_before"].map(_strongest) == seen["emotion"]).astype("boolean"),
    )
    by = ["method", "emotion"]
    figures = shares(seen, by, ["asked"])
    title = f"Is the asked expression the strongest one to {judge}?"
    return Table("expression", title, figures, wide(figures, by, titles))


def facepp(photos: pd.DataFrame, titles: Mapping[str, str]) -> Table | None:
    """Face++'s confidence that the photo shows the target; None if it wasn't asked."""
    columns = ["facepp_clean", "facepp_protected"]
    if photos[columns].isna().all(axis=None):
        return None
    figures = means(photos, ["method"], columns)
    wide = figures.pivot(index="method", columns="measure", values="mean")[columns]
    shown = wide.map(lambda value: _number(value, ".1f")).reset_index()
    shown["method"] = shown["method"].map(lambda name: titles.get(name, name))
    return Table("facepp", "How sure is Face++ that it sees the target?", figures, shown)


def thresholds(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Thresholds stored with the recognisers, and those that the clean pairs give."""
    lines = [
        {"recogniser": name, "FAR": far, **one}
        for name, by_far in found.items()
        for far, one in by_far.items()
    ]
    figures = pd.DataFrame(lines)
    shown = figures.copy()
    for column in ("stored", "estimated", "used", "genuine_matched"):
        shown[column] = shown[column].map(lambda value: _number(value, ".3f"))
    title = "From which cosine similarity on do two faces count as one person?"
    return Table("thresholds", title, figures, shown)


def _cells(figures: pd.DataFrame, by: Sequence[str]) -> dict[tuple, str]:
    """(*by, measure) -> "97.9 % (89-100)", or "-" without trials."""
    return {
        tuple(getattr(one, name) for name in (*by, "measure")): _share(one)
        for one in figures.itertuples()
    }


def wide(figures: pd.DataFrame, by: Sequence[str], titles: Mapping[str, str]) -> pd.DataFrame:
    """One line for each of `by`, with "before -> after" for each measure."""
    cell = _cells(figures, by)
    measures = [name for name in dict.fromkeys(figures["measure"]) if not name.endswith("_clean")]
    if hides_only(figures):
        measures = [name for name in measures if name != "impersonation"]
    lines = []
    for key, group in figures.groupby(list(by), sort=False):
        line: dict[str, Any] = dict(zip(by, key, strict=True))
        line["n"] = int(group["n"].max())
        for measure in measures:
            line[measure] = _change(lambda name, key=key: cell.get((*key, name), "-"), measure)
        lines.append(line)
    shown = pd.DataFrame(lines)
    if "method" in shown:
        shown["method"] = shown["method"].map(lambda name: titles.get(name, name))
    return shown


def _change(cell: Any, measure: str) -> str:
    before, after = cell(f"{measure}_clean"), cell(measure)
    return after if before == "-" else f"{before.split(' (')[0]} -> {after}"


def _share(one: Any) -> str:
    if not one.n:
        return "-"
    return f"{100 * one.share:.1f} % ({100 * one.low:.0f}-{100 * one.high:.0f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or pd.isna(value) else format(value, form)


def _strongest(text: str) -> str:
    probabilities = json.loads(text or "{}")
    return max(probabilities, key=probabilities.__getitem__) if probabilities else NO_FACE
