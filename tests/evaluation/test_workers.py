import subprocess
import sys

import pytest


@pytest.mark.slow
def test_workers_end_with_a_killed_run() -> None:
    script = """
import os, signal
from map_pipeline.evaluation.runner import start_workers
if __name__ == "__main__":
    with start_workers(1, dict) as pool:
        pool.submit(os.getpid).result()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    # It returns when nobody holds the pipe any more.
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=False)
