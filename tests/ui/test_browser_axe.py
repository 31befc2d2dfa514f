"""What axe-core finds wrong with the page by the rules of WCAG 2.2, levels A and AA."""

import subprocess
from pathlib import Path
from shutil import which

import pytest
from browsing import (
    ASTRONAUT,
    VIDEO_CALL,
    Site,
    button,
    playwright,
    section,
    show_example,
    toast,
    upload,
)

ROOT = Path(__file__).parents[2]
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
RUN = """async levels => {
    const found = await axe.run(document, {runOnly: {type: "tag", values: levels}});
    return {
        passed: found.passes.map(rule => rule.id),
        broken: found.violations.flatMap(rule => rule.nodes.map(
            node => `${rule.id}: ${node.html.slice(0, 200)} (${node.failureSummary})`)),
    };
}"""


def find_axe() -> Path | None:
    """Of `npm install axe-core` here, or with -g."""
    places = [ROOT / "node_modules"]
    if npm := which("npm"):
        answer = subprocess.run([npm, "root", "-g"], capture_output=True, text=True)
        places.append(Path(answer.stdout.strip()))
    scripts = (place / "axe-core" / "axe.min.js" for place in places)
    return next((script for script in scripts if script.is_file()), None)


AXE = find_axe()
if AXE is None:
    pytest.skip("no axe-core (npm install --no-save axe-core)", allow_module_level=True)


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def page(site: Site, request: pytest.FixtureRequest) -> "playwright.Page":
    page = site.open(dark=request.param)
    page.add_script_tag(path=AXE)
    return page


def check(page: "playwright.Page") -> None:
    page.wait_for_timeout(500)  # colours fade
    found = page.evaluate(RUN, LEVELS)
    assert found["broken"] == []
    assert {"color-contrast", "label"} <= set(found["passed"])  # it looked at the page


def test_start_and_all_that_can_be_opened(page: "playwright.Page") -> None:
    check(page)
    for title in ("More", "Single movements"):
        section(page, title)
    check(page)


@pytest.mark.parametrize("tab", ["Check a photo", "About"])
def test_other_tabs(page: "playwright.Page", tab: str) -> None:
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(500)
    found = page.evaluate(RUN, LEVELS)
    assert found["broken"] == []


def test_preview(page: "playwright.Page") -> None:
    upload(page, ASTRONAUT)
    page.locator(".map-preview img").wait_for()
    check(page)


def test_several_faces(page: "playwright.Page") -> None:
    upload(page, VIDEO_CALL)
    page.locator(".map-face-box").first.wait_for()
    page.locator(".map-preview img").wait_for()
    section(page, "More")
    check(page)


def test_working(page: "playwright.Page") -> None:
    upload(page, ASTRONAUT)
    page.locator(".map-preview img").wait_for()
    section(page, "More")
    page.get_by_label("Strong", exact=True).check(force=True)
    button(page, "Protect").click()
    page.get_by_text("step 2 of").wait_for()
    check(page)
    button(page, "Stop").click()
    playwright.expect(button(page, "Stop")).to_be_hidden()


def test_result(page: "playwright.Page") -> None:
    show_example(page, number=4)  # four faces: the longest result
    for title in ("After sharing", "Expression", "All numbers"):
        section(page, title)
    check(page)


def test_error(page: "playwright.Page") -> None:
    button(page, "Protect").click()
    message = toast(page, "Choose a photo first")
    check(page)
    message.get_by_role("button", name="Error").press("Enter")  # folds it
    playwright.expect(message.get_by_test_id("toast-text")).to_be_hidden()
