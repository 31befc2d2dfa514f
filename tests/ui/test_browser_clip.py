"""A short clip in a browser: upload, preview, protection, verdict and download; limits; Stop."""

import re
from pathlib import Path

import numpy as np
import pytest
from browsing import Site, button, playwright, screenshot, toast
from clips import portrait, read_clip, swaying, write_clip

SIZES = [(1280, 800, False), (1280, 800, True), (390, 844, False), (390, 844, True)]
FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(folder / "clip.mp4", swaying(portrait(), FRAMES), sound=True)


def open_clips(site: Site, clip: Path, width: int, height: int, dark: bool) -> "playwright.Page":
    page = site.open(width, dark, height)
    page.get_by_role("tab", name="A clip").click()
    field = page.locator("#clip input[type=file]").first
    field.wait_for(state="attached")
    with page.expect_response("**/upload**"):
        field.set_input_files(clip)
    return page


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clip_is_previewed_protected_and_downloaded(
    site: Site, clip: Path, tmp_path: Path, size: tuple[int, int, bool]
) -> None:
    page = open_clips(site, clip, *size)
    name = f"{size[0]}-{'dark' if size[2] else 'light'}"
    shown = page.locator("#clip-preview .map-preview img")
    playwright.expect(shown).to_have_attribute("alt", re.compile("happy"))
    playwright.expect(button(page, "Hold to see the original")).to_be_hidden()
    assert shown.bounding_box()["height"] == page.locator("#clip video").bounding_box()["height"]
    before = shown.get_attribute("src")
    page.locator("#clip-emotion").get_by_label("Surprise", exact=True).check(force=True)
    playwright.expect(shown).to_have_attribute("alt", re.compile("surprise"))
    assert shown.get_attribute("src") != before
    screenshot(page, f"clip-preview-{name}", full=False)

    button(page, "Protect the clip").click()
    playwright.expect(page.locator("#clip-status").get_by_role("progressbar")).to_be_in_viewport()
    playwright.expect(button(page, "Stop")).to_be_visible()
    screenshot(page, f"clip-working-{name}", full=False)
    verdict = page.locator("#clip-verdict .map-verdict")
    playwright.expect(verdict).to_contain_text("recognition program")
    playwright.expect(verdict).to_contain_text(f"{FRAMES} of {FRAMES} frames: emotion surprise")
    playwright.expect(verdict).to_be_in_viewport()
    playwright.expect(button(page, "Stop")).to_be_hidden()
    playwright.expect(button(page, "Protect the clip")).to_be_enabled()
    player = page.locator("#clip-player video")
    playwright.expect(player).to_be_visible()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    screenshot(page, f"clip-result-{name}")

    with page.expect_download() as waiting:
        page.locator("#clip-download").click()
    assert waiting.value.suggested_filename == "protected.mp4"
    waiting.value.save_as(tmp_path / "protected.mp4")
    after, original = read_clip(tmp_path / "protected.mp4")[0], read_clip(clip)[0]
    assert after.shape == original.shape
    change = np.abs(after.astype(float) - original).mean((0, 3))
    assert change[70:150, 90:170].mean() > 2 * change[220:, :40].mean()


def test_what_is_wrong_with_a_clip_is_told(site: Site, tmp_path: Path) -> None:
    page = site.open()
    page.get_by_role("tab", name="A clip").click()
    button(page, "Protect the clip").click()
    toast(page, "Choose a clip first")
    playwright.expect(button(page, "Protect the clip")).to_be_enabled()
    grey = [np.full((64, 64, 3), 90, np.uint8)] * 4
    long = write_clip(tmp_path / "long.mp4", grey, times=[0, 4, 8, 12])
    page = open_clips(site, long, *SIZES[0])
    note = page.locator("#clip-note")
    playwright.expect(note).to_contain_text(re.compile(r"at most 10 s long, got 1\d\.\d s"))
    calls = site.networks.calls
    button(page, "Protect the clip").click()
    toast(page, "clip must be at most 10 s long")
    screenshot(page, "clip-error", full=False)
    assert site.networks.calls == calls


def test_a_clip_can_be_stopped(site: Site, clip: Path) -> None:
    page = open_clips(site, clip, *SIZES[0])
    page.locator("#clip-preview .map-preview img").wait_for()
    button(page, "Protect the clip").click()
    page.locator("#clip-status").get_by_role("progressbar").wait_for()
    button(page, "Stop").click()
    playwright.expect(button(page, "Protect the clip")).to_be_enabled()
    page.wait_for_timeout(3000)
    calls = site.networks.calls
    page.wait_for_timeout(2000)
    assert site.networks.calls == calls  # nobody works for it any more
    playwright.expect(page.locator("#clip-download")).to_be_hidden()
