import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline, tiny_unet
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from made_up import (
    QUICK,
    QUICK_OPTIONS,
    SIDE,
    batch,
    faces,
    forget_accelerate,
    score_model,
    write_folder,
)
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.cli.train import load_start
from map_pipeline.diffusion.conditioner import Condition, FaceConditioner, is_conditional
from map_pipeline.diffusion.ddim import invert
from map_pipeline.diffusion.unet import crop_size, patch_size, patchify, predict_noise, unpatchify
from map_pipeline.errors import InvalidImageError, MAPError, UnknownOptionError
from map_pipeline.faces.align import Alignment, warp_affine
from map_pipeline.images import load_image, to_array, to_tensor
from map_pipeline.training import prior
from map_pipeline.training.augment import Batch
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.prior import noise_loss, of_network, split, train_prior
from map_pipeline.training.run_state import Progress, find_state
from map_pipeline.training.score_model import new_conditioner, new_scheduler, new_unet

ALPHAS = new_scheduler().alphas_cumprod


@pytest.fixture(autouse=True)
def accelerate_anew() -> Iterator[None]:
    forget_accelerate()
    yield
    forget_accelerate()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(out: Path, part: str = "unet") -> dict[str, Tensor]:
    kind = {"unet": UNet2DModel, "conditioner": FaceConditioner}[part]
    return kind.from_pretrained(out / part).state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def run(out: Path, **settings: object) -> tuple[list[str], dict[str, float]]:
    """Train as a new process would; what was said, and the scores."""
    forget_accelerate()
    said: list[str] = []
    scores = train_prior(replace(QUICK, **settings), faces(), out, say=said.append)
    return said, scores


# --- the loss ---


