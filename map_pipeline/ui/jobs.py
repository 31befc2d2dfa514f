"""Work that reports its progress while it runs, and that can be stopped."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

Update = TypeVar("Update")
Result = TypeVar("Result")
_END = object()


class StoppedError(Exception):
    """Raised inside of work that nobody waits for any more."""


def run_in_steps(
    work: Callable[[Callable[[Update], None]], Result],
) -> Generator[Update, None, Result]:
    """Run `work(report)` in a thread, yield all that it reports, and return its result.

    Closing the generator stops the work, because `report` then raises `StoppedError` in it. Gradio
    closes generators when a visitor presses Stop or leaves, and ZeroGPU passes that on to its GPU
    process, whereas both let a plain function run to its end.
    """
    updates: SimpleQueue = SimpleQueue()
    stopped = threading.Event()

    def report(value: Update) -> None:
        if stopped.is_set():
            raise StoppedError
        updates.put(value)

    def run() -> Result:
        try:
            return work(report)
        finally:
            updates.put(_END)

    # Leaving the block waits for the thread, so stopped work has ended when `close` returns.
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(copy_context().run, run)
        try:
            while (value := updates.get()) is not _END:
                yield value
        finally:
            stopped.set()
        return future.result()
