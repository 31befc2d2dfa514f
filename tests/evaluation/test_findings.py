import json
from pathlib import Path

import pytest
from synthetic import TITLES, make_summary

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation import findings
from map_pipeline.evaluation.methods import ABLATIONS, method_names
from map_pipeline.images.degradations import TRANSFORMS


@pytest.fixture(scope="module")
def summary() -> dict:
    return make_summary(n=6)[0]


def rate(value: float, low: float, high: float, n: int = 24) -> dict:
    return {"rate": value, "low": low, "high": high, "n": n}


NOTHING = {"rate": None, "low": None, "high": None, "n": 0}


def test_a_summary_is_read_back(summary: dict, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert findings.load(tmp_path / "summary.json") == summary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "which doesn't exist"),
        ("{", "not JSON"),
        ("[1, 2]", "without config, versions"),
        ('"text"', "without config"),
        ('{"config": {}, "versions": {}, "methods": {}}', "without weights, date, photos"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_what_is_no_summary_is_refused_by_name(
    content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnknownOptionError, match=rf"`summary` must be .*'other.json'.*{message}"):
        findings.load(path)


def test_ablations_are_told_from_methods() -> None:
    assert {name for name in method_names() if findings.is_ablation(name)} == set(ABLATIONS[1:])


def test_every_transformation_has_a_title() -> None:
    assert set(findings.TRANSFORMATIONS) == set(TRANSFORMS)
    assert findings.transformation_title("purify200") == "purified, t = 200"
    assert findings.transformation_title("unheard of") == "unheard of"


def test_map_leads_where_it_was_run() -> None:
    assert findings.leading_method({"methods": {"pgd": {}, "map": {}}}) == "map"
    assert findings.leading_method({"methods": {"pgd": {}, "map-fast": {}}}) == "pgd"
    assert findings.leading_method({"methods": {"none": {}, "blur": {}, "pgd": {}}}) == "pgd"
    assert findings.leading_method({"methods": {"none": {}, "blur": {}}}) == "none"
    assert findings.leading_method({"methods": {"map-no-ema": {}}}) == "map-no-ema"
    with pytest.raises(UnknownOptionError, match="at least one method"):
        findings.leading_method({"methods": {}})


def test_one_percent_is_the_main_far_if_it_was_measured() -> None:
    assert findings.main_far({"thresholds": {"x": {"0.001": {}, "0.01": {}}}}) == "0.01"
    assert findings.main_far({"thresholds": {"x": {"0.05": {}, "0.1": {}}}}) == "0.05"


def test_pooled_rates_are_those_of_the_asked_transformation_and_far(summary: dict) -> None:
    entries = summary["methods"]["map"]["mean_unseen"]
    for transformation in ("none", "jpeg50"):
        for far in ("0.01", "0.001"):
            found = findings.pooled(summary, "map", transformation, far)
            assert found is not None
            assert found in entries
            assert (found["transformation"], found["far"]) == (transformation, far)
    assert findings.pooled(summary, "map") == findings.pooled(summary, "map", "none", "0.01")
    assert findings.pooled(summary, "map", "never done") is None


def test_a_judge_counts_with_the_photos_it_was_left_out_of(summary: dict) -> None:
    judges = findings.judges(summary, "map")
    assert {entry["recogniser"] for entry in judges} == set(TITLES)
    assert all(entry["unseen"] for entry in judges)
    counts = {entry["recogniser"]: entry["dodging"]["n"] for entry in judges}
    assert counts == {"dlib_resnet": 2, "mobilefacenet": 2, "faceres": 2, "mobileface": 6}


def test_a_judge_that_was_always_used_is_shown_as_used(summary: dict) -> None:
    entries = summary["methods"]["map"]["verification"]
    kept = [e for e in entries if e["recogniser"] == "faceres" and not e["unseen"]]
    found = findings.judges({**summary, "methods": {"map": {"verification": kept}}}, "map")
    assert [entry["unseen"] for entry in found] == [False]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.14159, "3.1 dB"),
        ({"mean": 2.0, "std": 1.0, "n": 3}, "2.0 dB"),
        ({"mean": None, "std": None, "n": 0}, "-"),
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "infinite"),
    ],
)
def test_numbers_as_text(value: object, text: str) -> None:
    assert findings.number(value, 1, " dB") == text


def test_rates_as_text() -> None:
    one = rate(0.9722, 0.858, 0.9951)
    assert findings.percent(one) == "97.2 %"
    assert findings.percent_with_interval(one) == "97.2 % (86-100)"
    for nothing in (None, NOTHING):
        assert findings.percent(nothing) == "-"
        assert findings.percent_with_interval(nothing) == "-"


@pytest.mark.parametrize(
    ("low", "high", "together"), [(0.1, 0.3, False), (0.1, 0.5, True), (0.6, 0.7, True)]
)
def test_overlap_of_intervals(low: float, high: float, together: bool) -> None:
    other = rate(0.7, 0.5, 0.9)
    assert findings.overlap(rate(0.2, low, high), other) is together
    assert findings.overlap(other, rate(0.2, low, high)) is together


def test_false_accept_rates_as_text() -> None:
    assert [findings.far_title(far) for far in ("0.01", "0.001", "0.1")] == ["1 %", "0.1 %", "10 %"]


def test_ranges_and_counts_as_text() -> None:
    assert findings.span({24, 8, 12}) == "8 to 24"
    assert findings.span([24, 24]) == "24"
    assert findings.span([]) == "0"
    assert [findings.photos(n) for n in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]