class Spy:
    """Answers with the true noise plus an error, and remembers what it was asked."""

    def __init__(self, config: PriorConfig, faces: Batch, error: float = 0.0) -> None:
        self.clean = patchify(faces.images, config.patch)
        self.error = error
        self.asked: list[tuple[Tensor, Condition, Tensor]] = []

    def __call__(self, latents: Tensor, level: Tensor, told: Condition, keep: Tensor) -> Tensor:
        self.asked.append((level, told, keep))
        alpha = ALPHAS.double()[level].view(-1, 1, 1, 1)
        noise = (latents - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return noise + self.error


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_an_oracle_has_no_loss(patch: int) -> None:
    config, known = replace(QUICK, patch=patch), batch()
    loss = noise_loss(Spy(config, known), ALPHAS, known, config, generator())
    assert loss.item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("min_snr", [5.0, 1.0])
def test_a_known_error_is_weighted_by_min_snr(min_snr: float) -> None:
    config, known = replace(QUICK, min_snr=min_snr), batch()
    spy = Spy(config, known, error=0.3)
    loss = noise_loss(spy, ALPHAS, known, config, generator())
    alpha = ALPHAS[spy.asked[0][0]]
    snr = alpha / (1 - alpha)
    weight = torch.minimum(snr, torch.tensor(min_snr)) / snr
    assert weight.min() < 0.5 < weight.max()
    assert loss.item() == pytest.approx(0.09 * weight.mean().item(), rel=1e-3)


def test_levels_come_from_the_asked_range() -> None:
    known = batch()
    for levels, expected in ((1, {0}), (3, {0, 1, 2})):
        config = replace(QUICK, levels=levels)
        spy = Spy(config, known)
        for seed in range(5):
            noise_loss(spy, ALPHAS, known, config, generator(seed))
        assert set(torch.cat([level for level, _, _ in spy.asked]).tolist()) == expected


@pytest.mark.parametrize("setting", ["drop_emotion", "drop_shape", "drop_all"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_parts_of_the_condition_are_left_out_at_random(setting: str, share: float) -> None:
    nothing = {"drop_emotion": 0.0, "drop_shape": 0.0, "drop_all": 0.0}
    config, known = replace(QUICK, **nothing | {setting: share}), batch(1000, 8)
    spy = Spy(config, known)
    noise_loss(spy, ALPHAS, known, config, generator())
    [(_, told, keep)] = spy.asked
    emotional, shaped = known.emotions.sum(1) > 0, known.has_landmarks
    kept = {
        "drop_emotion": told.emotion.sum(1)[emotional].mean(),
        "drop_shape": told.has_shape[shaped].mean(),
        "drop_all": keep.mean(),
    }
    for name, value in kept.items():
        expected = 1 - share if name == setting else 1
        assert value.item() == pytest.approx(expected, abs=0.05 if 0 < share < 1 else 1e-6)
    # What is told is true, and what is unknown stays so.
    assert torch.equal(told.shape, known.landmarks68)
    assert torch.equal(told.grey, known.grey.float())
    assert not told.emotion[~emotional].any()
    assert not told.has_shape[~shaped].any()
    rest = told.emotion.sum(1) > 0
    assert torch.equal(told.emotion[rest], known.emotions[rest])


@torch.no_grad()
def test_nothing_kept_is_the_unconditional_answer() -> None:
    model, known = score_model(), batch(3)
    latents, level = torch.randn(3, 48, 8, 8), torch.tensor([5, 100, 600])
    plain = predict_noise(model.unet, latents, level)
    told = predict_noise(model.unet, latents, level, model.conditioner(known.condition))
    mixed = model(latents, level, known.condition, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(mixed, torch.stack([plain[0], told[1], plain[2]]))
    assert not torch.equal(plain[1], told[1])


# --- networks and settings ---


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


# --- runs ---


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
    told = json.loads((out / "training.json").read_text())
    assert told["scores"] == scores
    assert told["updates"] == 6
    assert PriorConfig(**told["config"] | {"channels": tuple(told["config"]["channels"])}) == (
        replace(QUICK, updates=6)
    )
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
    torch.testing.assert_close(scheduler.alphas_cumprod, ALPHAS)
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
    told = json.loads((copied / "training.json").read_text())
    assert told["updates"] == 7
    assert told["config"]["batch_size"] == 2


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
    told = json.loads((out / "training.json").read_text())
    assert told["config"]["hidden"] == QUICK.hidden  # that of the network, not the asked one


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


# --- networks like google/ddpm-ema-celebahq-256 ---


def celebahq(side: int, channels: tuple[int, ...]) -> UNet2DModel:
    """The configuration of google/ddpm-ema-celebahq-256, with random weights."""
    attention = len(channels) - 2
    down, up = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
    down[attention], up[-1 - attention] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """Laid out as on the Hub: U-Net and a DDPM schedule side by side, no subfolders."""
    folder = tmp_path / "hub"
    celebahq(64, (32, 32, 32, 32, 64, 64)).save_pretrained(folder)
    DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=True).save_pretrained(folder)
    return folder


def train_from(folder: Path, out: Path, side: int, **settings: object) -> PriorConfig:
    unet, scheduler, conditioner = load_start(str(folder))
    assert conditioner is None
    config = of_network(replace(QUICK, **settings), unet)
    train_prior(config, faces(10, side), out, unet, scheduler, lambda _: None)
    assert unet.is_gradient_checkpointing == config.gradient_checkpointing
    return config


def check_trained(start: Path, out: Path, side: int) -> None:
    """All of the network moved a little, it takes conditions now, and the schedule is its own."""
    before = UNet2DModel.from_pretrained(start)
    after = UNet2DModel.from_pretrained(out / "unet")
    assert not is_conditional(before)
    assert is_conditional(after)
    assert patch_size(after) == 1
    assert crop_size(after) == side
    assert after.num_parameters() == before.num_parameters()
    first, second = before.state_dict(), after.state_dict()
    moved = [(first[name] - second[name]).abs().max().item() for name in first]
    assert min(moved) > 0
    assert max(moved) < 0.1
    scheduler = DDIMScheduler.from_pretrained(out / "scheduler")
    torch.testing.assert_close(
        scheduler.alphas_cumprod, DDPMScheduler.from_pretrained(start).alphas_cumprod
    )


def pipeline_of(out: Path) -> MAPPipeline:
    """The tiny pipeline with a trained network in place of its own."""
    tiny = build_tiny_pipeline()
    parts = {
        **tiny.components,
        "unet": UNet2DModel.from_pretrained(out / "unet"),
        "scheduler": DDIMScheduler.from_pretrained(out / "scheduler"),
        "conditioner": FaceConditioner.from_pretrained(out / "conditioner"),
    }
    settings = ("alignment_template", "surrogates", "detector")
    pipe = MAPPipeline(**parts, **{name: tiny.config[name] for name in settings})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def protect(pipe: MAPPipeline, portrait: np.ndarray) -> np.ndarray:
    settings = {"num_inversion_steps": 2, "num_generation_steps": 2, "refine_steps": 1}
    return pipe(portrait, **settings, generator=generator(), output_type="np").images[0]


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return to_array(load_image(ASTRONAUT).crop((96, 0, 352, 256)))


def check_alignment(
    pipe: MAPPipeline, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is shown the face where the template has it, at its own size, in [-1,1]."""
    seen: list[Tensor] = []

    def watch(unet: UNet2DModel, scheduler: DDIMScheduler, clean: Tensor, *args: object) -> Tensor:
        seen.append(clean)
        return invert(unet, scheduler, clean, *args)

    monkeypatch.setattr("map_pipeline.identity.refine.invert", watch)
    result = protect(pipe, portrait)
    side = crop_size(pipe.unet)
    [latents] = seen
    assert latents.shape == (1, 3, side, side)
    [face] = pipe.face_detector.detect(portrait)
    template = torch.tensor(pipe.config.alignment_template) * side
    alignment = Alignment.from_landmarks(torch.as_tensor(face.landmarks), template, side)
    crop = warp_affine(to_tensor(portrait), alignment.crop_to_image[None], (side, side))
    inner = slice(side // 4, -side // 4)
    error = (unpatchify(latents, 1) - crop).abs()[..., inner, inner]
    assert error.mean() < 0.02
    assert result.shape == portrait.shape
    assert (result != portrait).any()


@pytest.mark.slow
def test_celebahq_topology_is_start_and_backbone(
    hub_folder: Path, tmp_path: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled down: the same blocks and options with fewer channels, at 64 px."""
    out = tmp_path / "out"
    settings = {"updates": 2, "batch_size": 1, "validation_faces": 0, "hidden": 8}
    config = train_from(hub_folder, out, 64, gradient_checkpointing=True, **settings)
    check_trained(hub_folder, out, 64)
    told = json.loads((out / "training.json").read_text())["config"]
    assert told == json.loads(json.dumps(asdict(config)))
    assert told["patch"] == 1
    assert told["channels"] == [32, 32, 32, 32, 64, 64]
    assert told["layers_per_block"] == 2

    pipe = pipeline_of(out)
    check_alignment(pipe, portrait, monkeypatch)
    refined = protect(pipe, portrait)
    assert (refined != portrait).any()
    pipe.save_pretrained(tmp_path / "checkpoint")
    again = MAPPipeline.from_pretrained(tmp_path / "checkpoint")
    again.set_progress_bar_config(disable=True)
    loaded = protect(again, portrait)
    assert np.abs(loaded.astype(int) - refined).max() <= 1
    # The run can be the start of another.
    unet, _, conditioner = load_start(str(out))
    assert same(unet.state_dict(), weights(out))
    assert same(conditioner.state_dict(), weights(out, "conditioner"))


@pytest.mark.slow
def test_the_celebahq_network_itself(
    tmp_path: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """113 M parameters at 256 px with random weights: one update, and protection of a photo."""
    start, out = tmp_path / "hub", tmp_path / "out"
    unet = celebahq(256, (128, 128, 256, 256, 512, 512))
    assert unet.num_parameters() == 113_673_219
    unet.save_pretrained(start)
    DDPMScheduler().save_pretrained(start)
    del unet
    settings = {"updates": 1, "batch_size": 1, "validation_faces": 0, "mixed_precision": "bf16"}
    train_from(start, out, 256, gradient_checkpointing=True, **settings)
    check_trained(start, out, 256)
    check_alignment(pipeline_of(out), portrait, monkeypatch)
