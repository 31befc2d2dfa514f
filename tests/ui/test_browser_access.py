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

TABS = ("Protect", "Many photos", "A clip", "Check a photo", "About")
FORM_SECTIONS = ("More", "Single movements")
RESULT_SECTIONS = ("After sharing", "Expression", "All numbers")

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

# Contrast (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio) of every visible text with the nearest
# opaque background, and how many were looked at; texts on pictures and gradients, placeholders and
# what is switched off don't count.
FAINT_TEXT = """() => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
        paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const over = (front, back) => front.slice(0, 3)
        .map((v, i) => v * front[3] / 255 + back[i] * (1 - front[3] / 255));
    const found = [];
    let looked = 0;
    const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    for (let node; node = texts.nextNode();) {
        const own = node.parentElement, text = node.data.trim();
        if (!text || own.closest("svg, script, style, .icon, [disabled]")) continue;
        if (!own.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        if (own.getBoundingClientRect().width < 2) continue;
        const layers = [];
        let pictured = false;
        for (let one = own; one; one = one.parentElement) {
            const style = getComputedStyle(one), colour = rgba(style.backgroundColor);
            pictured ||= style.backgroundImage !== "none";
            if (colour[3]) layers.push(colour);
            if (colour[3] === 255 || pictured) break;
        }
        if (pictured) continue;
        looked += 1;
        let back = [255, 255, 255];
        for (const layer of layers.reverse()) back = over(layer, back);
        const front = over(rgba(getComputedStyle(own).color), back);
        const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
        const ratio = (light + .05) / (dark + .05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(1)} ${text.slice(0, 60)} of ${own.className}`);
    }
    return {looked, found};
}"""


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


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(site: Site, dark: bool) -> None:
    page = site.open(dark=dark)
    for title in FORM_SECTIONS:
        section(page, title)
    show_example(page)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)  # colours fade
        texts = page.evaluate(FAINT_TEXT)
        assert not texts["found"], f"{tab}: {texts['found']}"
        assert texts["looked"] > 10, tab


def test_every_control_has_a_name(site: Site) -> None:
    """As a browser gives it to a screen reader."""
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
