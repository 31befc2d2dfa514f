import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT, exit_code, tiny_recogniser
from PIL import Image

from map_pipeline.cli.main import main
from map_pipeline.evaluation.results import photos_file, results_file
from map_pipeline.evaluation.suite import PARTS
from map_pipeline.training import teachers

ROOT = Path(__file__).parents[2]
QUICK = [
    *("--methods", "none", "mosaic", "--transforms", "none", "--targets", "77"),
    *("--device", "cpu"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with two photos each, and a target."""
    folder = tmp_path_factory.mktemp("pairs")
    astronaut = np.array(Image.open(ASTRONAUT).convert("RGB"))[:256, 96:352]
    woman = np.array(Image.open(ASTRONAUT.with_name("woman-young-tan.png")).convert("RGB"))
    for name, face in (("000", astronaut), ("001", woman)):
        Image.fromarray(face).save(folder / f"{name}_a.png")
        Image.fromarray(np.ascontiguousarray(face[:, ::-1])).save(folder / f"{name}_b.png")
    Image.fromarray(woman).save(folder / "77_enroll.png")
    Image.fromarray(np.ascontiguousarray(woman[:, ::-1])).save(folder / "77_probe.png")
    return folder


@pytest.fixture
def evaluate(pairs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    """The subcommand with the tiny checkpoint; results lie in `tmp_path/out`."""

    def call(*arguments: str) -> int:
        fixed = ["--pairs", str(pairs), "--out", str(tmp_path / "out")]
        return main(["evaluate", *fixed, "--checkpoint", str(tiny_checkpoint), *arguments])

    return call


def command(pairs: Path, checkpoint: Path, out: Path, *arguments: str) -> list[str]:
    """The same as a process of its own."""
    fixed = ["--pairs", str(pairs), "--out", str(out), "--checkpoint", str(checkpoint)]
    return [sys.executable, "-m", "map_pipeline", "evaluate", *fixed, *arguments]


def units(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["photo"], row["method"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_everything_is_written(
    evaluate: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    attributes = tmp_path / "attributes.jsonl"
    attributes.write_text('{"name": "000", "gender": "female"}\n{"name": "nobody", "age": 3}')
    assert evaluate(*QUICK, "--attributes", str(attributes), "--styles", "grey") == 0
    names = {path.name for path in out.iterdir()}
    assert names >= {"results.csv", "photos.csv", "summary.json", "report.html", "report.md"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["photos"] == 2
    assert summary["config"]["seed"] == 0
    assert summary["config"]["methods"] == ["none", "mosaic"]
    assert set(summary["weights"]) >= {"unet", "recognisers"}
    problems = {problem["name"]: problem["rule"] for problem in summary["problems"]}
    assert set(problems) == {"nobody", "001"}
    quality = {
        (line["method"], line["measure"]): line["mean"] for line in summary["tables"]["quality"]
    }
    assert quality["none", "ssim"] == pytest.approx(1, abs=1e-6)
    assert {line["style"] for line in summary["tables"]["styles"]} == {"plain", "grey"}
    groups = {(line["attribute"], line["n"]) for line in summary["tables"]["groups"]}
    assert groups >= {("gender", 1), ("skin tone", 1)}
    shown = capsys.readouterr().out
    assert "no protection" in shown
    assert "nobody: has attributes" in shown
    assert len(units(results_file(out))) == 2 * 2 * 2 * 3  # photos, styles, methods, recognisers


def test_other_judges_need_a_folder_of_their_own(
    evaluate: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They'd be compared with what the first ones saw."""
    monkeypatch.setattr(teachers, "load_teacher", lambda path: tiny_recogniser(path.stem))
    for name in ("one", "two"):
        (tmp_path / f"{name}.onnx").write_text(name)
    assert evaluate(*QUICK, "--judge", str(tmp_path / "one.onnx")) == 0
    assert evaluate(*QUICK, "--judge", str(tmp_path / "one.onnx")) == 0
    assert evaluate(*QUICK, "--judge", str(tmp_path / "two.onnx")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{tmp}/other", "--pairs", "{tmp}/missing"], "`pairs` must be a folder or a zip"),
        (["--out", "{tmp}/other", "--pairs", "{tmp}"], "NAME_a.* and NAME_b.*"),
        (["--methods", "magic", "--pairs", "{pairs}"], "`methods` must be one of"),
        (["--styles", "cubist", "--pairs", "{pairs}"], "`styles` must be one of"),
        (["--transforms", "purify", "--pairs", "{pairs}"], "`transforms` must be one of"),
        (["--targets", "nobody", "--pairs", "{pairs}"], "`target` must be"),
        (["--eps", "-1", "--methods", "pgd", "--pairs", "{pairs}"], "eps"),
        (["--facepp", "--pairs", "{pairs}"], "FACEPP_API_KEY"),
        (["--attributes", "{tmp}/missing", "--pairs", "{pairs}"], "missing"),
        (["--suite", "readme", "--eps", "4", "--pairs", "{pairs}"], "`eps` must not be given"),
    ],
)
def test_bad_options(
    pairs: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.delenv("FACEPP_API_KEY", raising=False)
    given = [one.format(tmp=tmp_path, pairs=pairs) for one in arguments]
    fixed = ["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *fixed, *given]) == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if "map-protect: " in one]
    assert words in line
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "0"],
        ["--workers", "0"],
        ["--far", "1"],
        ["--far", "x"],
        ["--emotion", "bored"],
        ["--leave-out", "some"],
        ["--quick"],
        ["--suite", "all"],
    ],
)
def test_options_that_cannot_be(arguments: list[str], pairs: Path, tmp_path: Path) -> None:
    fixed = ["evaluate", "--pairs", str(pairs), "--out", str(tmp_path / "out")]
    assert exit_code([*fixed, *arguments]) == 2
    assert not (tmp_path / "out").exists()


