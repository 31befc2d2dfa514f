import copy
import json
import re
from pathlib import Path

import pytest
from synthetic import make_summary

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation import findings, readme
from map_pipeline.evaluation.readme import BEGIN, END

BEFORE, AFTER = "# Title\n\nText with ümlauts.\n\n", "\n\n## Licence\n"


@pytest.fixture(scope="module")
def made() -> dict:
    return make_summary(n=6)[0]


@pytest.fixture
def summary(made: dict) -> dict:
    """A copy that a test may change."""
    return copy.deepcopy(made)


@pytest.fixture
def files(summary: dict, tmp_path: Path) -> tuple[Path, Path]:
    text, results = tmp_path / "README.md", tmp_path / "summary.json"
    text.write_text(f"{BEFORE}{BEGIN}\nold figures\n{END}{AFTER}", encoding="utf-8")
    results.write_text(json.dumps(summary))
    return text, results


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every Markdown table."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in one.splitlines()]
        for one in found
    ]


def test_only_the_part_between_the_markers_changes(files: tuple[Path, Path], summary: dict) -> None:
    readme.update(*files)
    text = files[0].read_text(encoding="utf-8")
    assert text == f"{BEFORE}{BEGIN}\n\n{readme.section(summary)}\n\n{END}{AFTER}"


def test_a_second_update_changes_nothing(files: tuple[Path, Path]) -> None:
    readme.update(*files)
    first = files[0].read_bytes()
    readme.update(*files)
    assert files[0].read_bytes() == first
    assert sorted(path.name for path in files[0].parent.iterdir()) == ["README.md", "summary.json"]


def test_line_ends_of_the_file_are_kept(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(f"a\r\n{BEGIN}\r\n{END}\r\nb\r\n".encode())
    readme.update(*files)
    content = files[0].read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 10


@pytest.mark.parametrize(
    "text",
    ["no markers", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"],
)
def test_without_the_markers_nothing_is_written(files: tuple[Path, Path], text: str) -> None:
    files[0].write_text(text)
    with pytest.raises(UnknownOptionError, match=r"`readme` must .*results:begin.*'README\.md'"):
        readme.update(*files)
    assert files[0].read_text() == text


def test_a_missing_readme_is_named(files: tuple[Path, Path]) -> None:
    files[0].unlink()
    with pytest.raises(UnknownOptionError, match=r"'README\.md', which doesn't exist"):
        readme.update(*files)
    assert not files[0].exists()


def test_a_file_that_is_no_summary_changes_nothing(files: tuple[Path, Path]) -> None:
    files[1].write_text('{"name": "map"}')
    before = files[0].read_bytes()
    with pytest.raises(UnknownOptionError, match=r"summary\.json"):
        readme.update(*files)
    assert files[0].read_bytes() == before


def test_tables_are_well_formed(summary: dict) -> None:
    found = tables(readme.section(summary))
    assert [len(table) - 2 for table in found] == [
        6,
        4,
        6,
        5,
    ]  # methods, judges, quality, ablations
    for table in found:
        assert len({len(row) for row in table}) == 1
        assert set(table[1]) == {"---"}


def test_rates_come_from_the_summary(summary: dict) -> None:
    methods, judges, quality, _ = tables(readme.section(summary))
    saved, shared = findings.pooled(summary, "tidim"), findings.pooled(summary, "tidim", "share")
    row = next(row for row in methods if row[0].startswith("TI-DIM"))
    assert row[1] == "6"
    for cell, key in ((2, "impersonation"), (4, "dodging")):
        clean, rate = saved[f"{key}_clean"]["rate"], saved[key]
        assert row[cell] == (
            f"{100 * clean:.1f} -> {100 * rate['rate']:.1f} % "
            f"({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"
        )
        assert row[cell + 1] == f"{100 * shared[key]['rate']:.1f} %"
    assert [row[0] for row in judges[2:]] == [
        "dlib ResNet-29",
        "MobileFaceNet",
        "FaceRes",
        "MobileFace",
    ]
    psnr = summary["methods"]["map"]["quality"]["psnr"]["mean"]
    assert quality[2][:2] == ["MAP", f"{psnr:.1f} dB"]
    assert "LPIPS" not in quality[0]  # a column without any figure


def test_the_leading_method_stands_out(summary: dict) -> None:
    methods = tables(readme.section(summary))[0]
    assert [row[0] for row in methods if row[0].startswith("**")] == ["**MAP**"]


def test_the_section_tells_what_it_rests_on(summary: dict) -> None:
    text = " ".join(readme.section(summary).split())
    assert "6 photos" in text
    assert "weights of 2026-11-23" in text
    assert "95 % intervals" in text
    assert "LPIPS: weights absent" in text
    assert "```bash map-protect evaluate --pairs=pairs.zip" in text
    assert "map-protect evaluate --out=dev --readme ```" in text
    assert "secret" not in text
    for fact in ("MAP without EMA against MAP:", "MAP, expression only against MAP:"):
        assert f"- {fact}" in text
    assert "the top class for DenseNet-121" in text


def test_failures_and_unusable_files_are_counted(summary: dict) -> None:
    summary["methods"]["pgd"]["failures"] = [{"photo": "1", "status": "no face"}] * 2
    text = readme.section(summary)
    assert "Protections that failed and count as such: 2." in text
    assert "Files that could not be used: 1." in text


def test_text_from_a_run_cannot_leave_its_place(files: tuple[Path, Path], summary: dict) -> None:
    summary["methods"]["map"]["title"] = f"a|b\n{END}<script>"
    summary["methods"]["map"]["expression"]["judge"] = f"{BEGIN}\n| x |"
    for entry in summary["methods"]["map"]["verification"]:
        entry["title"] = "c|d"
    files[1].write_text(json.dumps(summary))
    readme.update(*files)
    readme.update(*files)  # the markers are still there once each
    text = files[0].read_text()
    assert "<script>" not in text
    for table in tables(text):
        assert len({len(row) for row in table}) == 1


def test_without_a_recogniser_left_out_the_section_says_so(summary: dict) -> None:
    for method in summary["methods"].values():
        method["mean_unseen"] = []
    assert "No recogniser was left out" in readme.section(summary)


def test_a_small_run_has_no_ablations_and_no_expression() -> None:
    summary, _, _ = make_summary(n=3, methods=("map",), attributes={}, judge=None)
    text = readme.section(summary)
    assert "**Ablations**" not in text
    assert "asked expression" not in text.lower()
    assert len(tables(text)) == 3


def test_lines_of_text_stay_short(summary: dict) -> None:
    lines = readme.section(summary).splitlines()
    prose = [line for line in lines if not line.startswith(("|", "map-protect"))]
    assert max(map(len, prose)) <= readme.WIDTH
