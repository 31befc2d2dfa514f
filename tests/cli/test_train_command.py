"""`map-protect train ...`: from faces to a network, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_pipeline
from diffusers import DDPMScheduler, UNet2DModel
from made_up import QUICK, QUICK_OPTIONS, forget_accelerate, write_folder
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import build_parser, main
from map_pipeline.cli.train import (
    load_start,
    map_settings,
    parse_settings,
    target_embeddings,
    with_settings,
)
from map_pipeline.diffusion.conditioner import FaceConditioner, is_conditional
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.errors import CheckpointError, UnknownOptionError
from map_pipeline.hub import bundled_checkpoint
from map_pipeline.images import load_image
from map_pipeline.training.map_training import MAPTrainingConfig
from map_pipeline.training.prior import PRESETS, PriorConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
MAP_OPTIONS = ["minutes=1e6", "updates=2", "report_every=1", "batch_size=4", "mixed_precision=no"]


@pytest.fixture(autouse=True)
def accelerate_anew() -> Iterator[None]:
    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture
def fail(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run `map-protect train ...`, which must fail with one line; returns the line."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["train", *map(str, arguments)]) == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text
        [line] = [line for line in text.splitlines() if line.startswith("map-protect: ")]
        return line

    return call


# --- the command line ---


def test_help_is_instant_and_complete() -> None:
    code = (
        "import sys; from map_pipeline.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'diffusers') if name in sys.modules])"
    )
    for arguments in (["--help"], ["train", "--help"], ["train", "prior", "--help"]):
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert result.stdout.splitlines()[-1] == "[]"
        assert time.perf_counter() - started < 5  # 0.2 s where nothing else runs
        assert "prior" in result.stdout or arguments == ["--help"]


@pytest.mark.parametrize("module", ["map_pipeline", "map_pipeline.cli.train"])
def test_both_ways_to_call_it(module: str) -> None:
    arguments = ["train"] if module == "map_pipeline" else []
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments, "prior", "--faces", "f"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "usage: map-protect train prior" in result.stderr
    assert "the following arguments are required: --out" in result.stderr


def test_without_a_command_the_choices_are_shown(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "WHAT" in capsys.readouterr().err


def test_from_faces_to_a_network(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    """label, prior, map and curves, as the README has them, and the network at work."""
    faces = write_folder(tmp_path / "faces", 24, labels=[{"file": "00003.png", "emotion": "sad"}])
    out, prior, checkpoint = tmp_path / "map", tmp_path / "prior", str(tiny_checkpoint)
    assert main(["train", "label", "--faces", str(faces), "--checkpoint", checkpoint]) == 0
    assert "faces: 24 faces, 0 with landmarks" in capsys.readouterr().out
    assert (tmp_path / "faces.labels.npz").is_file()

    train = ["train", "prior", "--faces", str(faces), "--out", str(prior)]
    assert main([*train, "--set", *QUICK_OPTIONS, "updates=2"]) == 0
    assert "update 2, " in capsys.readouterr().out
    assert (prior / "samples.png").is_file()
    forget_accelerate()

    train = ["train", "map", "--faces", str(faces), "--prior", str(prior), "--out", str(out)]
    train += ["--checkpoint", checkpoint, "--surrogates", "dlib_resnet", "mobilefacenet"]
    train += ["--protection", "num_inversion_steps=2", "num_generation_steps=2"]
    assert main([*train, "--weights", "chroma=3", "--set", *MAP_OPTIONS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 faces prepared"
    assert "conflict" in lines[1]
    told = json.loads((out / "training_map.json").read_text())
    assert told["config"]["weights"] == {"chroma": 3.0}
    assert told["config"]["surrogates"] == ["dlib_resnet", "mobilefacenet"]
    assert told["config"]["protection"]["num_inversion_steps"] == 2
    with Image.open(out / "curves.png") as picture:
        assert picture.format == "PNG"

    assert main(["train", "curves", str(out), str(out), "--out", str(tmp_path / "two.png")]) == 0
    assert (tmp_path / "two.png").is_file()

    network = MAPNetwork.from_pretrained(out)
    assert network.surrogates == ["dlib_resnet", "mobilefacenet"]
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, map_network=network)
    pipe.save_pretrained(tmp_path / "checkpoint")
    again = MAPPipeline.from_pretrained(tmp_path / "checkpoint")
    assert again.network_for(["dlib_resnet", "mobilefacenet"]).surrogates == network.surrogates


def test_curves_may_be_missing(
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without matplotlib the network is trained all the same."""
    faces = write_folder(tmp_path / "faces", 12)
    prior, out = tmp_path / "prior", tmp_path / "map"
    train = ["train", "prior", "--faces", str(faces), "--out", str(prior), "--set"]
    assert main([*train, *QUICK_OPTIONS, "updates=1", "validation_faces=0"]) == 0
    forget_accelerate()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train = ["train", "map", "--faces", str(faces), "--prior", str(prior), "--out", str(out)]
    train += ["--checkpoint", str(tiny_checkpoint), "--surrogates", "dlib_resnet"]
    assert main([*train, "--set", *MAP_OPTIONS, "updates=1"]) == 0
    assert "curves.png wasn't drawn: Curves need matplotlib" in capsys.readouterr().err
    assert MAPNetwork.from_pretrained(out).surrogates == ["dlib_resnet"]
    assert not (out / "curves.png").exists()


