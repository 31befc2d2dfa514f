"""The announced seconds follow what was measured."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from PIL import Image

from map_pipeline.ui import service as service_module
from map_pipeline.ui.durations import FORWARDS, KEPT, Durations
from map_pipeline.ui.service import Failed, Job, Progress, Protected, ProtectionService, Update
from map_pipeline.ui.settings import Choices

CALIBRATED = {"fast": 8.0, "strong": 35.0}
PHOTO = Image.new("RGB", (8, 8))
BOX = (0.0, 0.0, 4.0, 4.0)


def test_calibration_counts_until_something_was_measured() -> None:
    durations = Durations()
    assert durations.expected(None) is None
    assert durations.expected(CALIBRATED) == CALIBRATED
    durations.add("fast", 5.0)
    assert durations.expected(CALIBRATED)["fast"] == pytest.approx(5.0)
    assert durations.expected(None)["fast"] == pytest.approx(5.0)


def test_one_mode_tells_about_the_other_until_that_was_measured() -> None:
    durations = Durations()
    durations.add("strong", 2 * FORWARDS["strong"])
    assert durations.expected(CALIBRATED)["fast"] == pytest.approx(2 * FORWARDS["fast"])
    durations.add("fast", 1.0)
    expected = {"fast": 1.0, "strong": 2 * FORWARDS["strong"]}
    assert durations.expected(CALIBRATED) == pytest.approx(expected)


def test_one_slow_run_changes_little_and_old_ones_are_forgotten() -> None:
    durations = Durations()
    for seconds in (5.0, 5.2, 60.0):
        durations.add("fast", seconds)
    assert durations.expected(None)["fast"] == pytest.approx(5.2)
    for _ in range(KEPT):
        durations.add("fast", 9.0)
    assert durations.expected(None)["fast"] == pytest.approx(9.0)


def updates(clock: list[float], work: float) -> Iterator[Update]:
    clock[0] += 100  # waiting for a GPU
    yield Progress(0, 1, "working")
    clock[0] += work
    yield Protected(PHOTO, [])


@pytest.mark.parametrize(("steps", "expected"), [(0, 6.0), (1, CALIBRATED["fast"])])
def test_a_run_is_timed_from_its_first_update_and_per_face(
    monkeypatch: pytest.MonkeyPatch, steps: int, expected: float
) -> None:
    clock = [0.0]
    monkeypatch.setattr(service_module.time, "perf_counter", lambda: clock[0])
    models = SimpleNamespace(seconds=CALIBRATED)
    service = ProtectionService(lambda: models, background=False)
    # Somebody's own number of steps says nothing about the mode.
    job = Job(PHOTO, "auto", (BOX, BOX), ("happy", "happy"), Choices(mode="fast", steps=steps))
    passed = list(service.timed([job], updates(clock, work=12.0)))
    assert [type(one) for one in passed] == [Progress, Protected]
    assert service.expected_seconds()["fast"] == pytest.approx(expected)


def test_every_photo_of_a_batch_is_timed_by_itself_but_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(service_module.time, "perf_counter", lambda: clock[0])
    service = ProtectionService(lambda: SimpleNamespace(seconds=CALIBRATED), background=False)
    one, two = (
        Job(PHOTO, "auto", (BOX,) * faces, ("happy",) * faces, Choices()) for faces in (1, 2)
    )

    def run() -> Iterator[Update]:
        yield from updates(clock, work=4.0)
        yield Progress(0, 1, "working")
        clock[0] += 90
        yield Failed("too dark")
        yield from updates(clock, work=12.0)

    assert len(list(service.timed([one, one, two], run()))) == 6
    assert service.expected_seconds()["fast"] == pytest.approx(5.0)  # of 4 and 6
