import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import spare_loopback_from_proxies

ROOT = Path(__file__).parents[2]
START = """
import gradio as gr
from app import spare_loopback_from_proxies
import os
spare_loopback_from_proxies(os.environ)
with gr.Blocks() as demo:
    gr.Markdown("hello")
demo.launch(prevent_thread_lock=True, quiet=True)
print("up")
demo.close()
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "intra.example, localhost"}, "intra.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intra.example"}, "intra.example,localhost,127.0.0.1,::1"),
    ],
)
def test_loopback_is_added_to_what_was_given(given: dict[str, str], expected: str) -> None:
    environment = dict(given)
    spare_loopback_from_proxies(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == expected
    again = dict(environment)
    spare_loopback_from_proxies(again)
    assert again == environment


def test_a_star_spares_everything_already() -> None:
    environment = {"NO_PROXY": "*"}
    spare_loopback_from_proxies(environment)
    assert environment == {"NO_PROXY": "*"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_page_starts_behind_a_proxy_that_is_down(name: str) -> None:
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {name: "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("up"), done.stderr[-500:]
