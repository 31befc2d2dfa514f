"""Files stay whole whenever a run is killed: simulated at every single operation."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import QUICK

from map_pipeline.training import run_state
from map_pipeline.training.run_state import Progress, find_state, replacing, save_state


class Killed(BaseException):
    """Ends the simulated process; nothing may catch it."""


@contextmanager
def killed_at(count: int) -> Iterator[list[str]]:
    """Let `count` operations on files happen; the next one and all later ones kill the process.

    Yields:
        names of the operations that happened.
    """
    happened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "rmdir", "unlink", "open"):
            original = getattr(os, name)

            def operation(
                *args: object, _do: Callable = original, _name: str = name, **options: object
            ) -> object:
                if len(happened) >= count:
                    raise Killed
                happened.append(_name)
                return _do(*args, **options)

            patch.setattr(os, name, operation)
        yield happened


class Saver:
    """Stands for accelerate: a state of two files that must stem from the same save."""

    def __init__(self, number: int) -> None:
        self.number = number

    def save_state(self, folder: str) -> None:
        os.makedirs(folder)
        for name in ("model", "optimizer"):
            file = os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY)
            os.write(file, b"half")
            os.close(file)
            os.replace(f"{folder}/{name}", f"{folder}/{name}")  # one more chance to be killed
            Path(folder, name).write_text(str(self.number))


def content(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def die_everywhere(act: Callable[[], None], prepare: Callable[[], None]) -> Iterator[int]:
    """Run `act` and kill it at each of its operations; yields after every death."""
    for count in range(1000):
        prepare()
        with killed_at(count):
            try:
                act()
            except Killed:
                pass
            else:
                assert count > 5
                return
        yield count


def state_numbers(folder: Path) -> set[str]:
    state = find_state(folder)
    assert state is not None
    assert set(content(state)) == {"model", "optimizer"}
    return set(content(state).values())


def test_one_whole_state_survives_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    seen = set()

    def start_anew() -> None:
        for path in tmp_path.iterdir():
            run_state.shutil.rmtree(path)
        save_state(Saver(1), folder)

    for _ in die_everywhere(lambda: save_state(Saver(2), folder), start_anew):
        [number] = state_numbers(folder)
        assert number in ("1", "2")
        seen.add(number)
        # Whatever the kill left behind is in nobody's way.
        save_state(Saver(3), folder)
        assert state_numbers(folder) == {"3"}
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert seen == {"1", "2"}


def test_two_kills_in_a_row(tmp_path: Path) -> None:
    """Also a save that starts from any remains leaves a whole state when it is killed."""
    for first in range(16):  # more than a save has operations
        folder = tmp_path / str(first) / "state"
        save_state(Saver(1), folder)
        for second in range(0, 16, 2):
            for count, number in ((first, 2), (second, 3)):
                with killed_at(count), suppress(Killed):
                    save_state(Saver(number), folder)
                assert len(state_numbers(folder)) == 1


def test_no_state_before_the_first_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def start_anew() -> None:
        for path in tmp_path.iterdir():
            run_state.shutil.rmtree(path)

    for _ in die_everywhere(lambda: save_state(Saver(1), folder), start_anew):
        assert find_state(folder) is None or state_numbers(folder) == {"1"}


def write(out: Path, number: int) -> None:
    with replacing(out) as new:
        for name in ("unet/config", "unet/weights", "conditioner/weights", "answer"):
            path = new / name
            if not path.parent.exists():
                os.mkdir(path.parent)
            os.close(os.open(path, os.O_CREAT))
            path.write_text(f"{name} {number}")


def test_each_file_is_whole_and_the_last_tells_of_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, 1)
    names = set(content(out))
    assert names == {"unet/config", "unet/weights", "conditioner/weights", "answer"}

    for _ in die_everywhere(lambda: write(out, 2), lambda: write(out, 1)):
        found = {k: v for k, v in content(out).items() if not k.startswith(".new")}
        assert found.keys() == names
        assert all(value in (f"{name} 1", f"{name} 2") for name, value in found.items())
        if found["answer"] == "answer 2":
            assert all(value.endswith("2") for value in found.values())


def test_a_failure_while_writing_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    before = content(tmp_path)

    def fail() -> None:
        with replacing(tmp_path) as new:
            (new / "answer").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert content(tmp_path) == before


def test_files_of_other_origin_stay(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "note").write_text("mine")
    write(tmp_path, 1)
    assert content(tmp_path)["unet/note"] == "mine"


class Clock:
    """Minutes that pass when asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minutes = 100.0
        monkeypatch.setattr(run_state.time, "monotonic", lambda: self.minutes * 60)


def test_learning_rate_rises_stays_and_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    progress = Progress(replace(QUICK, updates=100, warmup=10, cooldown=0.2))
    rates = []
    while progress.share < 1:
        rates.append(progress.rate)
        progress.advance()
    assert len(rates) == 100
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(20 - i) / 20 for i in range(20)])
    assert progress.rate == 1e-3
    assert Progress(replace(QUICK, updates=3, warmup=0, cooldown=0)).rate == 1


def test_learning_rate_may_fall_like_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    progress = Progress(replace(QUICK, updates=100, warmup=10, cooldown=1.0))
    rates = []
    while progress.share < 1:
        rates.append(progress.cosine_rate)
        progress.advance()
    falls = [(1 + math.cos(math.pi * i / 100)) / 2 for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 * falls[i] for i in range(10)])
    assert rates[10:-5] == pytest.approx(falls[10:-5])
    assert progress.cosine_rate == 1e-3


def test_time_and_updates_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(replace(QUICK, updates=100, minutes=10, warmup=0, cooldown=0.5))
    assert progress.share == 0
    progress.advance()
    assert progress.share == 0.01
    clock.minutes += 7.5
    assert progress.minutes == pytest.approx(7.5)
    assert progress.share == pytest.approx(0.75)
    assert progress.rate == pytest.approx(0.5)
    clock.minutes += 2.5
    assert progress.share >= 1


def test_time_before_a_stop_counts_and_the_pause_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(QUICK)
    progress.start()
    clock.minutes += 4
    for _ in range(3):
        progress.advance()
    state = progress.state_dict()
    clock.minutes += 1000
    resumed = Progress(QUICK)
    resumed.load_state_dict(state)
    assert resumed.update == 3
    assert resumed.minutes == pytest.approx(4)
    clock.minutes += 1
    assert resumed.minutes == pytest.approx(5)
