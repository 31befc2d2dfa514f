"""Several faces and several photos in a browser: picked, each with its own, named one by one."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import (
    ASTRONAUT,
    EXAMPLES,
    VIDEO_CALL,
    Site,
    button,
    open_site,
    playwright,
    screenshot,
    section,
    toast,
    upload,
)
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.ui.settings import PageSettings

MOST = 3  # photos at once
SIZES = [(1280, 800, False), (1280, 800, True), (390, 844, False), (390, 844, True)]


@pytest.fixture(scope="module")
def site(bundled_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = PageSettings(batch_photos=MOST)
    with open_site(bundled_pipeline, settings, tmp_path_factory.mktemp("cache")) as site:
        yield site


def open_group(
    site: Site, width: int = 1280, height: int = 800, dark: bool = False
) -> "playwright.Page":
    page = site.open(width, dark, height)
    upload(page, VIDEO_CALL)
    page.locator(".map-preview img").wait_for()
    return page


def one_step(page: "playwright.Page") -> None:
    """The least that a protection can do."""
    section(page, "More")
    field = page.get_by_label("number input for Steps")
    field.wait_for()
    page.wait_for_timeout(1000)  # what has just been opened takes its own first value
    field.fill("1")
    page.keyboard.press("Tab")
    playwright.expect(page.get_by_label("range slider for Steps")).to_have_value("1")


def click_face(page: "playwright.Page", number: int, part: str = ".map-face-box") -> None:
    """With the pointer, on the picture itself."""
    place = page.locator(f"#outlines [data-place='{number - 1}'] {part}").bounding_box()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)


def face_box(page: "playwright.Page", number: int) -> "playwright.Locator":
    return page.get_by_role("checkbox", name=f"Face {number}", exact=True)


def turn(page: "playwright.Page", name: str) -> "playwright.Locator":
    return page.locator("#whose").get_by_role("radio", name=name, exact=True)


def left_out(page: "playwright.Page") -> "playwright.Locator":
    return page.locator("#outlines .map-face-left")


def emotion(page: "playwright.Page", name: str) -> "playwright.Locator":
    return page.locator("#emotion").get_by_label(name, exact=True)


def test_faces_are_picked_on_the_picture_and_keep_their_expressions(
    site: Site, tmp_path: Path
) -> None:
    page = open_group(site)
    for shown in (page.locator("#photo"), page.locator("#emotion"), button(page, "Protect")):
        playwright.expect(shown).to_be_in_viewport(ratio=1)  # without scrolling
    playwright.expect(left_out(page)).to_have_count(0)
    click_face(page, 2)
    playwright.expect(face_box(page, 2)).not_to_be_checked()
    playwright.expect(left_out(page)).to_have_count(1)
    click_face(page, 2)
    playwright.expect(face_box(page, 2)).to_be_checked()
    playwright.expect(left_out(page)).to_have_count(0)
    click_face(page, 2)
    playwright.expect(left_out(page)).to_have_count(1)

    click_face(page, 3, ".map-face-number")
    playwright.expect(turn(page, "3")).to_be_checked()
    playwright.expect(face_box(page, 3)).to_be_checked()  # it isn't left out by that
    emotion(page, "Sad").check(force=True)
    playwright.expect(page.locator("#outlines text").filter(has_text="3 sad")).to_be_visible()
    page.get_by_alt_text("Preview: happy and sad").wait_for()
    turn(page, "All others").check(force=True)
    playwright.expect(emotion(page, "Happy")).to_be_checked()
    emotion(page, "Surprise").check(force=True)
    page.get_by_alt_text("Preview: surprise and sad").wait_for()
    turn(page, "3").check(force=True)
    playwright.expect(emotion(page, "Sad")).to_be_checked()

    one_step(page)
    button(page, "Protect").click()
    verdict = page.locator(".map-verdict")
    playwright.expect(verdict).to_contain_text(
        re.compile(r"3 of 4 faces (edited|protected); the one at the bottom left isn't")
    )
    playwright.expect(button(page, "Protect")).to_be_enabled()
    with page.expect_download() as waiting:
        button(page, "Download the report (JSON)").click()
    waiting.value.save_as(tmp_path / "report.json")
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [one["emotion"] for one in reports] == ["surprise", "sad", "surprise"]
    screenshot(page, "faces-result", full=False)


def test_faces_are_picked_by_keyboard_too(site: Site) -> None:
    page = open_group(site)
    face_box(page, 1).focus()
    page.keyboard.press("Space")
    playwright.expect(left_out(page)).to_have_count(1)
    turn(page, "All").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    playwright.expect(turn(page, "1")).to_be_checked()
    playwright.expect(page.locator("#outlines .map-face-turn")).to_have_count(1)
    emotion(page, "Fear").focus()
    page.keyboard.press("Space")
    playwright.expect(page.locator("#outlines text").filter(has_text="1 fear")).to_be_visible()


def test_another_photo_begins_anew(site: Site) -> None:
    page = open_group(site)
    turn(page, "2").check(force=True)
    emotion(page, "Angry").check(force=True)
    playwright.expect(page.locator("#outlines text").filter(has_text="2 angry")).to_be_visible()
    page.locator("#photo").get_by_label("Remove Image").click()
    playwright.expect(page.locator("#people")).to_be_hidden()
    upload(page, ASTRONAUT)
    page.get_by_alt_text("Preview: happy, ").wait_for()
    playwright.expect(page.locator("#people")).to_be_hidden()
    playwright.expect(emotion(page, "Happy")).to_be_checked()


def test_button_over_the_picture_is_not_hidden_by_a_face(site: Site) -> None:
    page = open_group(site)
    page.get_by_role("button", name="Hold to see the original").hover()
    page.mouse.down()
    playwright.expect(page.locator(".map-preview img")).to_be_hidden()
    page.mouse.up()
    playwright.expect(left_out(page)).to_have_count(0)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    Image.new("RGB", (200, 200), "steelblue").save(tmp_path / "blank.png")
    return [ASTRONAUT, tmp_path / "blank.png", EXAMPLES / "man-older-dark.png"]


def open_many(site: Site, photos: list[Path], *size: int | bool) -> "playwright.Page":
    width, height, dark = size or SIZES[0]
    page = site.open(width, dark, height)
    one_step(page)
    page.get_by_role("tab", name="Many photos").click()
    field = page.locator("[role=tabpanel]:visible input[type=file]").first
    field.wait_for(state="attached")
    field.set_input_files(photos)
    playwright.expect(page.locator("#batch-photos .thumbnail-item")).to_have_count(len(photos))
    return page


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_many_photos_are_protected_in_one_go(
    site: Site, photos: list[Path], tmp_path: Path, size: tuple[int, int, bool]
) -> None:
    page = open_many(site, photos, *size)
    name = f"{size[0]}-{'dark' if size[2] else 'light'}"
    if size[0] == 1280:
        playwright.expect(button(page, "Protect all")).to_be_in_viewport(ratio=1)
    page.locator("#batch-emotion").get_by_label("Surprise", exact=True).check(force=True)
    button(page, "Protect all").click()
    page.locator("#batch-status").get_by_text(re.compile("^Photo [13] of 3: ")).first.wait_for()
    playwright.expect(button(page, "Stop")).to_be_visible()
    screenshot(page, f"batch-working-{name}", full=False)
    playwright.expect(page.locator("#batch-download")).to_be_visible()

    lines = page.locator(".map-batch li")
    playwright.expect(lines).to_have_count(3)
    for number in (0, 2):
        playwright.expect(lines.nth(number)).to_contain_text("recognition program")
    playwright.expect(lines.nth(1)).to_contain_text("Left as it is: image must show a face")
    playwright.expect(page.locator("#batch-results .thumbnail-item")).to_have_count(2)
    playwright.expect(page.locator("#batch-results .caption-label").first).to_contain_text(
        "Photo 1"
    )
    playwright.expect(button(page, "Protect all")).to_be_enabled()
    playwright.expect(button(page, "Stop")).to_be_hidden()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    screenshot(page, f"batch-{name}")

    with page.expect_download() as waiting:
        page.locator("#batch-download").click()
    waiting.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert set(archive.namelist()) == {"photo-1.png", "photo-3.png", "report.json"}
        first, _, last = json.loads(archive.read("report.json"))
    assert {one["emotion"] for one in (*first["faces"], *last["faces"])} == {"surprise"}


def test_a_batch_can_be_stopped_and_begun_again(site: Site, photos: list[Path]) -> None:
    page = open_many(site, photos[::2])
    page.get_by_role("tab", name="Protect").click()
    page.get_by_label("number input for Steps").fill("60")
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Many photos").click()
    calls = site.networks.calls
    button(page, "Protect all").click()
    page.get_by_text(re.compile(r"step [2-9] of 60")).wait_for()
    button(page, "Stop").click()
    playwright.expect(button(page, "Protect all")).to_be_enabled()
    playwright.expect(page.locator("#batch-status")).to_be_empty()
    playwright.expect(page.locator(".map-batch li")).to_have_count(2)
    page.wait_for_timeout(3000)
    asked = site.networks.calls - calls
    page.wait_for_timeout(2000)
    assert site.networks.calls - calls == asked  # nobody works for it any more
    assert asked < 2 * 60 * 3
    page.get_by_role("tab", name="Protect").click()
    page.get_by_label("number input for Steps").fill("1")
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Many photos").click()
    button(page, "Protect all").click()
    playwright.expect(page.locator("#batch-download")).to_be_visible()


def test_what_is_wrong_with_a_batch_is_told(site: Site, photos: list[Path]) -> None:
    page = site.open()
    page.get_by_role("tab", name="Many photos").click()
    button(page, "Protect all").click()
    toast(page, "Choose some photos first")
    playwright.expect(button(page, "Protect all")).to_be_enabled()
    page = open_many(site, [*photos, VIDEO_CALL])
    button(page, "Protect all").click()
    toast(page, f"at most {MOST} at once, got 4")
    playwright.expect(button(page, "Protect all")).to_be_enabled()
    screenshot(page, "batch-error", full=False)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_of_several_faces_sticks_out(site: Site, size: tuple[int, int, bool]) -> None:
    width, height, dark = size
    page = open_group(site, width, height, dark)
    click_face(page, 2)
    turn(page, "3").check(force=True)
    emotion(page, "Sad").check(force=True)
    playwright.expect(page.locator("#outlines text").filter(has_text="3 sad")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    playwright.expect(page.locator("#photo")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    screenshot(page, f"faces-{width}-{'dark' if dark else 'light'}", full=False)
