"""Rates by group, on people whose outcome is known."""

import dataclasses

import pandas as pd
import pytest
from synthetic import ROW, make_rows

from map_pipeline.evaluation import tables
from map_pipeline.evaluation.groups import LEAST_PEOPLE, gap_of, gaps, groups, members
from map_pipeline.evaluation.protocol import share_of

ANGLES = {"000": 60.0, "001": 50.0, "002": -40.0, "003": None, "004": 12.0}


def people(count: int, judges: tuple[str, ...] = ("one",)) -> pd.DataFrame:
    """Judged rows of people, of whom every second dodges."""
    rows = [
        dataclasses.replace(
            ROW,
            photo=f"{index:03d}",
            recogniser=judge,
            left_out=judge,
            person_protected=0.2 if index % 2 else 0.9,
        )
        for index in range(count)
        for judge in judges
    ]
    return tables.outcomes(tables.frame(rows), dict.fromkeys(judges, 0.5))


def photos(angles: dict[str, float | None]) -> pd.DataFrame:
    _, rows = make_rows(list(angles), ["map", "blur"], ["plain"])
    return tables.frame(dataclasses.replace(row, skin_angle=angles[row.photo]) for row in rows)


def known(attributes: dict[str, dict[str, str]]) -> pd.DataFrame:
    return members(photos(dict.fromkeys(attributes)), attributes)


def test_tones_stand_from_light_to_dark_beside_other_attributes() -> None:
    who = members(photos(ANGLES), {"000": {"gender": "male"}, "004": {"gender": "female"}})
    assert who.to_records(index=False).tolist() == [
        ("004", "gender", "female"),
        ("000", "gender", "male"),
        ("000", "skin tone", "very light"),
        ("001", "skin tone", "light"),
        ("004", "skin tone", "tan"),
        ("002", "skin tone", "dark"),
    ]


def test_without_groups_there_is_no_table() -> None:
    nobody = members(photos(dict.fromkeys(ANGLES)), {})
    assert groups(people(5), nobody, {}) is None
    assert gaps(people(5), nobody, {}) is None


def test_rates_of_a_group() -> None:
    who = known({f"{index:03d}": {"gender": "male"} for index in range(4)})
    table = groups(people(6), who, {"map": "MAP"})
    [line] = table.figures.query("measure == 'dodging'").to_dict("records")
    assert (line["group"], line["share"], line["n"]) == ("male", 0.5, 4)
    assert table.shown["method"].tolist() == ["MAP"]


def test_methods_stay_together() -> None:
    judged = pd.concat([people(4), people(4).assign(method="blur")])
    who = known({f"{i:03d}": {"gender": "male" if i < 2 else "female"} for i in range(4)})
    shown = groups(judged, who, {}).shown
    assert shown["method"].tolist() == ["map", "map", "blur", "blur"]
    assert shown["group"].tolist() == ["female", "male"] * 2


def test_gap_of_the_best_and_the_worst_group() -> None:
    """All dodge, half of them, none; a smaller group counts as little as a single judge."""
    odd, even = range(1, 40, 2), range(0, 40, 2)
    chosen = {
        "all": list(odd)[:6],
        "half": [*list(odd)[6:10], *list(even)[:4]],
        "none": list(even)[4:12],
        "few": list(even)[12 : 12 + LEAST_PEOPLE - 1],
    }
    who = known({f"{i:03d}": {"size": name} for name, some in chosen.items() for i in some})
    judged = people(40, ("one", "two"))
    [_, line] = gaps(judged, who, {}).figures.to_dict("records")
    assert (line["measure"], line["best"], line["worst"]) == ("dodging", "all", "none")
    assert (line["difference"], line["high"]) == (1, 1)
    assert line["low"] == pytest.approx(0.5, abs=0.02)  # 6 and 8 people can't show more
    assert (line["n_best"], line["n_worst"]) == (6, 8)  # people, not verdicts
    halves = gaps(judged, who[who["group"].isin(["all", "half"])], {})
    [_, line] = halves.figures.to_dict("records")
    assert line["difference"] == 0.5
    assert 0 <= line["low"] < 0.5 < line["high"] < 1
    assert halves.shown["difference"].iloc[1].startswith("50.0 points (")


def test_groups_that_are_alike_have_an_interval_around_nothing() -> None:
    who = known({f"{i:03d}": {"half": "left" if i % 4 < 2 else "right"} for i in range(40)})
    [_, line] = gaps(people(40), who, {}).figures.to_dict("records")
    assert line["difference"] == 0
    assert line["low"] < 0 < line["high"]
    assert line["best"] != line["worst"]


@pytest.mark.parametrize(
    ("best", "worst", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((10, 10), (0, 10), 0.6075, 1),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ],
)
def test_interval_of_a_gap(
    best: tuple[int, int], worst: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe's own examples."""
    shares = [
        share_of([index < hits for index in range(n)], map(str, range(n)))
        for hits, n in (best, worst)
    ]
    assert gap_of(*shares)[1:] == pytest.approx((low, high), abs=1e-4)


def test_a_gap_between_groups_that_always_dodge_is_not_known_to_be_nothing() -> None:
    who = known({f"{i:03d}": {"half": "left" if i % 4 < 2 else "right"} for i in range(40)})
    judged = people(40).assign(dodging=True)
    [_, line] = gaps(judged, who, {}).figures.to_dict("records")
    assert line["difference"] == 0
    assert line["low"] == pytest.approx(-0.16, abs=0.01)  # Wilson's interval of 20 of 20
    assert line["high"] == pytest.approx(0.16, abs=0.01)