def test_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    faces = write_folder(tmp_path / "faces", 24)
    train = ["train", "prior", "--faces", str(faces), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*train, "--set", *QUICK_OPTIONS]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text[: text.index("}") + 1])
    assert shown["patch"] == 4
    assert shown["channels"] == [16, 32]
    assert "22 faces to train on, 2 to validate with" in text
    assert "0.2 M parameters" in text
    assert main([*train, "--preset", "gpu", "--set", "patch=1"]) == 0
    assert '"batch_size": 256' in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


# --- mistakes ---


def test_faces_that_cant_be_used(tmp_path: Path, fail: Callable[..., str]) -> None:
    (tmp_path / "empty").mkdir()
    mixed = write_folder(tmp_path / "mixed", 2)
    Image.new("RGB", (48, 48)).save(mixed / "z.png")
    out = ("--out", tmp_path / "out", "--set", *QUICK_OPTIONS)
    assert "got none" in fail("prior", "--faces", tmp_path / "empty", *out)
    assert "48 x 48 px in z.png" in fail("prior", "--faces", mixed, *out)
    assert "folder or a zip file" in fail("prior", "--faces", tmp_path / "missing", *out)
    line = fail("label", "--faces", tmp_path / "missing" / "set.zip", "--checkpoint", "nowhere")
    assert "`checkpoint` must be" in line
    assert not (tmp_path / "out").exists()


def test_labels_of_other_pictures(tmp_path: Path, fail: Callable[..., str]) -> None:
    faces = write_folder(tmp_path / "faces", 2)
    other = write_folder(tmp_path / "other", 3)
    from map_pipeline.training.faces import labels_path, load_faces, write_labels

    write_labels(labels_path(faces), load_faces([other]))
    line = fail("prior", "--faces", faces, "--out", tmp_path / "out")
    assert "label them again" in line


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("pach=2", "`set` must name one of patch, channels"),
        ("batch_size", "`batch_size` must be like 32, got ''"),
        ("batch_size=1.5", "`batch_size` must be like 32, got '1.5'"),
        ("batch_size=true", "`batch_size` must be like 32"),
        ("batch_size=[1]", "`batch_size` must be like 32"),
        ("batch_size=0", "`batch_size` must be >= 1, got 0"),
        ("learning_rate=fast", "`learning_rate` must be like 0.0005"),
        ("learning_rate=NaN", "`learning_rate` must be > 0, got nan"),
        ("compile=1", "`compile` must be like false"),
        ("channels=64", "`channels` must be like [64,96,144,192], got '64'"),
        ('channels=["a"]', "`channels` must be positive whole numbers"),
        ("mixed_precision=fp8", "`mixed_precision` must be bf16, fp16 or no, got 'fp8'"),
        ("patch=3", "multiple of 6 px, got 32 px"),
    ],
)
def test_settings_that_cant_be(
    tmp_path: Path, fail: Callable[..., str], setting: str, complaint: str
) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    out = tmp_path / "out"
    line = fail("prior", "--faces", faces, "--out", out, "--set", *QUICK_OPTIONS, setting)
    assert complaint in line
    assert not out.exists() or not list(out.iterdir())


