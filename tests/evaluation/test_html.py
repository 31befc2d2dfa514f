import copy
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from synthetic import make_summary

from map_pipeline.evaluation import findings, html, published
from map_pipeline.evaluation.html_page import Table, change

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "img", "link", "br"}
HOSTILE = "<script>alert('x')</script>\"&amp;"


class Page(HTMLParser):
    """The page as a browser reads it: tags must match, text is unescaped."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.text += " "

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if {"td", "th"} & set(self._open):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made() -> dict:
    summary, _, _ = make_summary(n=6, styles=("plain", "sketch"))
    return summary


@pytest.fixture
def summary(made: dict) -> dict:
    """A copy that a test may change."""
    return copy.deepcopy(made)


def plot_files(out: Path, names: tuple[str, ...] = ("psr", "contact_sheet")) -> list[Path]:
    (out / "plots").mkdir(exist_ok=True)
    paths = [out / "plots" / f"{name}.png" for name in names]
    for path in paths:
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
    return paths


def render(summary: dict, out: Path) -> Page:
    path = html.write_report(summary, plot_files(out), out)
    assert path == out / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_every_section_is_there_in_order(summary: dict, tmp_path: Path) -> None:
    page = render(summary, tmp_path)
    assert [tag["id"] for tag in page.all("h2")] == [
        *("measured", "pictures", "verification", "dodging", "identification", "robustness"),
        *("styles", "quality", "expression", "groups", "cost", "ablations", "problems"),
        *("not-computed", "published"),
    ]
    targets = [tag["href"] for tag in page.all("a") if tag["href"].startswith("#")]
    assert targets == [f"#{tag['id']}" for tag in page.all("h2")]
    assert page.all("html")[0]["lang"] == "en"


def test_nothing_is_loaded_from_elsewhere(summary: dict, tmp_path: Path) -> None:
    page = render(summary, tmp_path)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    sources = [tag["src"] for tag in page.all("img")]
    assert sources == ["plots/contact_sheet.png", "plots/psr.png"]
    assert all((tmp_path / unquote(source)).is_file() for source in sources)
    assert "//" not in (tmp_path / "report.html").read_text().replace("</", "")
    assert "prefers-color-scheme: dark" in (tmp_path / "report.html").read_text()


def test_pictures_have_a_description_and_a_size(summary: dict, tmp_path: Path) -> None:
    for image in render(summary, tmp_path).all("img"):
        assert image["alt"]
        assert (image["width"], image["height"]) == ("40", "30")


def test_charts_change_with_the_dark_setting_and_photos_do_not(
    summary: dict, tmp_path: Path
) -> None:
    classes = {tag["src"]: tag["class"] for tag in render(summary, tmp_path).all("img")}
    assert classes == {"plots/contact_sheet.png": "photos", "plots/psr.png": "chart"}


def test_names_given_by_users_are_shown_and_never_run(summary: dict, tmp_path: Path) -> None:
    summary["problems"] = [{"name": HOSTILE, "rule": HOSTILE}]
    summary["config"]["targets"] = [HOSTILE]
    summary["config"]["pairs"] = HOSTILE
    summary["weights"] = {HOSTILE: HOSTILE}
    method = summary["methods"]["map"]
    method["failures"] = [{"photo": HOSTILE, "status": HOSTILE}]
    method["title"] = method["expression"]["judge"] = HOSTILE
    method["groups"] = {HOSTILE: [{**method["groups"]["gender"][0], "group": HOSTILE}]}
    for entry in method["verification"] + method["styles"]:
        entry["title"] = entry["style"] = HOSTILE
    page = render(summary, tmp_path)
    assert page.all("script") == []
    assert page.cells.count(HOSTILE) >= 6  # verbatim: problem, rule, photo, status, group, hash
    assert page.text.count("<script>") == page.text.count("</script>") >= 10


def test_file_names_are_quoted_in_links(summary: dict, tmp_path: Path) -> None:
    path = html.write_report(summary, plot_files(tmp_path, ("similarities_map",)), tmp_path)
    renamed = tmp_path / "plots" / 'a b"#?%.png'
    (tmp_path / "plots" / "similarities_map.png").rename(renamed)
    picture = html.Picture.of(renamed, tmp_path)
    assert picture.link == "plots/a%20b%22%23%3F%25.png"
    assert "similarities_map" in path.read_text()


def test_the_page_repeats_the_summary(summary: dict, tmp_path: Path) -> None:
    page = render(summary, tmp_path)
    text = " ".join(page.text.replace("\u00a0", " ").split())
    entry = findings.pooled(summary, "mifgsm")
    for key in ("impersonation", "dodging"):
        clean, rate = entry[f"{key}_clean"]["rate"], entry[key]
        shown = f"{100 * clean:.1f} → {100 * rate['rate']:.1f} %"
        assert f"{shown} ({100 * rate['low']:.0f}-{100 * rate['high']:.0f}), n = 6" in text
    quality, cost = (summary["methods"]["map"][key] for key in ("quality", "cost"))
    assert f"{quality['psnr']['mean']:.1f} dB ± {quality['psnr']['std']:.1f}" in text
    assert f"{cost['seconds_median']:.1f} s" in text
    assert "ab" * 32 in text
    assert "0.911 0.919 +0.008" in text
    assert "another photo of the target" in text
    assert "lonely_a.png has no partner lonely_b.*; only impersonation" in text
    assert summary["date"] in text


def test_what_was_not_computed_is_said(summary: dict, tmp_path: Path) -> None:
    page = render(summary, tmp_path)
    for what, why in (
        ("LPIPS", "weights absent"),
        ("FID", "weights absent"),
        ("Face++ compare", "off by default (--facepp)"),
    ):
        assert page.cells[page.cells.index(what, page.cells.index("why")) + 1] == why


def test_published_figures_stand_apart_with_their_note(summary: dict, tmp_path: Path) -> None:
    render(summary, tmp_path)
    text = (tmp_path / "report.html").read_text()
    ours, theirs = text.split('<section aria-labelledby="published">')
    assert "DiffAM" not in ours
    assert "DiffAM" in theirs
    assert "not measured by us; other photos, recognisers and thresholds" in theirs
    assert all(text in theirs for text in published.SOURCES.values())


def test_a_small_run_has_no_empty_section(tmp_path: Path) -> None:
    summary, _, _ = make_summary(n=3, methods=("map",), attributes={}, judge=None, problems=())
    path = html.write_report(summary, [], tmp_path)
    page = Page(path.read_text())
    assert not {"styles", "commercial", "expression", "groups", "ablations"} & {
        tag["id"] for tag in page.all("h2")
    }
    assert "Every file could be used and every photo could be protected." in page.text
    assert page.all("img") == []


def test_a_failed_run_still_has_a_report(summary: dict, tmp_path: Path) -> None:
    nothing = {"rate": None, "low": None, "high": None, "n": 0}
    empty = {"mean": None, "std": None, "n": 0}
    for method in summary["methods"].values():
        for entry in method["verification"] + method["mean_unseen"] + method["identification"]:
            entry.update({key: nothing for key in entry if isinstance(entry[key], dict)})
        method["quality"] = dict.fromkeys(method["quality"], empty)
        method["cost"] = {**dict.fromkeys(method["cost"]), "n": 0}
        method.update(expression=None, groups={}, styles=[])
        method["failures"] = [{"photo": "000", "status": "no face"}]
    page = render(summary, tmp_path)
    assert "no face" in page.cells
    assert "No recogniser was left out" in page.text


def test_other_false_accept_rates_are_folded(summary: dict, tmp_path: Path) -> None:
    render(summary, tmp_path)
    text = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
    folded = "<summary>Dodging at FAR 0.1 %"
    assert folded in text
    assert "<summary>Dodging at FAR 1 %" not in text


def test_a_commercial_service_has_its_own_table(summary: dict, tmp_path: Path) -> None:
    summary["methods"]["map"]["facepp"] = {
        "confidence_clean": {"mean": 21.25, "std": 1.0, "n": 6},
        "confidence_protected": {"mean": 77.75, "std": 1.0, "n": 5},
    }
    cells = render(summary, tmp_path).cells
    place = cells.index("21.2")
    assert cells[place - 1 : place + 3] == ["MAP", "21.2", "77.8", "5"]


def test_a_cell_without_trials_is_a_dash() -> None:
    assert change(None, "dodging") == "-"
    entry = {"dodging": {"n": 0, "rate": None}, "dodging_clean": {"n": 0, "rate": None}}
    assert change(entry, "dodging") == "-"


def test_tables_are_as_wide_as_their_headers(summary: dict) -> None:
    sections = list(html._sections(summary, {}))
    tables: list[Table] = [table for section in sections for table in section.tables]
    assert len(tables) > 15
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.header)}, table.caption


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_screen(summary: dict, tmp_path: Path, width: int) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    render(summary, tmp_path)
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
        problems: list[str] = []
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert problems == []
    assert background == "rgb(22, 25, 29)"
