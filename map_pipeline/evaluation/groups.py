"""Does it work alike for all people? Rates by group, and how far the groups are apart."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from map_pipeline.evaluation.skin_tone import CLASSES, skin_tone
from map_pipeline.evaluation.tables import SHARES, Table, shares, unseen, wide

SKIN_TONE = "skin tone"
LEAST_PEOPLE = 5  # of a group that is compared with others
RESAMPLES, SEED = 2000, 0  # of the bootstrap
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

    Its interval (95 %) is that of a bootstrap in which people are drawn, within both groups. The
    two are chosen by a look at the result, so some difference is found where there is none: what
    counts is whether the interval reaches down to 0.

    Args:
        judged: see `tables.outcomes`; who: see `members`.
    """
    lines = []
    for (method, attribute), rows in _by_group(judged, who).groupby(
        ["method", "attribute"], sort=False
    ):
        for measure in MEASURES:
            people = _people(rows, measure)
            if len(people) < 2:
                continue
            worst, *_, best = sorted(people, key=lambda name: _share(people[name]))
            low, high = bootstrap_gap(people[best], people[worst])
            gap = _share(people[best]) - _share(people[worst])
            sizes = len(people[best]), len(people[worst])
            lines.append((method, attribute, measure, best, worst, gap, low, high, *sizes))
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


def bootstrap_gap(best: np.ndarray, worst: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the difference of two groups' shares.

    Args:
        best, worst: `[N,2]`, of each person the successes and the trials.
    """
    rng = np.random.default_rng(SEED)
    drawn = []
    for group in (best, worst):
        sums = group[rng.integers(len(group), size=(RESAMPLES, len(group)))].sum(1)  # [R,2]
        drawn.append(sums[:, 0] / sums[:, 1])
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return float(low), float(high)


def _by_group(judged: pd.DataFrame, who: pd.DataFrame) -> pd.DataFrame:
    """What counts of each person, by method and then in the order of `who`."""
    plain = unseen(judged[judged["transformation"] == "none"])
    place = {method: place for place, method in enumerate(plain["method"].unique())}
    return who.merge(plain, on="photo").sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    )


def _people(rows: pd.DataFrame, measure: str) -> dict[str, np.ndarray]:
    """Group of at least `LEAST_PEOPLE` -> `[N,2]`, see `bootstrap_gap`."""
    known = rows.dropna(subset=measure)
    counts = known.groupby(["group", "photo"], sort=False)[measure].agg(["sum", "count"])
    found = {
        str(name): one.to_numpy(dtype=float)
        for name, one in counts.groupby(level="group", sort=False)
    }
    return {name: one for name, one in found.items() if len(one) >= LEAST_PEOPLE}


def _share(people: np.ndarray) -> float:
    successes, trials = people.sum(0)
    return float(successes / trials)
