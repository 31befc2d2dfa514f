"""Does it work alike for all people? Rates by group, and how far the groups are apart."""

import math
from collections.abc import Mapping

import pandas as pd

from map_pipeline.evaluation.protocol import Share, share_of
from map_pipeline.evaluation.skin_tone import CLASSES, skin_tone
from map_pipeline.evaluation.tables import SHARES, Table, shares, unseen, wide

SKIN_TONE = "skin tone"
LEAST_PEOPLE = 5  # of a group that is compared with others
MEASURES = SHARES[:2]


def members(photos: pd.DataFrame, attributes: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Who belongs to which group: columns "photo", "attribute", "group", in the order of tables.

    Args:
        photos: rows of `photos.csv`, for the tone of the skin.
        attributes: photo -> attribute -> group, see `dataset.read_attributes`.
    """
    given = [(name, key, value) for name, one in attributes.items() for key, value in one.items()]
    seen = photos.dropna(subset="skin_angle").drop_duplicates("photo")
    tones = [(one.photo, SKIN_TONE, skin_tone(float(one.skin_angle))) for one in seen.itertuples()]
    found = pd.DataFrame([*given, *tones], columns=["photo", "attribute", "group"])
    places = {name: place for place, name in enumerate(CLASSES)}
    order = found["group"].map(places).where(found["attribute"] == SKIN_TONE, 0)
    return (
        found.assign(order=order)
        .sort_values(["attribute", "order", "group"], kind="stable")
        .drop(columns="order")
    )


def groups(judged: pd.DataFrame, who: pd.DataFrame, titles: Mapping[str, str]) -> Table | None:
    """Rates by group of people; None without groups.

    Args:
        judged: see `tables.outcomes`; who: see `members`.
    """
    saved = _by_group(judged, who)
    if saved.empty:
        return None
    by = ["method", "attribute", "group"]
    figures = shares(saved, by, MEASURES)
    title = "Does it work alike for all people?"
    return Table("groups", title, figures, wide(figures, by, titles))


def gaps(judged: pd.DataFrame, who: pd.DataFrame, titles: Mapping[str, str]) -> Table | None:
    """Difference between the best and the worst group; None where no two are large enough.

    The two are chosen by a look at the result, so some difference is found where there is none:
    what counts is whether the interval (95 %, over people) reaches down to 0.

    Args:
        judged: see `tables.outcomes`; who: see `members`.
    """
    lines = []
    for (method, attribute), rows in _by_group(judged, who).groupby(
        ["method", "attribute"], sort=False
    ):
        for measure in MEASURES:
            large = _large_groups(rows, measure)
            if len(large) < 2:
                continue
            found = {name: share_of(one[measure], one["photo"]) for name, one in large.items()}
            worst, *_, best = sorted(found, key=lambda name: found[name].value)
            gap = gap_of(found[best], found[worst])
            sizes = (large[name]["photo"].nunique() for name in (best, worst))
            lines.append((method, attribute, measure, best, worst, *gap, *sizes))
    if not lines:
        return None
    columns = ["method", "attribute", "measure", "best", "worst", "difference", "low", "high"]
    figures = pd.DataFrame(lines, columns=[*columns, "n_best", "n_worst"])
    shown = pd.DataFrame(
        {
            "method": [titles.get(name, name) for name in figures["method"]],
            "attribute": figures["attribute"],
            "measure": figures["measure"],
            "best": [f"{one.best} (n = {one.n_best})" for one in figures.itertuples()],
            "worst": [f"{one.worst} (n = {one.n_worst})" for one in figures.itertuples()],
            "difference": [
                f"{100 * one.difference:.1f} points ({100 * one.low:.0f} to {100 * one.high:.0f})"
                for one in figures.itertuples()
            ],
        }
    )
    title = f"How far apart are the best and the worst group of at least {LEAST_PEOPLE} people?"
    return Table("group_gaps", title, figures, shown)


def gap_of(best: Share, worst: Share) -> tuple[float, float, float]:
    """The difference of two groups' shares, and its 95 % interval.

    Newcombe, Statistics in Medicine 17 (1998), method 10: from the intervals of both shares, so
    it has a width where a group is all of one kind, too.
    """
    gap = best.value - worst.value
    down = math.hypot(best.value - best.low, worst.high - worst.value)
    up = math.hypot(best.high - best.value, worst.value - worst.low)
    return gap, gap - down, gap + up


def _by_group(judged: pd.DataFrame, who: pd.DataFrame) -> pd.DataFrame:
    """What counts of each person, by method and then in the order of `who`."""
    plain = unseen(judged[judged["transformation"] == "none"])
    place = {method: place for place, method in enumerate(plain["method"].unique())}
    return who.merge(plain, on="photo").sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    )


def _large_groups(rows: pd.DataFrame, measure: str) -> dict[str, pd.DataFrame]:
    """Group of at least `LEAST_PEOPLE` -> the rows that say something of a measure."""
    known = rows.dropna(subset=measure)
    return {
        str(name): one
        for name, one in known.groupby("group", sort=False)
        if one["photo"].nunique() >= LEAST_PEOPLE
    }
