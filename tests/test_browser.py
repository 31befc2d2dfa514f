"""The page in a real browser: Playwright driving Debian's chromium, if both are installed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import app
from map_pipeline import MAPPipeline

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright isn't installed (pip install playwright)"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)"
)

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
]


@pytest.fixture(scope="module")
def demo() -> Iterator[gr.Blocks]:
    page = app.build_demo(MAPPipeline.from_pretrained).queue(max_size=20)
    page.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page
    page.close()


@pytest.fixture
def page(demo: gr.Blocks) -> Iterator["playwright.Page"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        tab.set_default_timeout(20_000)
        tab.goto(demo.local_url)
        yield tab
        browser.close()


def screenshot(page: "playwright.Page", name: str, full: bool = True) -> None:
    """Keep a picture of the page for people to look at, where `MAP_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("MAP_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full)


def upload(page: "playwright.Page", path: Path) -> None:
    with page.expect_response("**/upload**"):
        page.locator("input[type=file]").first.set_input_files(path)
    page.get_by_role("button", name="Remove Image").wait_for()


def test_upload_protect_and_download(page: "playwright.Page", tmp_path: Path) -> None:
    foreign = []
    page.on("request", lambda request: foreign.append(request.url))
    protect = page.get_by_role("button", name="Protect", exact=True)
    protect.wait_for()
    screenshot(page, "start")

    upload(page, EXAMPLES / "astronaut.png")
    page.get_by_text("Surprise", exact=True).click()
    page.get_by_label("number input for How much of it").fill("0.8")
    playwright.expect(page.get_by_label("Fast: about")).to_be_checked()
    page.get_by_text("Advanced").click()
    page.get_by_label("number input for Steps").fill("2")
    page.keyboard.press("Tab")
    protect.click()
    page.get_by_text("recognisers no longer match you").wait_for(timeout=90_000)

    # The slider shows the photo before and after, in full size and different.
    shown = page.locator("img[src$='original.png'], img[src$='protected.png']")
    playwright.expect(shown).to_have_count(2)
    assert shown.first.evaluate("image => image.naturalWidth") == 512
    # The table has a row for each recogniser.
    table = page.locator("table").filter(has_text="recogniser").first
    playwright.expect(table.locator("tbody tr").filter(has_text="dlib")).not_to_have_count(0)
    screenshot(page, "result")

    with page.expect_download() as download:
        page.get_by_text("Download as PNG").click()
    download.value.save_as(tmp_path / "download.png")
    assert download.value.suggested_filename == "protected.png"
    before = np.array(Image.open(EXAMPLES / "astronaut.png").convert("RGB"))
    after = np.array(Image.open(tmp_path / "download.png"))
    assert after.shape == before.shape
    assert (after != before).any()
    np.testing.assert_array_equal(after[300:], before[300:])  # nothing changes below the face
    # Nothing is asked of other servers: no fonts, no analytics.
    own = (page.url, "data:", "blob:")
    assert [url for url in foreign if not url.startswith(own)] == []


def test_photo_without_a_face_shows_why(page: "playwright.Page", tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), "steelblue").save(tmp_path / "sky.png")
    upload(page, tmp_path / "sky.png")
    page.get_by_role("button", name="Protect", exact=True).click()
    page.get_by_text("must show a face").first.wait_for()
    page.wait_for_timeout(300)  # until the toast has moved in
    screenshot(page, "no-face", full=False)


def test_click_on_a_target_chooses_it(page: "playwright.Page") -> None:
    page.get_by_role("button", name="Thumbnail 3 of").click()
    choice = page.get_by_label("Target", exact=True)
    playwright.expect(choice).to_have_value("Composite of 12 young women, dark skin")


def test_click_on_an_example_loads_it(page: "playwright.Page") -> None:
    page.locator("button.gallery-item").last.click()
    page.get_by_role("button", name="Remove Image").wait_for()
