import dataclasses
import itertools
import math

import numpy as np
import pytest

from map_pipeline.evaluation.results import NO_SECOND, NOT_FOUND, Row
from map_pipeline.evaluation.verification import (
    Rate,
    dodges,
    genuine,
    identification,
    impersonates,
    impostors,
    rank,
    rate,
    threshold_at_far,
    verification,
    wilson,
)

ROW = Row(
    photo="001",
    method="map",
    left_out="one",
    recogniser="one",
    used=False,
    transformation="none",
    found=True,
    target_clean=0.1,
    target_protected=0.6,
    person_clean=0.9,
    person_protected=0.3,
    rank_clean=1,
    rank_protected=4,
)
LOST = dataclasses.replace(
    ROW,
    found=False,
    target_protected=NOT_FOUND,
    person_protected=NOT_FOUND,
    rank_protected=0,
)
ALONE = dataclasses.replace(
    ROW, person_clean=NO_SECOND, person_protected=NO_SECOND, rank_clean=0, rank_protected=0
)


def unit_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # scipy.stats.binomtest(successes, n).proportion_ci(.95, "wilson"), scipy 1.17.1
        (11, 12, 0.6461200889, 0.9851349056),
        (35, 36, 0.8583028135, 0.9950795929),
        (24, 24, 0.8620237953, 1.0),
        (0, 24, 0.0, 0.1379762047),
        (1, 2, 0.0945312057, 0.9054687943),
        (1, 1, 0.2065493144, 1.0),
        (437, 1000, 0.4065562469, 0.4679259247),
    ],
)
def test_wilson_equals_scipy(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("n", [1, 7, 100])
def test_wilson_bounds_solve_the_score_equation(n: int) -> None:
    """Both bounds p satisfy (share - p)^2 = z^2 p (1 - p) / n, which defines them."""
    for successes in range(n + 1):
        low, high = wilson(successes, n, z=2.0)
        assert 0 <= low <= successes / n <= high <= 1
        for p in (low, high):
            assert (successes / n - p) ** 2 == pytest.approx(4 * p * (1 - p) / n, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_needs_trials(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"in \\[0, n\\].*got {successes} of {n}"):
        wilson(successes, n)


def test_rate() -> None:
    low, high = wilson(2, 3)
    assert rate([True, False, True]) == Rate(2 / 3, low, high, 3)
    assert rate([]) == Rate(0.0, 0.0, 1.0, 0)


def test_threshold_of_known_similarities() -> None:
    """Of .00, .01 ... .99 exactly one value is allowed at FAR 1 %, and ten are at 10 %."""
    similarities = np.random.default_rng(0).permutation(np.arange(100) / 100)
    for far, accepted in ((0.01, 1), (0.1, 10), (0.5, 50)):
        threshold = threshold_at_far(similarities, far)
        assert (similarities >= threshold).sum() == accepted
        assert threshold == pytest.approx(0.99 - accepted / 100)


@pytest.mark.parametrize("far", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("n", [1000, 1999, 9900])
def test_threshold_is_the_lowest_that_keeps_the_rate(far: float, n: int) -> None:
    """Brute force over all candidates, and numpy's quantile within one step of the sample."""
    similarities = np.random.default_rng(n).normal(0, 0.1, n)
    threshold = threshold_at_far(similarities, far)
    candidates = np.sort(np.append(similarities, np.nextafter(similarities, np.inf)))
    allowed = [one for one in candidates[::-1] if (similarities >= one).mean() <= far]
    assert threshold == min(allowed)
    ordered = np.sort(similarities)
    quantile = np.quantile(similarities, 1 - far)
    step = np.diff(ordered)[-int(far * n) - 2 :].max()
    assert abs(threshold - quantile) <= step


def test_ties_never_exceed_the_rate() -> None:
    similarities = np.array([0.5] * 3 + [0.1] * 97)
    threshold = threshold_at_far(similarities, 0.02)
    assert threshold > 0.5  # any lower, and three of 100 would match
    assert (similarities >= threshold).mean() == 0


def test_too_few_pairs_give_no_threshold() -> None:
    assert threshold_at_far(np.zeros(99), 0.01) is None
    assert threshold_at_far(np.zeros(0), 0.01) is None
    assert threshold_at_far(np.arange(100) / 100, 0.01) is not None
    with pytest.raises(ValueError, match=r"`far` must be in \(0, 1\), got 1"):
        threshold_at_far(np.zeros(99), 1)


def test_pairs_of_known_embeddings() -> None:
    first, second = unit_vectors(7, 5), unit_vectors(7, 5, seed=1)
    photos = [(i, face) for faces in (first, second) for i, face in enumerate(faces)]
    pairs = itertools.combinations(photos, 2)
    expected = [one @ other for (i, one), (j, other) in pairs if i != j]
    assert len(expected) == 2 * 7 * 6
    np.testing.assert_allclose(np.sort(impostors(first, second)), np.sort(expected))
    np.testing.assert_allclose(genuine(first, second), [first[i] @ second[i] for i in range(7)])


def test_shuffled_pairs_match_as_often_as_the_far() -> None:
    """Pairs of strangers, taken for pairs of one person, must match at the FAR: no more, no less.

    The threshold comes from one half of the people and is tried on the other.
    """
    first = unit_vectors(600, 32)
    second = 0.9 * first + 0.3 * unit_vectors(600, 32, seed=1)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    shuffled = impostors(first[300:], second[300:])
    for far in (0.01, 0.001):
        threshold = threshold_at_far(impostors(first[:300], second[:300]), far)
        matched = (shuffled >= threshold).mean()
        assert 0.7 * far < matched < 1.4 * far
        assert (genuine(first, second) >= threshold).mean() > 0.99


def test_ranks() -> None:
    others = np.array([0.9, 0.2, 0.5])
    assert [rank(own, others) for own in (0.95, 0.7, 0.3, 0.1)] == [1, 2, 3, 4]
    assert rank(0.9, others) == 1  # a tie goes to the person
    assert rank(0.5, np.zeros(0)) == 1


def test_the_threshold_itself_matches() -> None:
    assert impersonates(0.5, 0.5)
    assert not dodges(0.5, 0.5)
    assert dodges(0.4999, 0.5)
    assert not impersonates(0.4999, 0.5)


def test_a_lost_face_fails_both_tests() -> None:
    rates = verification([LOST, ROW], {"one": 0.5})
    assert rates["impersonation"]["rate"] == rates["dodging"]["rate"] == 0.5
    assert rates["impersonation"]["n"] == rates["dodging"]["n"] == 2


def test_verification_counts() -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, target_protected=0.49, person_protected=0.5),
        dataclasses.replace(ROW, target_clean=0.5, person_clean=0.49),
        dataclasses.replace(ROW, recogniser="unmeasured", target_protected=1.0),
        ALONE,
    ]
    found = verification(rows, {"one": 0.5})
    shares = {name: (value["rate"], value["n"]) for name, value in found.items()}
    assert shares == {
        "impersonation": (3 / 4, 4),
        "impersonation_clean": (1 / 4, 4),
        # The person without a second photo can't be counted.
        "dodging": (2 / 3, 3),
        "dodging_clean": (1 / 3, 3),
    }
    assert (found["dodging"]["low"], found["dodging"]["high"]) == wilson(2, 3)


def test_recognisers_with_their_own_thresholds_are_pooled() -> None:
    rows = [ROW, dataclasses.replace(ROW, recogniser="other")]
    assert verification(rows, {"one": 0.5, "other": 0.7})["impersonation"]["rate"] == 0.5


def test_identification_counts() -> None:
    rows = [
        ROW,  # 1 -> 4
        dataclasses.replace(ROW, rank_clean=3, rank_protected=6),
        dataclasses.replace(ROW, rank_clean=1, rank_protected=1),
        LOST,  # gains nothing: counts with its clean place, 1
        ALONE,
    ]
    found = identification(rows)
    shares = {name: (value["rate"], value["n"]) for name, value in found.items()}
    assert shares == {
        "rank1": (2 / 4, 4),
        "rank1_clean": (3 / 4, 4),
        "rank5": (3 / 4, 4),
        "rank5_clean": (1.0, 4),
    }


def test_nobody_with_a_second_photo() -> None:
    assert verification([ALONE], {"one": 0.5})["dodging"]["n"] == 0
    assert identification([ALONE])["rank1"]["n"] == 0
    assert not any(math.isnan(one["rate"]) for one in identification([ALONE]).values())
