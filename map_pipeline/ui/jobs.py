"""Work that tells how far it is while it runs, and that can be stopped."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

Told = TypeVar("Told")
Result = TypeVar("Result")
_END = object()


class StoppedError(Exception):
    """Raised inside of work that nobody waits for any more."""


def run_in_steps(
    work: Callable[[Callable[[Told], None]], Result],
) -> Generator[Told, None, Result]:
    """Run `work(tell)` in a thread, yield all that it tells, and return its result.

    Closing the generator stops the work, because `tell` then raises `StoppedError` in it. Gradio
    closes generators when a visitor presses Stop or leaves, and ZeroGPU passes that on to its GPU
    process, whereas both let a plain function run to its end.
    """
    told: SimpleQueue = SimpleQueue()
    stopped = threading.Event()

    def tell(value: Told) -> None:
        if stopped.is_set():
            raise StoppedError
        told.put(value)

    def run() -> Result:
        try:
            return work(tell)
        finally:
            told.put(_END)

    # Leaving the block waits for the thread, so stopped work has ended when `close` returns.
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(copy_context().run, run)
        try:
            while (value := told.get()) is not _END:
                yield value
        finally:
            stopped.set()
        return future.result()
