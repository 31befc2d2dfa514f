"""How long protecting a face takes here: by a short calibration first, then as was measured."""

import statistics
import threading
from collections import deque
from collections.abc import Mapping

# What one face takes in each mode, in forward passes as `models.forward_seconds` times them.
FORWARDS = {"fast": 40, "strong": 130}
KEPT = 9  # runs whose median counts: the load of a machine changes, and so do photos


class Durations:
    """The seconds that a face took lately, mode by mode."""

    def __init__(self) -> None:
        self._measured = {mode: deque[float](maxlen=KEPT) for mode in FORWARDS}
        self._lock = threading.Lock()

    def add(self, mode: str, seconds: float) -> None:
        """Remember what a face took in this mode."""
        with self._lock:
            self._measured[mode].append(seconds)

    def expected(self, calibrated: Mapping[str, float] | None) -> Mapping[str, float] | None:
        """Mode -> seconds that a face will take.

        Args:
            calibrated: the same as long as nothing was measured; None if that isn't known either.
        """
        with self._lock:
            passes = {
                mode: statistics.median(seconds) / FORWARDS[mode]
                for mode, seconds in self._measured.items()
                if seconds
            }
        if not passes:
            return calibrated
        # A mode that wasn't measured takes as much longer or shorter as it has more or less to do.
        other = statistics.mean(passes.values())
        return {mode: FORWARDS[mode] * passes.get(mode, other) for mode in FORWARDS}
