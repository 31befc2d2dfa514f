import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers import DDIMScheduler, UNet2DModel
from made_up import (
    QUICK,
    QUICK_OPTIONS,
    SIDE,
    faces,
    forget_accelerate,
    same,
    weights,
    write_folder,
)
from PIL import Image
from safetensors.torch import load_file

from map_pipeline.cli.train import load_start
from map_pipeline.diffusion.conditioner import FaceConditioner, is_conditional
from map_pipeline.diffusion.unet import crop_size, patch_size
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError
from map_pipeline.training import prior
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.prior import noise_loss, split, train_prior
from map_pipeline.training.run_state import Progress, find_state
from map_pipeline.training.score_model import new_conditioner, new_scheduler, new_unet

pytestmark = pytest.mark.usefixtures("accelerate_anew")


def run(out: Path, **settings: object) -> tuple[list[str], dict[str, float]]:
    """Train as a new process would; what was said, and the scores."""
    forget_accelerate()
    said: list[str] = []
    scores = train_prior(replace(QUICK, **settings), faces(), out, say=said.append)
    return said, scores


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_new_networks_fit_the_crops(patch: int) -> None:
    unet = new_unet(replace(QUICK, patch=patch, channels=(16, 16, 32)), SIDE)
    assert crop_size(unet) == SIDE
    assert patch_size(unet) == patch
    assert is_conditional(unet)
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [False, False, True]


def test_networks_that_cant_be() -> None:
    with pytest.raises(UnknownOptionError, match="need a multiple of 16 px, got 40 px"):
        new_unet(replace(QUICK, patch=4, channels=(16, 16, 32)), 40)
    with pytest.raises(UnknownOptionError, match=r"multiples of 16, got \[16, 24\]"):
        new_unet(replace(QUICK, channels=(16, 24)), SIDE)


def test_the_mean_shape_is_that_of_the_faces_with_landmarks() -> None:
    known = faces()
    conditioner = new_conditioner(QUICK, known, new_unet(QUICK, SIDE))
    torch.testing.assert_close(conditioner.mean_shape, known.landmarks68[:-1].mean(0))
    blind = replace(known, has_landmarks=torch.zeros(len(known)).bool())
    assert not new_conditioner(QUICK, blind, new_unet(QUICK, SIDE)).mean_shape.any()


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ("patch layers_per_block levels batch_size accumulation updates report_every", 0),
        ("learning_rate minutes", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("warmup validation_faces seed", -1),
        ("min_snr drop_emotion drop_shape drop_all", -1.0),
        ("cooldown balance", 1.5),
        ("ema_decay", 1.0),
        ("mixed_precision", "fp8"),
        ("channels", ()),
        ("channels", (16, "a")),
        ("channels", (16, -16)),
    ],
)
def test_settings_out_of_range(names: str, value: object) -> None:
    for name in names.split():
        with pytest.raises(UnknownOptionError, match=rf"^`{name}` must be [^\n]+, got [^\n]+\.$"):
            replace(QUICK, **{name: value})


def test_at_most_a_tenth_validates() -> None:
    for wanted, expected in ((0, 0), (2, 2), (256, 10)):
        training, validation = split(faces(100), replace(QUICK, validation_faces=wanted))
        assert len(validation) == expected
        assert len(training) == 100 - expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, float]]:
    """Folder, lines and scores of a run that nobody stopped; don't change it."""
    out = tmp_path_factory.mktemp("prior") / "run"
    return out, *run(out, updates=6)


