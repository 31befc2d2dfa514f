"""Settings of an evaluation, and what of them reaches the methods."""

from pathlib import Path

import pytest

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods import create
from map_pipeline.evaluation.settings import Settings, check_same_run


def test_skipped_photos_are_left_out_before_counting() -> None:
    assert list(Settings(skip=2, limit=3).chosen(10)) == [2, 3, 4]
    assert list(Settings(skip=2).chosen(4)) == [2, 3]
    assert list(Settings(limit=3).chosen(2)) == [0, 1]
    assert list(Settings(skip=5).chosen(3)) == []


def test_only_strengths_that_were_given_reach_the_methods() -> None:
    assert Settings().method_options == {"eps": 8.0}
    given = Settings(margin="high", expression_strength=0.0).method_options
    assert given["settings"] == {"margin": "high", "expression_strength": 0.0}
    assert create("map", **given).settings == given["settings"]
    assert create("pgd", **given).eps == 8.0  # settings of MAP don't concern noise


@pytest.mark.parametrize("name", ["map-no-edit", "map-identity-only"])
def test_what_makes_an_ablation_wins_over_the_settings(name: str) -> None:
    given = Settings(expression_strength=1.0, margin="high").method_options
    assert create(name, **given).settings == {"margin": "high", "expression_strength": 0.0}


def test_settings_are_compared_by_value(tmp_path: Path) -> None:
    check_same_run(tmp_path, {"far": (0.1, 0.2), "weights": {"unet": "ab"}})
    check_same_run(tmp_path, {"weights": {"unet": "ab"}, "far": [0.1, 0.2]})
    with pytest.raises(UnknownOptionError, match="weights"):
        check_same_run(tmp_path, {"far": [0.1, 0.2], "weights": {"unet": "cd"}})
