"""The page in a process of its own, and what memory it takes."""

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_SECONDS = 120  # until the page must answer


@contextlib.contextmanager
def running_page(
    command: Sequence[str], folder: Path, settings: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen, Path, Path]]:
    """Address, process, folder of uploads and results, and log of a page that `command` serves.

    Args:
        folder: for the last two.
        settings: environment variables.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache, log = folder / "cache", folder / "log"
    cache.mkdir()
    environment = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_TEMP_DIR": str(cache),
        "PYTHONUNBUFFERED": "1",
    }
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, **settings},
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait_for(url, process, log)
        yield url, process, cache, log
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the page answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the page doesn't start:\n{log.read_text()[-2000:]}")


def memory(pid: int | str = "self", kind: str = "VmRSS") -> float:
    """Resident memory of a process, MB; "VmHWM" is its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+)", status)[1]) / 1024
