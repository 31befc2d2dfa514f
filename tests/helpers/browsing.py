"""The page in a real browser, for the tests beside this module: Playwright driving chromium."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from serving import running_page

from map_pipeline import MAPPipeline
from map_pipeline.ui.settings import PageSettings

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright isn't installed (pip install playwright)"
)
if CHROMIUM is None:
    pytest.skip("no chromium on the PATH (apt-get install chromium)", allow_module_level=True)

EXAMPLES = Path(__file__).parents[2] / "examples"
ASTRONAUT, VIDEO_CALL = EXAMPLES / "astronaut.png", EXAMPLES / "video-call.png"
PATIENCE = 120_000  # ms; only a machine that is busy with something else needs them
playwright.expect.set_options(timeout=PATIENCE)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
]


class Networks:
    """Counts how often a pipeline asks its recognisers, to distinguish work from rest."""

    def __init__(self, pipe: MAPPipeline) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        nets = pipe.recognisers.values()
        self._hooks = [net.register_forward_pre_hook(self._count) for net in nets]

    def _count(self, *_: object) -> None:
        with self._lock:
            self.calls += 1

    def forget(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Site:
    """A running page and a browser; `networks` shows whether the page works.

    Args:
        demo: the launched page.
        browser: a running browser.
        networks: those of the page's pipeline.
    """

    def __init__(self, demo: gr.Blocks, browser: "playwright.Browser", networks: Networks) -> None:
        self.url, self.networks, self._browser = demo.local_url, networks, browser

    def open(self, width: int = 1280, dark: bool = False, height: int = 900) -> "playwright.Page":
        """A new visitor's first sight of the page; the visitor before has left."""
        for context in self._browser.contexts:
            context.close()
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{self.url}?__theme={'dark' if dark else 'light'}")
        # The expected seconds come from the loaded networks, after which the page is at rest.
        page.get_by_text("Takes about").wait_for()
        return page


@contextmanager
def open_site(pipe: MAPPipeline, settings: PageSettings, cache: Path) -> Iterator[Site]:
    """Serve the page with the networks of `pipe`, uploads under `cache`, and start a browser."""
    networks = Networks(pipe)
    try:
        with (
            running_page(settings, pipe, cache) as demo,
            playwright.sync_playwright() as driver,
        ):
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            yield Site(demo, browser, networks)
            browser.close()
    finally:
        networks.forget()


def button(page: "playwright.Page", name: str) -> "playwright.Locator":
    return page.get_by_role("button", name=name, exact=True)


def section(page: "playwright.Page", title: str) -> None:
    """Open or close an accordion."""
    page.get_by_role("button", name=title).click()


def upload(page: "playwright.Page", path: Path, number: int = 0) -> None:
    """Choose a file in the page's visible picture field of this number, and wait until it's in."""
    field = page.locator("[role=tabpanel]:visible input[type=file]").nth(number)
    with page.expect_response("**/upload**"):
        field.set_input_files(path)


def toast(page: "playwright.Page", text: str) -> "playwright.Locator":
    """The message that pops up with this text; waits for it."""
    found = page.get_by_test_id("toast-body").filter(has_text=text).first
    found.wait_for()
    return found


def show_example(page: "playwright.Page", number: int = 0) -> None:
    page.locator("#examples button").nth(number).click()
    page.locator(".map-verdict").wait_for()


def screenshot(page: "playwright.Page", name: str, full: bool = True) -> None:
    """Keep a picture of the page for people to look at, where `MAP_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("MAP_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # until fonts, pictures and movements are there
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full)
