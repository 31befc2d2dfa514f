"""What goes wrong around the program: nothing is half written, and the text says what to do."""

import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main
from map_pipeline.errors import CheckpointError, GPUMemoryError
from map_pipeline.faces.detect import load_detector
from map_pipeline.identity.recognisers import find_arcface

ROOT = Path(__file__).parents[2]


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "portrait.png"
    path.parent.mkdir()
    Image.open(ASTRONAUT).convert("RGB").crop((96, 0, 352, 256)).save(path)
    return path


@pytest.fixture
def arguments(tiny_checkpoint: Path) -> list[str]:
    """Options of `map-protect protect` for a run of tenths of a second."""
    return ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "1"]


@pytest.mark.slow
def test_killed_folder_run_leaves_whole_files_and_the_next_run_is_complete(
    arguments: list[str], portrait: Path, tmp_path: Path
) -> None:
    photo = portrait.read_bytes()
    for number in range(40):
        (portrait.parent / f"{number:02}.png").write_bytes(photo)
    out = tmp_path / "out"
    call = ["protect", str(portrait.parent), str(out), *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "map_pipeline", *call],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("*.png")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    written = list(out.glob("*.png"))
    assert 0 < len(written) < 41, "the run was over before it could be killed"
    for path in written:
        Image.open(path).load()
    for path in sorted(portrait.parent.glob("*.png"))[3:]:
        path.unlink()
    assert main([*call, "--skip-existing"]) == 0
    assert {path.name for path in portrait.parent.iterdir()} <= {
        path.name for path in out.iterdir()
    }


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_told_and_leaves_no_file(
    arguments: list[str], portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with files_up_to(4096):
        code = main(["protect", str(portrait), str(tmp_path / "out" / "a.png"), *arguments])
    assert code == 2
    assert "File too large" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk_under_the_report_is_told_of_each_photo(
    arguments: list[str], portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    portrait.with_name("other.png").write_bytes(portrait.read_bytes())
    out, report = tmp_path / "out", tmp_path / "report.json"
    earlier = json.dumps({"old.png": "x" * 300_000})
    report.write_text(earlier)
    call = ["protect", str(portrait.parent), str(out), "--skip-existing", "--report", str(report)]
    with files_up_to(250_000):
        assert main([*call, *arguments]) == 1
    errors = [one for one in capsys.readouterr().err.splitlines() if one.startswith("map-protect")]
    for line, name in zip(errors, ("other.png", "portrait.png"), strict=True):
        assert line.startswith(f"map-protect: {name}: ")
        assert "File too large" in line
        assert str(report) in line
    assert {path.name for path in out.iterdir()} == {"other.png", "portrait.png"}
    assert report.read_text() == earlier
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "report.json"}


def test_an_output_that_is_closed_ends_the_run_with_whole_files(
    arguments: list[str],
    portrait: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for number in range(3):
        portrait.with_name(f"{number}.png").write_bytes(portrait.read_bytes())
    out, report = tmp_path / "out", tmp_path / "report.json"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        call = ["protect", str(portrait.parent), str(out), "--report", str(report)]
        assert main([*call, *arguments]) == 141
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("map-protect: ") == 1
    assert [path.name for path in out.iterdir()] == ["0.png"]
    Image.open(out / "0.png").load()
    assert list(json.loads(report.read_text())) == ["0.png"]


def test_help_may_be_cut_off() -> None:
    call = f"{sys.executable} -m map_pipeline protect --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 141
    assert "Error" not in done.stderr


@pytest.mark.parametrize("offline", [False, True], ids=["no network", "HF_HUB_OFFLINE"])
def test_hub_checkpoint_without_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, offline: bool
) -> None:
    asked = []

    def no_network(host: str, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    started = time.monotonic()
    assert main(["info", "--checkpoint", "user/repo"]) == 2
    error = capsys.readouterr().err
    assert "must be a Hub repository that can be fetched or was before, got user/repo" in error
    assert "Traceback" not in error
    assert bool(asked) is not offline
    assert time.monotonic() - started < 20  # no row of retries


def test_read_only_home(
    arguments: list[str], portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever written to the home folder; here it can't even be made."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MAP_INSIGHTFACE_ROOT")
    assert main(["protect", str(portrait), str(tmp_path / "a.png"), *arguments]) == 0


@pytest.mark.filterwarnings("ignore")  # insightface's imports warn about their own dependencies
def test_half_downloaded_insightface_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("insightface")
    monkeypatch.setenv("MAP_INSIGHTFACE_ROOT", str(tmp_path))
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    assert load_detector("auto").name.endswith("(bundled)")  # an empty folder
    assert find_arcface() is None
    for name in ("det_10g.onnx", "w600k_r50.onnx"):
        (pack / name).write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(1000))
    assert load_detector("auto").name.endswith("(bundled)")
    assert find_arcface() is None
    assert "Using the bundled face detector" in caplog.text
    assert "Going on without ArcFace" in caplog.text
    with pytest.raises(CheckpointError, match="buffalo_l"):
        load_detector("insightface")


def test_gpu_out_of_memory_says_what_to_do(
    tiny_pipeline: MAPPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    photo = Image.open(ASTRONAUT)
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny_pipeline.unet), "forward", no_memory)
        with pytest.raises(GPUMemoryError, match=r"Choose mode 'fast'.*on the CPU"):
            tiny_pipeline(photo, refine_steps=1)
    assert tiny_pipeline(photo, refine_steps=1).images[0].size == photo.size


def test_gpu_out_of_memory_on_the_page_is_in_plain_words() -> None:
    gradio = pytest.importorskip("gradio")
    from map_pipeline.ui.requests import errors_in_plain_words

    with pytest.raises(gradio.Error) as caught, errors_in_plain_words():
        raise pickle.loads(pickle.dumps(GPUMemoryError()))  # as it comes from the GPU's process
    assert "Choose mode 'fast'" in caught.value.message


def test_gpu_out_of_memory_at_the_command_line(
    arguments: list[str],
    portrait: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("diffusers.UNet2DModel.forward", no_memory)
    assert main(["protect", str(portrait), str(tmp_path / "out" / "a.png"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "free memory" in error
    assert "Traceback" not in error
    assert list((tmp_path / "out").iterdir()) == []


class StoppedError(Exception):
    pass


def test_cancelled_call_stops_and_leaves_the_pipeline_as_it_was(
    tiny_pipeline: MAPPipeline,
) -> None:
    def run(**options: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(3)
        output = tiny_pipeline(ASTRONAUT, generator=generator, **options)
        return np.array(output.images[0])

    steps = []

    def stop(_pipe: MAPPipeline, step: int, *_: Any) -> None:
        steps.append(step)
        if step == 1:
            raise StoppedError

    before = run(refine_steps=2)
    weights = {name: value.clone() for name, value in tiny_pipeline.unet.state_dict().items()}
    with pytest.raises(StoppedError):
        run(refine_steps=30, callback_on_step_end=stop)
    assert steps == [0, 1]  # the work really stopped
    for name, value in tiny_pipeline.unet.state_dict().items():
        assert torch.equal(value, weights[name]), name
    np.testing.assert_array_equal(run(refine_steps=2), before)
