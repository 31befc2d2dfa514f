"""The rate limit of a public page."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from map_pipeline.errors import MAPError


class RateLimitError(MAPError):
    """A visitor asked for more than the deployment allows."""


class RateLimit:
    """At most `calls` in any `seconds` for each visitor; 0 calls: no limit.

    Visitors are kept in memory only, as a hash of their address with a key of this process.
    """

    def __init__(
        self, calls: int, seconds: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._calls, self._seconds, self._clock = calls, seconds, clock
        self._seen: dict[int, deque[float]] = {}
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    def count(self, visitor: str, calls: int = 1) -> None:
        """Count a call, or several at once.

        Raises:
            RateLimitError: that was too many; none of them is counted.
        """
        if self._calls == 0:
            return
        with self._lock:
            now = self._clock()
            self._forget(now - self._seconds)
            times = self._seen.setdefault(hash((self._key, visitor)), deque())
            free = self._calls - len(times)
            if calls > free:
                raise RateLimitError(self._refusal(calls, free, times, now))
            times.extend([now] * calls)

    def _refusal(self, calls: int, free: int, times: deque[float], now: float) -> str:
        rule = (
            f"This page protects at most {self._calls} photos per visitor in "
            f"{_duration(self._seconds)}."
        )
        if free:
            return f"{rule} {free} of your {calls} photos can be protected now."
        wait = max(1, round(times[0] + self._seconds - now))
        return f"{rule} Please come back in {_duration(wait)}."

    def _forget(self, before: float) -> None:
        for visitor, times in list(self._seen.items()):
            while times and times[0] <= before:
                times.popleft()
            if not times:
                del self._seen[visitor]


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} seconds"
    minutes = -(-seconds // 60)
    return f"{minutes} minutes" if minutes < 120 else f"{-(-minutes // 60)} hours"
