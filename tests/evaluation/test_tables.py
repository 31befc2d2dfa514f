"""Figures of reports, on rows whose outcome is known."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic import METHODS, ROW, TITLES, make_rows

from map_pipeline import MAPPipeline
from map_pipeline.evaluation import tables
from map_pipeline.evaluation.dataset import Problem
from map_pipeline.evaluation.protocol import genuine, impostors, rank, share_of, threshold_at_far
from map_pipeline.evaluation.report import Context, weight_hashes, write_report
from map_pipeline.evaluation.results import NO_SECOND, NO_TARGET, NOT_FOUND, photo_file
from map_pipeline.images import save_image, to_pil


def judged(*changes: dict) -> pd.DataFrame:
    rows = [dataclasses.replace(ROW, **change) for change in changes]
    return tables.outcomes(tables.frame(rows), {"one": 0.5})


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (0, 0, 0, 1)],
)
def test_interval_of_people_with_one_verdict_each(
    successes: int, n: int, low: float, high: float
) -> None:
    """Wilson's, as in tables."""
    found = share_of([index < successes for index in range(n)], map(str, range(n)))
    assert found == pytest.approx((successes, n, low, high), abs=1e-4)


@pytest.mark.parametrize("hits", [0, 5, 10])
def test_a_verdict_said_three_times_over_is_no_more_certain(hits: int) -> None:
    verdicts, people = [index < hits for index in range(10)], list("abcdefghij")
    once, thrice = share_of(verdicts, people), share_of(verdicts * 3, people * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert thrice.n == 30


def test_people_who_differ_less_than_chance_count_each_verdict_at_most_once() -> None:
    people = [name for name in "abcdefghij" for _ in range(4)]
    verdicts = [True, False] * 20
    alike = share_of(verdicts, people)  # all half: nothing says how much people differ
    assert (alike.low, alike.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    verdicts[0] = False
    nearly = share_of(verdicts, people)
    alone = share_of(verdicts, map(str, range(40)))
    assert (nearly.low, nearly.high) == (alone.low, alone.high)


def test_intervals_hold_where_verdicts_on_a_person_agree() -> None:
    """About 95 % of them hold the true share; if verdicts were independent, under 85 %."""
    rng = np.random.default_rng(0)
    people = [str(index) for index in range(24) for _ in range(3)]

    def holds() -> tuple[bool, bool]:
        chances = np.repeat(rng.beta(0.7 * 2 / 3, 0.3 * 2 / 3, 24), 3)
        verdicts = rng.random(72) < chances
        both = share_of(verdicts, people), share_of(verdicts, map(str, range(72)))
        return tuple(one.low <= 0.7 <= one.high for one in both)

    over_people, over_verdicts = np.mean([holds() for _ in range(1000)], axis=0)
    assert 0.92 < over_people < 0.98
    assert over_verdicts < 0.85


def test_threshold_lets_the_asked_share_of_strangers_pass() -> None:
    similarities = np.linspace(-1, 1, 1001)
    limit = threshold_at_far(similarities, 0.01)
    assert (similarities >= limit).sum() == 10
    assert threshold_at_far(similarities[:99], 0.01) is None
    with pytest.raises(ValueError, match=r"`far` must be in \(0, 1\), got 1"):
        threshold_at_far(similarities, 1)


def test_pairs_and_ranks() -> None:
    first, second = np.eye(3), np.eye(3)[[0, 1, 1]]
    np.testing.assert_allclose(genuine(first, second), [1, 1, 0])
    assert len(impostors(first, second)) == 2 * 3 * 2
    assert rank(0.5, np.array([0.9, 0.5, 0.1])) == 2


def test_outcomes_at_the_threshold() -> None:
    found = judged({}, {"target_protected": 0.49}, {"person_protected": 0.5})
    assert found["impersonation"].tolist() == [True, False, True]
    assert found["dodging"].tolist() == [True, True, False]
    assert found["dodging_clean"].tolist() == [False] * 3
    assert found["rank1_clean"].tolist() == [True] * 3
    assert not found["rank1"].any()
    assert found["rank5"].all()  # third of all


def test_a_lost_face_is_no_success() -> None:
    lost = {"target_protected": NOT_FOUND, "person_protected": NOT_FOUND, "rank_protected": 0}
    found = judged({**lost, "found": False})
    assert not found[["impersonation", "dodging"]].any(axis=None)
    assert found["rank1"].all()  # counts with the place of the clean photo


def test_people_without_a_second_photo_do_not_count_in_dodging() -> None:
    found = judged({}, {"person_clean": NO_SECOND, "person_protected": NO_SECOND})
    assert found["dodging"].count() == 1
    assert found["impersonation"].count() == 2


def test_only_hidden_people_do_not_count_in_impersonation() -> None:
    nobody = {"target_clean": NO_TARGET, "target_protected": NO_TARGET}
    found = judged(nobody, {**nobody, "person_protected": NOT_FOUND, "rank_protected": 0})
    assert found["impersonation"].count() == 0
    assert found["dodging"].tolist() == [True, False]
    figures = tables.shares(found, ["method"])
    assert "impersonation" not in tables.wide(figures, ["method"], {})
    aimed = tables.shares(judged({}), ["method"])
    assert "impersonation" in tables.wide(aimed, ["method"], {})


def test_recognisers_without_a_threshold_are_left_out() -> None:
    assert judged({"recogniser": "two"}).empty


def test_left_out_recognisers_judge_and_otherwise_unused_ones() -> None:
    both = judged({}, {"left_out": "two"})
    assert tables.unseen(both)["left_out"].tolist() == ["one"]
    rows = [
        dataclasses.replace(ROW, left_out="", recogniser=recogniser, method=method, used=used)
        for recogniser, method, used in (
            ("one", "map", True),
            ("two", "map", False),
            ("one", "blur", False),
            ("two", "blur", False),
        )
    ]
    none = tables.outcomes(tables.frame(rows), {"one": 0.5, "two": 0.5})
    # The blur used neither of them, and still has the judge that MAP has.
    found = tables.unseen(none)[["method", "recogniser"]].to_numpy().tolist()
    assert found == [["map", "two"], ["blur", "two"]]


def test_shares_carry_interval_and_n() -> None:
    outcome = [0.2, 0.9, 0.2, 0.2]
    rows = [{"photo": str(one), "person_protected": value} for one, value in enumerate(outcome)]
    line = tables.shares(judged(*rows), ["method"]).set_index("measure").loc["dodging"]
    assert (line["share"], line["n"]) == (0.75, 4)
    assert (line["low"], line["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    # Several recognisers that agree are no further people.
    twice = tables.shares(judged(*rows, *rows), ["method"]).set_index("measure").loc["dodging"]
    assert twice["n"] == 8
    assert (twice["low"], twice["high"]) == pytest.approx((line["low"], line["high"]))


def test_means_skip_what_is_not_finite() -> None:
    photos = pd.DataFrame({"method": ["map"] * 3, "psnr": [30.0, 32.0, math.inf]})
    [line] = tables.means(photos, ["method"], ["psnr"]).to_dict("records")
    assert (line["mean"], line["n"]) == (31, 2)
    assert line["std"] == pytest.approx(math.sqrt(2))


def test_tables_say_what_is_compared_without_its_motion() -> None:
    rows, photo_rows = make_rows(["000"], ["map"], ["plain"])
    photos = tables.frame([dataclasses.replace(photo_rows[0], ssim=0.7, face_ssim=0.9)])
    limits = {name: limit for name, (_, limit) in TITLES.items()}
    judged_rows = tables.outcomes(tables.frame(rows), limits)
    [main] = tables.protection(judged_rows, photos, {}).shown.to_dict("records")
    [quality] = tables.quality(photos, {}).shown.to_dict("records")
    assert main["face SSIM, motion undone"] == "0.900"
    assert (quality["face SSIM, motion undone"], quality["photo SSIM"]) == ("0.9", "0.7")


FEATURES = pd.DataFrame(
    [{"method": "map", "measure": "frechet_distance", "mean": 12.5, "std": None, "n": 9}]
)


def context(pipe: MAPPipeline, people: list[str]) -> Context:
    pairs = {"impostor_pairs": 90, "genuine_pairs": 10, "genuine_matched": 0.9}
    limits = {
        name: {
            far: {"stored": used, "estimated": None, "used": used, **pairs}
            for far, used in {"0.01": limit, "0.001": limit + 0.05}.items()
        }
        for name, (_, limit) in TITLES.items()
    }
    return Context(
        config={"pairs": "<b>pairs</b>.zip"},
        pipe=pipe,
        titles={name: one[0] for name, one in METHODS.items()},
        thresholds=limits,
        weights=weight_hashes(pipe, None),
        attributes={name: {"gender": "male" if int(name) % 2 else "female"} for name in people},
        problems=[Problem("<script>alert(1)</script>.png", "must be a whole picture")],
        judge="the judge",
        features=FEATURES,
        probe="another photo of the target",
    )


@pytest.fixture
def report(tiny_pipeline: MAPPipeline, tmp_path: Path) -> Path:
    """A whole report of made-up rows; the folder."""
    people = [f"{index:03d}" for index in range(9)]
    rows, photos = make_rows(people, ["map", "blur"], ["plain", "grey"])
    photos[0] = dataclasses.replace(photos[0], status="`image` must show a <face>")
    picture = to_pil(np.full((60, 40, 3), 99, np.uint8))
    for row in photos:
        save_image(picture, photo_file(tmp_path, "source", row.photo))
        save_image(picture, photo_file(tmp_path, row.method, row.photo, row.left_out))
    write_report(tmp_path, rows, photos, context(tiny_pipeline, people))
    return tmp_path


@pytest.mark.slow
def test_a_report_holds_every_table_and_chart(report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text())
    assert set(summary["tables"]) == {
        *(
            "protection",
            "protection_0.001",
            "recognisers",
            "robustness",
            "quality",
            "groups",
            "styles",
        ),
        *("expression", "thresholds"),
    }
    assert summary["photos"] == 9
    assert FEATURES.to_dict("records")[0] in summary["tables"]["quality"]
    for name in ("protection", "robustness", "visible_change", "similarities"):
        with Image.open(report / f"{name}.png") as chart:
            assert min(chart.size) > 200
    markdown = (report / "report.md").read_text()
    assert markdown.count("\n## ") + 1 >= 8
    assert METHODS["map"][0] in markdown


@pytest.mark.slow
def test_the_page_holds_its_pictures_and_escapes_what_users_named(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5  # four charts and the contact sheet
    assert 'src="http' not in page
    assert "<script>" not in page
    assert "<b>pairs</b>" not in page
    assert "&lt;face&gt;" in page


@pytest.mark.slow
def test_figures_in_the_page_are_those_of_the_rows(report: Path) -> None:
    figures = pd.DataFrame(
        json.loads((report / "summary.json").read_text())["tables"]["protection"]
    )
    line = figures.query("method == 'map' and transformation == 'none' and measure == 'dodging'")
    [share], [n] = line["share"], line["n"]
    assert n == 9  # the left-out recogniser of each plain photo
    assert f"{100 * share:.1f} %" in (report / "report.html").read_text()


@pytest.mark.slow
def test_fewer_photos_match_at_a_stricter_rate(report: Path) -> None:
    found = json.loads((report / "summary.json").read_text())["tables"]
    usual, strict = (
        pd.DataFrame(found[name]).set_index(["method", "transformation", "measure"])["share"]
        for name in ("protection", "protection_0.001")
    )
    strict, usual = strict.align(usual, join="left")
    dodging = strict.index.get_level_values("measure").str.startswith("dodging")
    assert (strict >= usual)[dodging].all()
    assert (strict <= usual)[~dodging].all()
    assert (strict != usual).any()
