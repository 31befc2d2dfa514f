"""How the page works in steps, and how long that takes, without a server."""

import threading
import time
from collections.abc import Callable

import pytest

from map_pipeline import MAPPipeline
from map_pipeline.config import MODES
from map_pipeline.errors import NoFaceError
from map_pipeline.ui import texts
from map_pipeline.ui.jobs import run_in_steps
from map_pipeline.ui.models import expected_seconds, prepare_models
from map_pipeline.ui.settings import MAX_GPU_SECONDS, Choices

# Work in steps


def test_work_tells_its_steps_and_returns_its_result() -> None:
    def work(tell: Callable[[int], None]) -> str:
        for step in range(3):
            tell(step)
        return "done"

    steps = run_in_steps(work)
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "done"


def test_closing_stops_the_work_and_waits_for_its_end() -> None:
    done = []

    def work(tell: Callable[[int], None]) -> None:
        for step in range(1000):
            tell(step)
            done.append(step)
            time.sleep(0.005)

    steps = run_in_steps(work)
    threads = threading.active_count()
    next(steps)
    steps.close()
    assert len(done) < 10
    assert threading.active_count() == threads


def test_errors_of_the_work_arrive() -> None:
    def work(tell: Callable[[int], None]) -> None:
        tell(0)
        raise NoFaceError("nobody there")

    steps = run_in_steps(work)
    next(steps)
    with pytest.raises(NoFaceError, match="nobody"):
        next(steps)


def test_progress_names_the_face() -> None:
    reply = [texts.step(done, 6, faces=3) for done in range(7)]
    first, second, third = (f"Protecting face {number} of 3" for number in (1, 2, 3))
    assert reply == [first, first, second, second, third, third, "Checking the result"]


# Time


@pytest.mark.parametrize("faces", [1, 2, 50])
def test_gpu_seconds_grow_with_work_and_stay_below_the_limit(faces: int) -> None:
    for mode in MODES:
        asked = [Choices(mode=mode, steps=n).gpu_seconds(faces) for n in (1, 10, 25, 60)]
        assert asked == sorted(asked)
        assert all(isinstance(s, int) and 1 <= s <= MAX_GPU_SECONDS for s in asked)
        own = Choices(mode=mode, steps=MODES[mode].refine_steps)
        assert Choices(mode=mode).gpu_seconds(faces) == own.gpu_seconds(faces)
        # Nobody asks for less than it takes, but for the most that is lent.
        wanted = own.gpu_seconds_wanted(faces, photos=1)
        assert own.gpu_seconds(faces) >= min(wanted, MAX_GPU_SECONDS)
    assert Choices(mode="strong").gpu_seconds(1) <= 20  # a visitor's quota is two minutes a day


def test_expected_seconds_are_told_once_they_are_known() -> None:
    assert texts.expected(None) == ""
    reply = texts.expected({"fast": 12.6, "strong": 43.0})
    assert "about 13 s" in reply
    assert "about 45 s" in reply


def test_strong_mode_is_expected_to_take_longer(tiny_pipeline: MAPPipeline) -> None:
    seconds = expected_seconds(tiny_pipeline, "cpu")
    assert 0 < seconds["fast"] < seconds["strong"]


def test_detectors_share_their_networks(tiny_pipeline: MAPPipeline) -> None:
    models = prepare_models(tiny_pipeline, "cpu")
    assert set(models.protecting) == {"auto", "bundled"}
    assert models.judging is models.protecting  # on the CPU nothing needs to be copied
    assert models.protecting["bundled"].unet is tiny_pipeline.unet
