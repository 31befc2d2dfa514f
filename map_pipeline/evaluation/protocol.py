"""The field's protocols as arithmetic: thresholds, pairs of strangers, ranks, intervals.

A protected photo *impersonates* if its similarity to another photo of the target reaches the
recogniser's threshold; it *dodges* if its similarity to another photo of the same person stays
below it. A face that is no longer found fails both: a photo in which a detector sees nobody is
ruined rather than protected, and counting it as a success would reward that.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm


class Share(NamedTuple):
    """How many of `n` verdicts are true, and the 95 % interval of their share."""

    hits: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share in [0,1]; NaN without verdicts."""
        return self.hits / self.n if self.n else math.nan


def share_of(verdicts: Iterable[bool], people: Iterable[str]) -> Share:
    """The share of true verdicts, with an interval over people; (0, 1) without verdicts.

    Wilson's interval (J. Am. Stat. Assoc. 22, 1927), good for few trials and for shares of 0 and
    1. Several verdicts on one person say little more than one, so it is that of as many independent
    verdicts as would vary as much as people do (Korn and Graubard, Survey Methodology 24, 1998),
    and of one for each person where all of them are alike.

    Args:
        people: whom each verdict is about.
    """
    _, person = np.unique(np.array(list(people), str), return_inverse=True)
    hits = np.bincount(person, weights=np.array(list(verdicts), float))
    trials = np.bincount(person)
    n = int(trials.sum())
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    share = hits.sum() / n
    apart = hits - share * trials  # how far each person is from the mean
    independent = len(trials)
    if not np.allclose(apart, 0):
        independent = min(n, share * (1 - share) * n**2 / (apart**2).sum())
    return Share(int(hits.sum()), n, *_wilson(share, independent))


def _wilson(share: float, trials: float) -> tuple[float, float]:
    z = norm.ppf(0.975)
    middle = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low, high = ((middle + side) / (1 + z**2 / trials) for side in (-half, half))
    return max(float(low), 0.0), min(float(high), 1.0)


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
