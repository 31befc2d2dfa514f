"""The field's protocols as arithmetic: thresholds, verification rates, ranks, intervals.

A protected photo *impersonates* if its similarity to another photo of the target reaches the
recogniser's threshold; it *dodges* if its similarity to another photo of the same person stays
below it. A face that is no longer found fails both: a photo in which a detector sees nobody is
ruined rather than protected, and counting it as a success would reward that.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from map_pipeline.evaluation.results import NOT_FOUND, Row

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Rate:
    """A share of trials with its Wilson interval.

    Attributes:
        rate: in [0,1]; low, high: bounds of the 95 % interval; n: trials. Without trials nothing is
            known: 0, in an interval of [0,1].
    """

    rate: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain values for JSON."""
        return asdict(self)


def wilson(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share, good for few trials and for shares of 0 and 1.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927).

    Args:
        successes: in [0,n]; n: trials, >= 1; z: quantile of the normal distribution.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"`successes` must be in [0, n] with n >= 1, got {successes} of {n}.")
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding may leave the interval of 0 or n successes some 1e-17 short of its exact end.
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == n else centre + half


def rate(outcomes: Iterable[bool]) -> Rate:
    """Share of true outcomes."""
    values = [bool(one) for one in outcomes]
    if not values:
        return Rate(0.0, 0.0, 1.0, 0)
    low, high = wilson(sum(values), len(values))
    return Rate(sum(values) / len(values), low, high, len(values))


def threshold_at_far(similarities: np.ndarray, far: float) -> float | None:
    """The lowest similarity at which at most a share `far` of impostor pairs still matches.

    Two faces match if their similarity is at least the threshold.

    Args:
        similarities: of pairs of different people, any shape.
        far: false accept rate in (0,1).

    Returns:
        None if there are fewer than `1 / far` pairs, too few to let one through.
    """
    if not 0 < far < 1:
        raise ValueError(f"`far` must be in (0, 1), got {far}.")
    values = np.sort(np.asarray(similarities, np.float64).ravel())[::-1]
    accepted = math.floor(far * len(values) + 1e-9)  # .01 * 300 is 3.0000000000000004 or 2.99...
    if accepted < 1:
        return None
    # Just above the greatest similarity that mustn't match any more.
    return float(np.nextafter(values[accepted], np.inf))


def impostors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Similarities `[2 N (N-1)]` of all pairs of photos that show different people.

    Args:
        first, second: embeddings `[N,D]` of length 1; row i of both shows person i.
    """
    photos = np.concatenate([first, second])
    person = np.tile(np.arange(len(first)), 2)
    one, other = np.triu_indices(len(photos), 1)
    strangers = person[one] != person[other]
    return (photos @ photos.T)[one[strangers], other[strangers]]


def genuine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Similarities `[N]` of each person's two photos; see `impostors`."""
    return (first * second).sum(1)


def rank(own: float, others: np.ndarray) -> int:
    """Place of a similarity among others, 1 = first; a tie goes to the person, who is found."""
    return 1 + int((np.asarray(others) > own).sum())


def impersonates(similarity: float, threshold: float) -> bool:
    """Whether a photo passes for the target; no face (`NOT_FOUND`) never does."""
    return similarity >= threshold and similarity != NOT_FOUND


def dodges(similarity: float, threshold: float) -> bool:
    """Whether a photo no longer matches its person; no face (`NOT_FOUND`) counts as a failure."""
    return similarity != NOT_FOUND and similarity < threshold


def verification(rows: Sequence[Row], thresholds: dict[str, float]) -> dict[str, dict]:
    """The four verification rates of some rows, of as many recognisers as there are.

    Args:
        rows: protected and clean similarities.
        thresholds: recogniser -> threshold; rows of other recognisers are left out.

    Returns:
        "impersonation", "impersonation_clean", "dodging", "dodging_clean" -> a `Rate` as a dict;
        dodging only counts people with a usable second photo.
    """
    judged = [(row, thresholds[row.recogniser]) for row in rows if row.recogniser in thresholds]
    person = [(row, limit) for row, limit in judged if not math.isnan(row.person_protected)]
    rates = {
        "impersonation": rate(impersonates(r.target_protected, limit) for r, limit in judged),
        "impersonation_clean": rate(impersonates(r.target_clean, limit) for r, limit in judged),
        "dodging": rate(dodges(r.person_protected, limit) for r, limit in person),
        "dodging_clean": rate(dodges(r.person_clean, limit) for r, limit in person),
    }
    return {name: value.to_dict() for name, value in rates.items()}


def identification(rows: Sequence[Row]) -> dict[str, dict]:
    """Rank-1 and rank-5 rates of some rows: how often the person is still found in the gallery.

    Returns:
        "rank1", "rank1_clean", "rank5", "rank5_clean" -> a `Rate` as a dict. Only people with a
        usable second photo count. A protected photo that failed or lost its face gains nothing: it
        counts with the place of its clean photo.
    """
    person = [row for row in rows if not math.isnan(row.person_protected)]
    rates = {}
    for limit in (1, 5):
        protected = [row.rank_protected or row.rank_clean for row in person]
        rates[f"rank{limit}"] = rate(1 <= place <= limit for place in protected)
        rates[f"rank{limit}_clean"] = rate(1 <= row.rank_clean <= limit for row in person)
    return {name: value.to_dict() for name, value in rates.items()}