def test_out_that_cant_be_written(tmp_path: Path, fail: Callable[..., str]) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    (tmp_path / "file").write_text("")
    line = fail("prior", "--faces", faces, "--out", tmp_path / "file" / "out")
    assert "`--out` must lie in a folder that can be written" in line


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A pixel-space U-Net of another project, as on the Hub."""
    folder = tmp_path / "hub"
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder)
    DDPMScheduler().save_pretrained(folder)
    return folder


def test_start_from_a_network_of_another_project(
    tmp_path: Path, hub_folder: Path, fail: Callable[..., str]
) -> None:
    """Its patch size, channels and depth are its own; they needn't and can't be set."""
    faces = write_folder(tmp_path / "faces", 12)
    train = ["prior", "--faces", str(faces), "--out", str(tmp_path / "out")]
    train += ["--start", str(hub_folder), "--set", "mixed_precision=no", "updates=1"]
    train += ["batch_size=2", "validation_faces=1", "gradient_checkpointing=true"]
    assert main(["train", *train]) == 0
    told = json.loads((tmp_path / "out" / "training.json").read_text())["config"]
    assert (told["patch"], told["channels"], told["layers_per_block"]) == (1, [32, 32], 2)
    assert is_conditional(UNet2DModel.from_pretrained(tmp_path / "out" / "unet"))
    with Image.open(tmp_path / "out" / "samples.png") as grid:
        assert grid.width > 9 * 32
    forget_accelerate()
    assert main(["train", *train, "patch=1", "--dry-run"]) == 0
    assert "`patch` must be that of the network, 1, got 2" in fail(*train, "patch=2")
    line = fail(*train, "channels=[32,64]")
    assert "`channels` must be that of the network, (32, 32), got (32, 64)" in line


def test_starts_that_cant_be(tmp_path: Path, hub_folder: Path, fail: Callable[..., str]) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    train = ("prior", "--faces", faces, "--out", tmp_path / "out", "--start")
    assert "`start` must be a diffusers folder" in fail(*train, tmp_path / "nowhere")
    latent = tmp_path / "latent"
    UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(latent)
    DDPMScheduler().save_pretrained(latent)
    assert "pixel-space U-Net with 3 p^2 channels, got 4" in fail(*train, latent)
    (hub_folder / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match="with its noise schedule"):
        load_start(str(hub_folder))
    small = write_folder(tmp_path / "small", 4, side=16)
    DDPMScheduler().save_pretrained(hub_folder)
    line = fail("prior", "--faces", small, "--out", tmp_path / "out", "--start", hub_folder)
    assert "as large as the network's crops, 32 px, got 16 px" in line


def test_map_options_that_cant_be(
    tmp_path: Path, tiny_checkpoint: Path, fail: Callable[..., str]
) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    train = ("map", "--faces", faces, "--out", tmp_path / "out", "--checkpoint", tiny_checkpoint)
    known = ("--surrogates", "dlib_resnet", "mobilefacenet")
    assert "`checkpoint` must hold a conditioner, got none" in fail(*train, *known)
    line = fail(*train, *known, "--prior", tmp_path / "none")
    assert "`prior` must be a folder with unet/" in line
    assert "`weights` must name one of impersonation" in fail(*train, "--weights", "look=1")
    assert "`chroma` must be like 12.0, got 'much'" in fail(*train, "--weights", "chroma=much")
    assert "`chroma` must be like 12.0, got ''" in fail(*train, "--weights", "chroma")
    assert "`protection` must name one of start_timestep" in fail(*train, "--protection", "t0=3")
    assert "`views` must be >= 0, got -1" in fail(*train, "--protection", "views=-1")
    assert "`set` must name one of surrogates" in fail(*train, "--set", "protection=5")
    assert "`surrogates` must name some of" in fail(*train, "--surrogates", "nobody")
    # The tiny bank holds no embeddings by this recogniser.
    assert "got none by ['faceres']" in fail(*train, "--surrogates", "dlib_resnet", "faceres")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_targets_or_expression_networks(
    tmp_path: Path, fail: Callable[..., str]
) -> None:
    tiny = build_tiny_pipeline()
    tiny.targets = None
    with pytest.raises(CheckpointError, match="targets embedded by all"):
        target_embeddings(tiny, ["dlib_resnet"])
    parts = {**tiny.components, "expression_classifiers": None}
    MAPPipeline(**parts, detector="bundled").save_pretrained(tmp_path / "bare")
    faces = write_folder(tmp_path / "faces", 2)
    line = fail("label", "--faces", faces, "--checkpoint", tmp_path / "bare")
    assert "`checkpoint` must hold an expression network" in line


def test_too_few_faces_for_composites(
    tmp_path: Path, tiny_checkpoint: Path, fail: Callable[..., str]
) -> None:
    faces = write_folder(tmp_path / "faces", 4, labels=[{"file": "missing.png", "age": 30}])
    arguments = ("--faces", faces, "--out", tmp_path / "out", "--checkpoint", tiny_checkpoint)
    assert "No composite passed" in fail("composites", *arguments)


# --- settings ---


def test_settings_are_values_as_json() -> None:
    config = with_settings(
        PriorConfig(),
        [
            "channels=[32, 64]",
            "batch_size=8",
            "updates=1e3",
            "minutes=9",
            "compile=true",
            "mixed_precision=fp16",
            "learning_rate=1e-4",
        ],
    )
    assert config == PriorConfig(
        channels=(32, 64),
        batch_size=8,
        updates=1000,
        minutes=9.0,
        compile=True,
        mixed_precision="fp16",
        learning_rate=1e-4,
    )
    assert isinstance(config.minutes, float)
    assert isinstance(config.updates, int)
    assert with_settings(QUICK, []) == QUICK


def test_the_last_of_two_settings_counts() -> None:
    assert parse_settings({"a": 1}, ["a=2", "a=3"], "set") == {"a": 3}


def test_text_settings_may_hold_an_equals_sign() -> None:
    assert parse_settings({"a": ""}, ["a=b=c"], "set") == {"a": "b=c"}


def test_settings_of_map_runs() -> None:
    arguments = ["train", "map", "--faces", "f", "--out", "o", "--preset", "gpu"]
    arguments += ["--surrogates", "a", "b", "--weights", "dodging=0", "chroma=2.5"]
    arguments += ["--protection", "projection=false", "adam_betas=[0.1, 0.2]"]
    config = map_settings(build_parser().parse_args([*arguments, "--set", "batch_size=3"]))
    assert config.surrogates == ("a", "b")
    assert config.weights == {"dodging": 0.0, "chroma": 2.5}
    assert config.protection == replace(
        MAPTrainingConfig().protection, projection=False, adam_betas=(0.1, 0.2)
    )
    assert config.batch_size == 3
    assert config.compile  # of the preset


def test_presets_are_choices_of_the_command_line() -> None:
    for name in PRESETS:
        arguments = ["train", "prior", "--faces", "f", "--out", "o", "--preset", name]
        assert build_parser().parse_args(arguments).preset == name


def test_settings_of_an_own_kind_are_refused() -> None:
    with pytest.raises(UnknownOptionError, match="must name one of a; got 'b'"):
        parse_settings({"a": 1.0, "b": {"c": 1}}, ["b=1"], "set")


def test_a_run_of_prior_starts_another(tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "faces", 12)
    train = ["train", "prior", "--faces", str(faces), "--set", *QUICK_OPTIONS, "updates=1"]
    assert main([*train, "validation_faces=0", "--out", str(tmp_path / "a")]) == 0
    forget_accelerate()
    more = ["--out", str(tmp_path / "b"), "--start", str(tmp_path / "a")]
    assert main([*train, "validation_faces=0", "learning_rate=1e-9", *more]) == 0
    for part, kind in (("unet", UNet2DModel), ("conditioner", FaceConditioner)):
        first, second = (kind.from_pretrained(tmp_path / run / part) for run in "ab")
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    shutil.rmtree(tmp_path / "a" / "conditioner")
    assert load_start(str(tmp_path / "a"))[2] is None


def test_score_prints_a_row_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = load_image(EXAMPLES / "astronaut.png").crop((96, 0, 352, 256))
    photo.save(tmp_path / "eileen_a.png")
    checkpoint = str(bundled_checkpoint())
    assert main(["train", "score", checkpoint, "--photos", str(tmp_path)]) == 0
    title, _, header, _, row = capsys.readouterr().out.strip().splitlines()
    assert title == "PSNR in dB, mean of 1 faces"
    assert "x0_150" in header
    assert "round_trip_500" in header
    scores = [float(value) for value in row.strip("| ").split(" | ")[1:]]
    assert scores[0] > scores[1] > scores[2] > 15, "more noise, less of the face"
    assert scores[3] > scores[4] > 25


def test_score_needs_faces_and_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (128, 128), "grey").save(tmp_path / "nobody_a.png")
    assert main(["train", "score", str(bundled_checkpoint()), "--photos", str(tmp_path)]) == 2
    assert "must show faces" in capsys.readouterr().err
    assert main(["train", "score", str(tmp_path / "no"), "--photos", str(tmp_path)]) == 2
    assert "`start` must be a diffusers folder" in capsys.readouterr().err
