"""Draws the cases of a fuzz campaign and counts what became of them."""

import contextlib
import faulthandler
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from page_process import memory

HANG = 30  # seconds of computing from which an answer comes too late
DEAD = 400  # seconds on the wall, of a machine that may be busy, after which a leg is ended
BATCH = 100  # cases drawn at once


@dataclass
class Row:
    """What one kind of input did at one entrance."""

    leg: str
    kind: str
    thrown: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What a leg did, and the memory (MB) of the process under test when warm and at the end."""

    rows: list[Row]
    before: float
    after: float
    seconds: float = 0.0


class Tally:
    """Counts outcomes; what was thrown last stays in a file and survives a crash.

    `clock` gives the computing time of the process under test, so that what else the machine does
    makes nothing slow.
    """

    def __init__(self, leg: str, keep: Path) -> None:
        self.leg, self.keep, self.clock = leg, keep, time.process_time
        self.rows: dict[str, Row] = {}

    def throw(self, kind: str, case: Any, call: Callable[[], bool]) -> None:
        """Run `call`, which returns whether the input was accepted and raises on a failure."""
        row = self.rows.setdefault(kind, Row(self.leg, kind))
        row.thrown += 1
        (self.keep / f"last-{self.leg}").write_bytes(as_bytes(case))
        faulthandler.dump_traceback_later(DEAD, exit=True)
        started = self.clock()
        try:
            accepted = call()
        except Exception as error:
            self.fail(row, case, f"{type(error).__name__}: {str(error)[:300]}")
        else:
            row.accepted += accepted
            row.refused += not accepted
        seconds = self.clock() - started
        row.slowest = max(row.slowest, seconds)
        if seconds > HANG:
            self.fail(row, case, f"took {seconds:.0f} s")
        faulthandler.cancel_dump_traceback_later()

    def fail(self, row: Row, case: Any, text: str) -> None:
        """Note a failure and keep what caused it."""
        number = sum(len(one.failures) for one in self.rows.values())
        (self.keep / f"{self.leg}-{number}.bin").write_bytes(as_bytes(case))
        row.failures.append(f"{self.leg}-{number}.bin: {text}")


def as_bytes(case: Any) -> bytes:
    return case if isinstance(case, bytes) else repr(case)[:5000].encode(errors="replace")


def resting_memory(pid: int) -> float:
    """Resident memory of a process that may still be busy with what it was asked, MB."""
    sizes = []
    for _ in range(20):
        sizes.append(memory(pid))
        time.sleep(0.5)
    return min(sizes)


def computing_time(pid: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_time() -> float:
    """Computing time of all processes that this one started and that have ended, s."""
    times = os.times()
    return times.children_user + times.children_system


def settled_memory() -> float:
    """Resident memory of this process when all that is free has been given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return memory()


def draw(strategy: st.SearchStrategy, seed: int, count: int = BATCH) -> list:
    """Examples of a strategy; the same seed gives the same."""
    found: list = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


def cases(
    strategies: dict[str, st.SearchStrategy], seed: int, seconds: float, count: int
) -> Iterator[tuple[str, Any]]:
    """Kinds and cases, all strategies in turn, until time or number are used up."""
    end, done = time.monotonic() + seconds, 0
    for batch in range(10**6):
        for kind, strategy in strategies.items():
            for case in draw(strategy, seed + batch):
                if time.monotonic() > end or done >= count:
                    return
                yield kind, case
                done += 1
