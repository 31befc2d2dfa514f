"""A small version of `make load`, with small networks; the long one is for the shipped ones."""

from pathlib import Path

import load
import numpy as np
import pytest

from map_pipeline import MAPPipeline


@pytest.mark.slow
def test_two_clients_get_their_own_photos_and_nothing_stays(
    editing_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    editing_pipeline.save_pretrained(tmp_path)
    outcome = load.run(clients=2, seconds=5, steps=1, checkpoint=tmp_path, keep_seconds=10)
    print(load.table(outcome))
    # Two short phases tell nothing about throughput, and two quick clients may never have to wait
    # for each other: `make load` is for that.
    broken = load.broken_rules(outcome)
    assert [one for one in broken if "throughput" not in one and "queue" not in one] == []
    assert len(outcome.together.done) >= 2
    assert all(len(one.previews) == load.PREVIEWS for one in outcome.together.visits)
    assert outcome.files[0] >= 2  # there was something to delete


def test_what_belongs_to_another_client_is_told() -> None:
    references = load.References()
    mine, other = np.zeros((2, 2)), np.ones((2, 2))
    assert references.compare("preview", mine, own=True) is None
    assert references.compare("preview", mine, own=True) is None
    assert references.compare("preview", other, own=True) == "another preview than alone"
    assert references.compare("photo", other, own=False) == "the photo isn't of the own photo"


def test_every_broken_rule_is_told() -> None:
    good = load.Visit(seconds=1, position=None)
    wrong = load.Visit(seconds=1, position=None, failure="another photo than alone")
    outcome = load.Outcome(
        alone=load.Phase(1, 10, [good, good]),
        together=load.Phase(8, 100, [good, wrong]),
        memory=(500, 800, 700),
        files=(9, 3),
        log="Traceback (most recent call last)",
    )
    assert load.broken_rules(outcome) == [
        "1 calls failed",
        "nobody was shown a position in the queue",
        "throughput fell from 12.0 to 0.6 photos a minute",
        "memory grew from 500 to 700 MB",
        "3 files weren't deleted",
        "the server's log holds an error",
    ]
