"""Whatever didn't work is said first, and scripts can be made to fail for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT, exit_code
from PIL import Image

from map_pipeline import FaceReport
from map_pipeline.cli.main import main
from map_pipeline.cli.protect import check_requirements
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.face import Face
from map_pipeline.report import PhotoReport, RecogniserReport, remaining_matches
from map_pipeline.verdict import advice, headline


def recogniser(
    title: str, no_longer_matches: bool | None, impersonates: bool | None = True
) -> RecogniserReport:
    return RecogniserReport(
        title, title, "family", True, {}, 0.1, 0.5, 0.2, impersonates, no_longer_matches
    )


def face(*recognisers: RecogniserReport) -> FaceReport:
    return FaceReport(
        (0.0, 0.0, 90.0, 90.0), "a detector", "happy", "a target", 0.9, 30.0, 1.0, [*recognisers]
    )


GOOD = face(recogniser("A", True), recogniser("B", True))
BAD = face(recogniser("A", True), recogniser("B", False), recogniser("C", False, False))
WEAKEST = face(recogniser("A", True), recogniser("B", True), recogniser("C", False))
UNKNOWN = face(recogniser("A", None, None))


def in_group(report: FaceReport, left: int) -> FaceReport:
    """The report of a face beside so many that are left as they are."""
    return replace(report, photo=PhotoReport(1 + left, [(0.0, 0.0, 50.0, 50.0)] * left))


@pytest.mark.parametrize(
    ("reports", "text"),
    [
        ([GOOD], "Protected: none of 2 recognition programs still finds you."),
        ([BAD], "Not protected: 2 of 3 recognition programs still find you (B and C)."),
        ([GOOD, BAD], "Not protected: 2 of 3 recognition programs still find you (B and C)."),
        ([WEAKEST], "Partly protected: 1 of 3 recognition programs still finds you (C)."),
        (
            [face(recogniser("B", False))],
            "Not protected: 1 of 1 recognition program still finds you.",
        ),
        ([UNKNOWN], "Done, but no recognition program here can say whether it worked."),
        ([GOOD, UNKNOWN], "Protected: none of 2 recognition programs still finds you."),
    ],
)
def test_headline(reports: list[FaceReport], text: str) -> None:
    assert headline(reports) == text


@pytest.mark.parametrize("report", [GOOD, BAD, UNKNOWN])
def test_headline_counts_the_faces_that_are_left(report: FaceReport) -> None:
    for left, count in ((1, "1 of 2 faces"), (3, "1 of 4 faces"), (9, "1 of 10 faces")):
        text = headline([in_group(report, left)])
        assert count in text
        assert not text.startswith("Protected")
        assert (f"{count} protected;" in text) is (report is GOOD)
    assert headline([in_group(report, 0)]) == headline([report])


@pytest.mark.parametrize("requirement", ["dodging", "impersonation"])
def test_unprotected_faces_break_requirements(
    capsys: pytest.CaptureFixture, requirement: str
) -> None:
    reports = {"a.png": [in_group(GOOD, 2)]}
    assert check_requirements(reports, [requirement]) == 3
    assert "a.png: --require: 2 of 3 faces found are left" in capsys.readouterr().err
    assert check_requirements(reports, [requirement], all_faces=False) == 0
    assert check_requirements(reports, []) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def group(couple: np.ndarray, tmp_path: Path) -> Path:
    Image.fromarray(couple).save(tmp_path / "group.png")
    return tmp_path / "group.png"


@pytest.mark.parametrize(
    ("options", "left", "reported"),
    [([], 1, True), (["--faces", "largest"], 1, False), (["--faces", "all"], 0, False)],
)
def test_command_line_tells_who_is_left_unprotected(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    group: Path,
    options: list[str],
    left: int,
    reported: bool,
) -> None:
    report = tmp_path / "report.json"
    call = ["protect", str(group), str(tmp_path / "out.png"), "--report", str(report)]
    call += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "0"]
    assert main([*call, *options, "--require", "dodging"]) == 3  # without a step nobody is hidden
    captured = capsys.readouterr()
    assert ("1 of 2 faces edited; the one on the right isn't" in captured.out) is bool(left)
    assert ("--require: 1 of 2 faces found" in captured.err) is reported
    for face in json.loads(report.read_text())["group.png"]:
        assert face["photo"]["faces_found"] == 2
        assert face["photo"]["faces_unprotected"] == left


@pytest.mark.parametrize("options", [[], ["--rotate"]])
def test_command_line_finds_turned_faces_or_tells_of_them(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    group: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    """Of the detector's ways only the one that is asked for sees the second face here."""
    detect = BundledDetector.detect

    def see(self: BundledDetector, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        return detect(self, photo)[: 2 if rotate else 1]

    monkeypatch.setattr(BundledDetector, "detect", see)
    call = ["protect", str(group), str(tmp_path / "out.png"), "--faces", "all", *options]
    call += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "0"]
    assert main(call) == 0
    captured = capsys.readouterr()
    assert captured.out.count("face at ") == (2 if options else 1)
    assert (
        "group.png: there may be more faces, rotated or half hidden, at (" in captured.err
    ) is not bool(options)