def wait_for_unit(process: subprocess.Popen, out: Path, count: int) -> None:
    """Until `count` units are done; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while (
        not photos_file(out).is_file() or len(photos_file(out).read_bytes().splitlines()) <= count
    ):
        assert process.poll() is None, "the run was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_and_continue(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path, evaluate: Callable
) -> None:
    """kill -9 in the middle of a real run: what was done stays as it is, the rest is done."""
    out = tmp_path / "out"
    arguments = [*QUICK, "--leave-out", "each", "--styles", "grey", "sketch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(pairs, tiny_checkpoint, out, *arguments),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_unit(process, out, 3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "summary.json").exists()
    before = photos_file(out).read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    done = units(photos_file(out))
    assert 3 <= len(whole.splitlines()) - 1 < 24
    # Half a line, as a kill during the write leaves it, and rows whose unit never got finished.
    photos_file(out).write_bytes(whole + b"001,mosaic,dlib_res")
    lines = results_file(out).read_bytes().splitlines(keepends=True)
    orphan = lines[1].replace(b"000,none,dlib_resnet", b"001@sketch,mosaic,mobilefacenet")
    results_file(out).write_bytes(b"".join(lines) + orphan + lines[1][:25])

    assert evaluate(*arguments) == 0
    after = photos_file(out).read_bytes()
    assert after.startswith(whole)  # nothing done was done again: times are the same
    wanted = 2 * 3 * 2 * 2  # photos, styles, left out, methods
    assert len(units(photos_file(out))) == wanted > len(done)
    assert len(units(results_file(out))) == 3 * wanted
    assert len(set(results_file(out).read_bytes().splitlines())) == 3 * wanted + 1
    assert (out / "summary.json").is_file()


@pytest.mark.slow
def test_two_workers_measure_the_same(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path, evaluate: Callable
) -> None:
    assert evaluate(*QUICK) == 0
    shared = tmp_path / "shared"
    done = subprocess.run(
        command(pairs, tiny_checkpoint, shared, *QUICK, "--workers", "2"),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all results:") == 1

    def rows(path: Path) -> list[str]:
        return sorted(path.read_text().splitlines())

    assert rows(results_file(shared)) == rows(results_file(tmp_path / "out"))
    assert sorted(units(photos_file(shared))) == sorted(units(photos_file(tmp_path / "out")))
    first, second = (
        json.loads((folder / "summary.json").read_text())["tables"]["protection"]
        for folder in (shared, tmp_path / "out")
    )
    assert first == second


@pytest.mark.slow
def test_a_suite_answers_every_question_and_goes_on(
    evaluate: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ("--suite", "readme", "--quick", "--limit", "1", "--device", "cpu")
    assert evaluate(*given) == 0
    out, shown = tmp_path / "out", capsys.readouterr().out
    page, text = (out / "suite.html").read_text(), (out / "suite.md").read_text()
    for part in PARTS:
        assert part.question in page
        assert f"## {part.question}" in text
        assert units(photos_file(out / part.name))
    assert text in shown
    assert page.count("<table") >= len(PARTS) + 1
    assert page.count("data:image/png;base64,") == 1
    assert "cost, by size" in text
    assert "5 others to choose from" in text  # too few people for line-ups
    written = {path: path.read_bytes() for path in out.rglob("*.csv")}
    assert evaluate(*given) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == written
    minutes = json.loads((out / "minutes.json").read_text())
    assert set(minutes) == {"cost", *(part.name for part in PARTS)}
