"""The page on small screens, in the dark, by keyboard and by screen reader."""

import re
from collections.abc import Iterator

import pytest
from browsing import (
    VIDEO_CALL,
    Site,
    button,
    open_site,
    playwright,
    screenshot,
    section,
    show_example,
    toast,
    upload,
)

from map_pipeline import MAPPipeline
from map_pipeline.ui.settings import PageSettings

TABS = ("Protect", "Check a photo", "About")
FORM_SECTIONS = ("Your own target picture", "Advanced")
RESULT_SECTIONS = ("How sturdy is it?", "Expression", "All numbers")

# What sticks out of the window and can't be scrolled into view inside of its own box.
STICKING_OUT = """() => [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= innerWidth + 1 && box.left >= -1) return false;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
    for (let box = element.parentElement; box !== document.body; box = box.parentElement)
        if (/auto|scroll|hidden|clip/.test(getComputedStyle(box).overflowX)
            && box.getBoundingClientRect().right <= innerWidth + 1) return false;
    return true;
}).map(element => element.outerHTML.slice(0, 200))"""

# Everything that a pointer could use; Gradio's radio buttons have a turn at Tab each.
CONTROLS = """() => [...document.querySelectorAll(
    "main a[href], main button, main input, main textarea, main [tabindex='0'], main summary"
)].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && box.height && one.checkVisibility({visibilityProperty: true})
        && !one.disabled && one.tabIndex >= 0 && one.type !== "file";
}).map((one, number) => { one.dataset.control = number; return one.outerHTML.slice(0, 200); })"""


@pytest.fixture(scope="module")
def site(tiny_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page with the shipped targets and examples; nothing here runs a network of size."""
    with open_site(tiny_pipeline, PageSettings(), tmp_path_factory.mktemp("cache")) as site:
        yield site


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_window(site: Site, width: int, dark: bool) -> None:
    page = site.open(width, dark)
    name = f"{'dark' if dark else 'light'}-{width}"
    assert page.evaluate("document.body.classList.contains('dark')") is dark

    def check(state: str) -> None:
        page.wait_for_timeout(500)  # until everything has moved to its place
        screenshot(page, f"{name}-{state}")
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, state
        assert page.evaluate(STICKING_OUT) == [], state

    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        check(tab.lower().replace(" ", "-"))
    page.get_by_role("tab", name="Protect").click()
    for title in FORM_SECTIONS:
        section(page, title)
    check("open")
    show_example(page, number=4)  # four faces: the longest result
    for title in RESULT_SECTIONS:
        section(page, title)
    check("result")


def test_outlines_lie_on_the_faces(site: Site) -> None:
    """The numbers of the page and the pixels on the screen agree, whatever the layout does."""
    for width in (390, 1280):
        page = site.open(width)
        upload(page, VIDEO_CALL)
        page.locator(".map-face-box").first.wait_for()
        page.wait_for_timeout(500)
        photo = page.locator("#photo img").bounding_box()
        natural = page.locator("#photo img").evaluate(
            "one => [one.naturalWidth, one.naturalHeight]"
        )
        scale = min(photo["width"] / natural[0], photo["height"] / natural[1])
        left = photo["x"] + (photo["width"] - scale * natural[0]) / 2
        top = photo["y"] + (photo["height"] - scale * natural[1]) / 2
        for outline in page.locator(".map-face-box").all():
            shown = outline.bounding_box()
            inside = (float(outline.get_attribute(name)) for name in ("x", "y", "width", "height"))
            x, y, wide, high = (scale * value for value in inside)
            expected = {"x": left + x, "y": top + y, "width": wide, "height": high}
            assert shown == pytest.approx(expected, abs=6)  # px, half a line is outside


def test_every_control_has_its_turn_at_tab(site: Site) -> None:
    page = site.open()
    for title in FORM_SECTIONS:
        section(page, title)
    show_example(page, number=4)
    playwright.expect(page.locator(".map-outlines")).to_be_attached()
    page.wait_for_timeout(500)
    controls = page.evaluate(CONTROLS)
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(3 * len(controls)):
        page.keyboard.press("Tab")
        number = page.evaluate("document.activeElement.dataset.control")
        if number in reached and len(reached) == len(controls):
            break
        reached.add(number)
    missed = [one for number, one in enumerate(controls) if str(number) not in reached]
    assert missed == []
    assert len(controls) > 60


def test_keyboard_chooses_and_starts(site: Site) -> None:
    page = site.open()
    page.get_by_label("Happy", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    playwright.expect(page.get_by_label("Neutral", exact=True)).to_be_checked()
    focused = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert page.evaluate(focused) == "solid"  # the focus can be seen
    button(page, "Protect").focus()
    page.keyboard.press("Enter")
    toast(page, "Choose a photo first")
    page.get_by_role("tab", name="Check a photo").focus()
    page.keyboard.press("Enter")
    playwright.expect(button(page, "Compare")).to_be_visible()


def test_every_control_has_a_name(site: Site) -> None:
    """As a browser tells it to a screen reader."""
    page = site.open()
    for title in FORM_SECTIONS:
        section(page, title)
    show_example(page)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        spoken = page.get_by_role("main").aria_snapshot()
        roles = "button|textbox|spinbutton|slider|radio|checkbox|combobox|tab|link"
        controls = re.findall(rf"^ *- '?({roles})\b(.*)", spoken, re.MULTILINE)
        assert controls
        unnamed = [role + rest for role, rest in controls if not re.match(r' "[^"]', rest)]
        assert unnamed == [], spoken
