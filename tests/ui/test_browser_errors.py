"""What a visitor reads in a browser when something isn't possible."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_pictures import bad_picture
from browsing import (
    ASTRONAUT,
    Site,
    button,
    open_site,
    playwright,
    screenshot,
    section,
    toast,
    upload,
)

from map_pipeline import MAPPipeline
from map_pipeline.ui.settings import PageSettings

LIMIT = 12  # photos of one visitor; all tests here are one visitor


@pytest.fixture(scope="module")
def site(
    tiny_pipeline: MAPPipeline, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The page with small networks of random weights, and with narrow limits."""
    settings = PageSettings(checkpoint=tiny_checkpoint, max_upload_mb=1, rate_limit=LIMIT)
    with open_site(tiny_pipeline, settings, tmp_path_factory.mktemp("cache")) as site:
        yield site


def test_without_a_photo(site: Site) -> None:
    page = site.open()
    button(page, "Protect").click()
    toast(page, "Choose a photo first")
    screenshot(page, "error-no-photo", full=False)
    page.get_by_role("tab", name="Check a photo").click()
    button(page, "Compare").click()
    toast(page, "Choose two photos first")


@pytest.mark.parametrize(
    ("kind", "at_once", "at_the_button"),
    [
        ("no face", "must show a face", "must show a face"),
        ("text", "image must be", "image must be"),
        ("truncated", "image must be", "image must be"),
        ("small face", None, "No face in this photo can be protected well"),
    ],
)
def test_photo_that_cannot_be_protected(
    site: Site, tmp_path: Path, kind: str, at_once: str | None, at_the_button: str
) -> None:
    """The reason is shown as soon as the photo is there, and again to whoever goes on."""
    page = site.open()
    upload(page, bad_picture(tmp_path, kind))
    if at_once:
        shown = toast(page, at_once)
        shown.get_by_test_id("toast-close").click()
        shown.wait_for(state="detached")
    else:
        playwright.expect(page.locator("#faces-note")).to_contain_text(
            "can't be protected: too small"
        )
        playwright.expect(page.locator(".map-face-unclear")).to_have_count(1)
    button(page, "Protect").click()
    answer = toast(page, at_the_button).inner_text()
    screenshot(page, f"error-{kind.replace(' ', '-')}", full=False)
    assert "Traceback" not in answer
    assert "/" not in answer  # no path of the server
    playwright.expect(button(page, "Protect")).to_be_enabled()  # ready for the next attempt
    playwright.expect(button(page, "Stop")).to_be_hidden()


def test_own_target_without_consent(site: Site) -> None:
    page = site.open()
    upload(page, ASTRONAUT)
    page.locator(".map-face-box").wait_for()
    section(page, "More")
    upload(page, ASTRONAUT.with_name("man-older-dark.png"), number=2)
    button(page, "Protect").click()
    toast(page, "confirm that they have agreed")
    screenshot(page, "error-consent", full=False)
    page.get_by_label("The person in this picture is me").check()
    button(page, "Protect").click()
    page.locator(".map-verdict").wait_for()


def test_too_large_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(ASTRONAUT.read_bytes() + bytes(1_100_000))
    page = site.open()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    toast(page, "maximum")
    screenshot(page, "error-too-large", full=False)


def test_too_many_photos(site: Site, tmp_path: Path) -> None:
    page = site.open()
    upload(page, bad_picture(tmp_path, "no face"))
    refusal = page.get_by_test_id("toast-body").filter(has_text=f"at most {LIMIT} photos")
    for _ in range(LIMIT + 1):
        button(page, "Protect").click()
        playwright.expect(button(page, "Stop")).to_be_hidden()
        if refusal.count():
            break
    refusal.first.wait_for()
    screenshot(page, "error-too-many", full=False)