@pytest.fixture
def copied(finished: tuple[Path, list[str], dict], tmp_path: Path) -> Path:
    """Its folder, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


@pytest.mark.slow
def test_a_run_leaves_what_is_needed(finished: tuple[Path, list[str], dict]) -> None:
    out, said, scores = finished
    summary = json.loads((out / "training.json").read_text())
    assert summary["scores"] == scores
    assert summary["updates"] == 6
    assert PriorConfig(
        **summary["config"] | {"channels": tuple(summary["config"]["channels"])}
    ) == (replace(QUICK, updates=6))
    assert {path.name for path in out.iterdir()} == {
        "unet",
        "conditioner",
        "scheduler",
        "state",
        "samples.png",
        "training.json",
    }
    unet = UNet2DModel.from_pretrained(out / "unet")
    assert is_conditional(unet)
    assert crop_size(unet) == SIDE
    scheduler = DDIMScheduler.from_pretrained(out / "scheduler")
    torch.testing.assert_close(scheduler.alphas_cumprod, new_scheduler().alphas_cumprod)
    assert weights(out, "conditioner")["mean_shape"].abs().sum() > 0
    with Image.open(out / "samples.png") as grid:
        assert grid.width > 9 * SIDE
        assert grid.height > 2 * SIDE  # two validation faces
    # One line a report; the last update is reported once.
    assert [line.split(",")[0] for line in said] == ["update 2", "update 4", "update 6"]
    assert all("loss 0." in line or "loss 1." in line for line in said)
    assert "round_trip_500" in said[-1]


@pytest.mark.slow
def test_the_same_call_again_only_reports(
    finished: tuple[Path, list[str], dict], copied: Path
) -> None:
    said, scores = run(copied, updates=6)
    assert said[0] == "resumed at update 6"
    assert "loss" not in said[1]
    assert len(said) == 2
    assert scores == pytest.approx(finished[2], abs=1e-4)
    assert same(weights(copied), weights(finished[0]))


class Stop(Exception):
    pass


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    finished: tuple[Path, list[str], dict], tmp_path: Path
) -> None:
    """Stopped twice after a report: updates since the last one are done again."""
    advance = Progress.advance
    for last in (3, 5):

        def stop(progress: Progress, last: int = last) -> None:
            advance(progress)
            if progress.update == last:
                raise Stop

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Progress, "advance", stop)
            with pytest.raises(Stop):
                run(tmp_path, updates=6)
        assert json.loads((tmp_path / "training.json").read_text())["updates"] == last - 1
    said, scores = run(tmp_path, updates=6)
    assert said[0] == "resumed at update 4"
    assert scores == finished[2]
    for part in ("unet", "conditioner"):
        assert same(weights(tmp_path, part), weights(finished[0], part))


@pytest.mark.slow
def test_the_seed_decides(finished: tuple[Path, list[str], dict], tmp_path: Path) -> None:
    torch.manual_seed(1234)  # the global generator has no say
    for seed in (0, 1):
        run(tmp_path / str(seed), updates=6, report_every=6, seed=seed)
        assert same(weights(tmp_path / str(seed)), weights(finished[0])) == (seed == 0)


@pytest.mark.slow
def test_training_helps(tmp_path: Path) -> None:
    _, before = run(tmp_path / "a", updates=1)
    longer = {"updates": 60, "report_every": 100, "learning_rate": 3e-3, "ema_decay": 0.9}
    _, after = run(tmp_path / "b", **longer)
    gains = {name: after[name] - before[name] for name in before}  # dB
    assert all(gains[f"x0_{level}"] > 0.1 for level in (150, 300, 450))
    assert all(gains[f"round_trip_{level}"] > 5 for level in (300, 500))


@pytest.mark.slow
def test_the_average_is_the_result(tmp_path: Path) -> None:
    """With no memory it is the last update, with a long one it stays nearer to the start."""

    def distance(decay: float) -> float:
        out = tmp_path / str(decay)
        run(out, ema_decay=decay, report_every=4)
        last = load_file(out / "state" / "model.safetensors")
        found = weights(out).items()
        return max((last[f"unet.{name}"] - v).abs().max().item() for name, v in found)

    assert distance(0.0) < 1e-8
    assert distance(0.999) > 1e-4


@pytest.mark.slow
def test_accumulated_steps_are_one_update(tmp_path: Path) -> None:
    run(tmp_path, accumulation=3, updates=2)
    state = torch.load(tmp_path / "state" / "optimizer.bin", weights_only=True)
    assert {int(entry["step"]) for entry in state["state"].values()} == {2}


@pytest.mark.slow
def test_mixed_precision_keeps_full_weights(tmp_path: Path) -> None:
    _, scores = run(tmp_path, mixed_precision="bf16", updates=1)
    assert all(np.isfinite(value) for value in scores.values())
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}


def test_without_validation_there_are_no_scores_and_no_samples(tmp_path: Path) -> None:
    said, scores = run(tmp_path, updates=1, validation_faces=0)
    assert scores == {}
    assert not (tmp_path / "samples.png").exists()
    assert said[0].startswith("update 1, 0.0 min, loss ")
    assert "dB" not in said[0]


@pytest.mark.slow
def test_weights_that_arent_finite_are_never_saved(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(copied)
    with monkeypatch.context() as patch:
        patch.setattr(prior, "noise_loss", lambda *args: noise_loss(*args) * float("nan"))
        with pytest.raises(MAPError, match="aren't finite any more at update 8"):
            run(copied, updates=8)
    assert same(weights(copied), before)
    said, _ = run(copied, updates=8)
    assert said[0] == "resumed at update 6"


def test_weights_without_a_state_are_not_overwritten(copied: Path) -> None:
    shutil.rmtree(copied / "state")
    before = weights(copied)
    with pytest.raises(UnknownOptionError, match="which holds weights only"):
        run(copied, updates=8)
    assert same(weights(copied), before)


@pytest.mark.parametrize(
    "change", [{"channels": (32, 32)}, {"hidden": 16}, {"patch": 2}, {"layers_per_block": 2}]
)
def test_a_run_cant_go_on_with_another_network(
    finished: tuple[Path, list[str], dict], change: dict
) -> None:
    [name] = change
    with pytest.raises(UnknownOptionError, match=rf"^`{name}` must stay .+, as in the run"):
        run(finished[0], **change)


@pytest.mark.slow
def test_a_run_goes_on_with_other_training_settings(copied: Path) -> None:
    run(copied, updates=7, batch_size=2, learning_rate=1e-4, report_every=1)
    summary = json.loads((copied / "training.json").read_text())
    assert summary["updates"] == 7
    assert summary["config"]["batch_size"] == 2


def test_faces_of_another_size_than_the_network(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match="network's crops, 32 px, got 64 px"):
        train_prior(QUICK, faces(side=64), tmp_path, new_unet(QUICK, 32), new_scheduler())
    with pytest.raises(UnknownOptionError, match=r"`levels` must be in \[1, 100\], got 700"):
        train_prior(QUICK, faces(), tmp_path, None, DDIMScheduler(num_train_timesteps=100))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_start_from_a_run(finished: tuple[Path, list[str], dict], tmp_path: Path) -> None:
    """Also one stored in half precision, with its own conditioner and mean shape."""
    start = tmp_path / "half"
    for part, kind in (("unet", UNet2DModel), ("conditioner", FaceConditioner)):
        kind.from_pretrained(finished[0] / part).half().save_pretrained(start / part)
    new_scheduler().save_pretrained(start / "scheduler")
    unet, scheduler, conditioner = load_start(str(start))
    config = replace(QUICK, updates=1, learning_rate=1e-9, hidden=64)
    out = tmp_path / "out"
    train_prior(config, faces(seed=1), out, unet.half(), scheduler, lambda _: None, conditioner)
    for part in ("unet", "conditioner"):
        for name, value in weights(out, part).items():
            assert value.dtype == torch.float32
            expected = weights(finished[0], part)[name].half().float()
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    summary = json.loads((out / "training.json").read_text())
    assert summary["config"]["hidden"] == QUICK.hidden  # that of the network, not the asked one


@pytest.mark.slow
def test_a_network_without_conditions_can_be_trained(tmp_path: Path) -> None:
    train_prior(QUICK, faces(), tmp_path, tiny_unet(), DDIMScheduler(), lambda _: None)
    assert not is_conditional(UNet2DModel.from_pretrained(tmp_path / "unet"))
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.width < 3 * SIDE + 10  # no emotions to show


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """A real one, killed while it saves one report after the other."""
    source, out = write_folder(tmp_path / "faces", 24), tmp_path / "out"
    command = [sys.executable, "-m", "map_pipeline", "train", "prior", "--faces", str(source)]
    command += ["--out", str(out), *QUICK_OPTIONS]
    command += ["--updates", "100000", "--report-every", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.startswith("update 3,"):
                break
        time.sleep(0.13)  # into the next update or its report
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    assert find_state(out / "state") is not None
    done = json.loads((out / "training.json").read_text())["updates"]
    assert done >= 3
    for part in ("unet", "conditioner"):
        assert all(value.isfinite().all() for value in weights(out, part).values())
    said, _ = run(out, updates=done + 2, report_every=1)
    resumed = int(said[0].removeprefix("resumed at update "))
    assert done <= resumed <= done + 1  # the state is written first
    assert said[-1].startswith(f"update {done + 2},")