def test_fast_mode_is_told_of_strong_mode() -> None:
    assert "--mode strong" in advice("fast")
    assert "--mode strong" not in advice("strong")
    assert "--margin high" in advice("strong")


def test_remaining_matches_of_both_kinds() -> None:
    assert remaining_matches([GOOD]) == []
    assert remaining_matches([GOOD, BAD]) == ["B", "C"]
    assert remaining_matches([GOOD, BAD], "impersonation") == ["C"]
    assert remaining_matches([UNKNOWN]) == []


@pytest.mark.parametrize(
    ("requirements", "report", "code", "text"),
    [
        ([], BAD, 0, ""),
        (["dodging"], GOOD, 0, ""),
        (["dodging"], BAD, 3, "a.png: --require dodging: the original is still recognised by B"),
        (["impersonation"], BAD, 3, "a.png: --require impersonation: the target isn't seen by C."),
        (["dodging", "impersonation"], GOOD, 0, ""),
        (["dodging", "impersonation"], BAD, 3, "impersonation"),
        (["dodging"], UNKNOWN, 3, "no recogniser of this checkpoint has a threshold"),
    ],
)
def test_requirements(
    capsys: pytest.CaptureFixture,
    requirements: list[str],
    report: FaceReport,
    code: int,
    text: str,
) -> None:
    assert check_requirements({"a.png": [report]}, requirements) == code
    error = capsys.readouterr().err
    assert text in error
    assert bool(error) is bool(code)


def test_command_line_says_it_first_writes_and_fails(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Without any step the networks of the test see the same face as before."""
    call = ["protect", str(ASTRONAUT), str(tmp_path / "a.png"), "--refine-steps", "0"]
    call += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--mode", "fast"]
    assert main(call) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("Not protected: 3 of 3 recognition programs still find you.")
    assert "--mode strong" in first
    assert main([*call, "--require", "dodging", "--overwrite"]) == 3
    assert "still recognised by tiny dlib" in capsys.readouterr().err
    assert (tmp_path / "a.png").is_file()


def test_impersonation_of_nobody_cannot_be_required(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    call = ["protect", str(ASTRONAUT), str(tmp_path / "a.png"), "--require", "impersonation"]
    assert exit_code(call) == 2
    assert "--target" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_unfit_face_is_named_on_the_terminal_and_in_the_report(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo, report = tmp_path / "cut.png", tmp_path / "report.json"
    Image.open(ASTRONAUT).convert("RGB").crop((0, 0, 235, 256)).save(photo)
    call = ["protect", str(photo), str(tmp_path / "a.png"), "--refine-steps", "0"]
    call += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--report", str(report)]
    assert main(call) == 0
    assert "cut.png: face 1 is cut off by the edge of the photo" in capsys.readouterr().err
    [problem] = json.loads(report.read_text())["cut.png"][0]["problems"]
    assert problem.startswith("cut off by the edge")
