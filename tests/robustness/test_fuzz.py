"""A small fuzz campaign for every run of the tests; `make fuzz` is the long one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import fuzz_cases
import fuzz_package
import hostile
import hypothesis
import pytest
from hypothesis import HealthCheck

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main

# The same cases in every run: a failure here is somebody's change, not luck.
few = hypothesis.settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz_package.STRATEGIES)
def test_gate_reads_or_refuses(kind: str) -> None:
    @few
    @hypothesis.given(fuzz_package.STRATEGIES[kind])
    def check(case: Any) -> None:
        fuzz_package.read(case)

    check()


@pytest.fixture
def command(
    tiny_pipeline: MAPPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., bool]:
    """`map-protect protect` without the time that loading the networks takes."""
    monkeypatch.setattr("map_pipeline.cli.protect.load_pipeline", lambda *_: tiny_pipeline)

    def run(*arguments: str) -> bool:
        code = main(["protect", *arguments, "--refine-steps=1"])
        return fuzz_package.judge_command(code, capsys.readouterr().err)

    return run


@pytest.mark.slow
def test_command_line_protects_or_refuses(command: Callable[..., bool], tmp_path: Path) -> None:
    files = [*fuzz_cases.draw(hostile.mutants(), 0, 60), *hostile.faces().values()]
    done = 0
    for number, content in enumerate(files):
        (tmp_path / f"{number}").write_bytes(content)
        done += command(str(tmp_path / f"{number}"), str(tmp_path / f"{number}.png"))
    assert done == len(hostile.faces()) == len(list(tmp_path.glob("*.png")))


def test_folder_with_odd_names(command: Callable[..., bool], tmp_path: Path) -> None:
    names = ["-rf.png", "a\nb.png", "\x1b[2Ja.png", "<script>.png", "$(id).png", "..png"]
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, content in zip(names, hostile.samples().values(), strict=False):
        (photos / name).write_bytes(content)
    (photos / "\udcff.png").write_bytes(hostile.faces()["png"])
    assert not command(str(photos), str(tmp_path / "out"))  # only one shows a face
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.slow
def test_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--seconds=60", f"--keep={tmp_path}"])
    assert fuzz.main() == 0
