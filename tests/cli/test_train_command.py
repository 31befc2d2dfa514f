"""`map-protect train ...`: from faces to a network, and one line for every mistake."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline, exit_code
from diffusers import DDPMScheduler, UNet2DModel
from made_up import QUICK_OPTIONS, forget_accelerate, write_folder
from people_zip import write_people
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main
from map_pipeline.cli.options import parse
from map_pipeline.cli.train import load_start
from map_pipeline.cli.train_options import Map, Prior
from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import FaceConditioner, is_conditional
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.errors import CheckpointError
from map_pipeline.expression.people import split_of
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.hub import bundled_checkpoint
from map_pipeline.images import load_image
from map_pipeline.training.config import MAP_PRESETS, PRIOR_PRESETS

pytestmark = pytest.mark.usefixtures("accelerate_anew")

MAP_OPTIONS = [
    "--minutes",
    "1e6",
    "--updates",
    "2",
    "--report-every",
    "1",
    "--batch-size",
    "4",
    "--mixed-precision",
    "no",
]


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


@pytest.mark.slow
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
    assert main([*train, *QUICK_OPTIONS, "--updates", "2"]) == 0
    assert "update 2, " in capsys.readouterr().out
    assert (prior / "samples.png").is_file()
    forget_accelerate()

    train = ["train", "map", "--faces", str(faces), "--prior", str(prior), "--out", str(out)]
    train += ["--checkpoint", checkpoint, "--surrogates", "dlib_resnet", "mobilefacenet"]
    train += ["--protection.num-inversion-steps", "2", "--protection.num-generation-steps", "2"]
    assert main([*train, "--weights", "luma", "3", *MAP_OPTIONS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 faces prepared"
    assert "conflict" in lines[1]
    summary = json.loads((out / "training_map.json").read_text())
    assert summary["config"]["weights"] == {"luma": 3.0}
    assert summary["config"]["surrogates"] == ["dlib_resnet", "mobilefacenet"]
    assert summary["config"]["protection"]["num_inversion_steps"] == 2
    with Image.open(out / "curves.png") as picture:
        assert picture.format == "PNG"

    assert main(["train", "curves", str(out), str(out), "--out", str(tmp_path / "two.png")]) == 0
    assert (tmp_path / "two.png").is_file()

    network = MAPNetwork.from_pretrained(out)
    assert network.surrogates == ["dlib_resnet", "mobilefacenet"]
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, map_network=network)
    pipe.save_pretrained(tmp_path / "checkpoint")
    again = MAPPipeline.from_pretrained(tmp_path / "checkpoint")
    assert again.map_network.surrogates == network.surrogates


def test_curves_may_be_missing(
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without matplotlib the network is trained all the same."""
    faces = write_folder(tmp_path / "faces", 12)
    prior, out = tmp_path / "prior", tmp_path / "map"
    train = ["train", "prior", "--faces", str(faces), "--out", str(prior)]
    assert main([*train, *QUICK_OPTIONS, "--updates", "1", "--validation-faces", "0"]) == 0
    forget_accelerate()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train = ["train", "map", "--faces", str(faces), "--prior", str(prior), "--out", str(out)]
    train += ["--checkpoint", str(tiny_checkpoint), "--surrogates", "dlib_resnet"]
    assert main([*train, *MAP_OPTIONS, "--updates", "1"]) == 0
    assert "curves.png wasn't drawn: Curves need matplotlib" in capsys.readouterr().err
    assert MAPNetwork.from_pretrained(out).surrogates == ["dlib_resnet"]
    assert not (out / "curves.png").exists()


def test_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    faces = write_folder(tmp_path / "faces", 24)
    train = ["train", "prior", "--faces", str(faces), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*train, *QUICK_OPTIONS]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text[: text.index("}") + 1])
    assert shown["patch"] == 4
    assert shown["channels"] == [16, 32]
    assert "22 faces to train on, 2 to validate with" in text
    assert "0.2 M parameters" in text
    assert main([*train, "--preset", "gpu", "--patch", "1"]) == 0
    assert '"batch_size": 256' in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


# --- mistakes ---


def test_faces_that_cant_be_used(tmp_path: Path, fail: Callable[..., str]) -> None:
    (tmp_path / "empty").mkdir()
    mixed = write_folder(tmp_path / "mixed", 2)
    Image.new("RGB", (48, 48)).save(mixed / "z.png")
    out = ("--out", tmp_path / "out", *QUICK_OPTIONS)
    assert "got none" in fail("prior", "--faces", tmp_path / "empty", *out)
    assert "48 x 48 px in z.png" in fail("prior", "--faces", mixed, *out)
    assert "folder or a zip file" in fail("prior", "--faces", tmp_path / "missing", *out)
    line = fail("label", "--faces", tmp_path / "missing" / "set.zip", "--checkpoint", "nowhere")
    assert "`checkpoint` must be" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--pach 2",
        "--batch-size 1.5",
        "--batch-size 0",
        "--learning-rate fast",
        "--learning-rate nan",
        "--channels a",
        "--mixed-precision fp8",
    ],
)
def test_settings_that_cant_be(tmp_path: Path, options: str) -> None:
    fixed = ["train", "prior", "--faces", "f", "--out", str(tmp_path / "out")]
    assert exit_code([*fixed, *options.split()]) == 2
    assert not (tmp_path / "out").exists()


def test_patches_must_fit_the_faces(tmp_path: Path, fail: Callable[..., str]) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    train = ("prior", "--faces", faces, "--out", tmp_path / "out", *QUICK_OPTIONS)
    assert "multiple of 6 px, got 32 px" in fail(*train, "--patch", "3")
    assert not list((tmp_path / "out").glob("*"))


def test_out_that_cant_be_written(tmp_path: Path, fail: Callable[..., str]) -> None:
    faces = write_folder(tmp_path / "faces", 4)
    (tmp_path / "file").write_text("")
    line = fail("prior", "--faces", faces, "--out", tmp_path / "file" / "out")
    assert "`--out` must be in a writable folder" in line


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


@pytest.mark.slow
def test_start_from_a_network_of_another_project(
    tmp_path: Path, hub_folder: Path, fail: Callable[..., str]
) -> None:
    """Its patch size, channels and depth are its own; they needn't and can't be set."""
    faces = write_folder(tmp_path / "faces", 12)
    train = ["prior", "--faces", str(faces), "--out", str(tmp_path / "out")]
    train += ["--start", str(hub_folder), "--mixed-precision", "no", "--updates", "1"]
    train += ["--batch-size", "2", "--validation-faces", "1", "--gradient-checkpointing"]
    assert main(["train", *train]) == 0
    summary = json.loads((tmp_path / "out" / "training.json").read_text())["config"]
    assert (summary["patch"], summary["channels"], summary["layers_per_block"]) == (1, [32, 32], 2)
    assert is_conditional(UNet2DModel.from_pretrained(tmp_path / "out" / "unet"))
    with Image.open(tmp_path / "out" / "samples.png") as grid:
        assert grid.width > 9 * 32
    forget_accelerate()
    assert main(["train", *train, "--patch", "1", "--dry-run"]) == 0
    assert "`patch` must be that of the network, 1, got 4" in fail(*train, "--patch", "4")
    line = fail(*train, "--channels", "32", "64")
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
    assert "`objective` must be one of" in fail(*train, "--weights", "look", "1")
    assert "`surrogates` must name some of" in fail(*train, "--surrogates", "nobody")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_targets_or_expression_networks(
    tmp_path: Path, fail: Callable[..., str]
) -> None:
    tiny = build_tiny_pipeline()
    parts = {**tiny.components, "expression_classifiers": None, "targets": None}
    MAPPipeline(**parts, detector="bundled").save_pretrained(tmp_path / "bare")
    faces = write_folder(tmp_path / "faces", 2)
    line = fail("label", "--faces", faces, "--checkpoint", tmp_path / "bare")
    assert "`checkpoint` must hold an expression network" in line


def test_people_and_checkpoints_for_expressions_and_mouths(
    tmp_path: Path, tiny_checkpoint: Path, fail: Callable[..., str]
) -> None:
    out, faces = tmp_path / "out", write_folder(tmp_path / "faces", 2)
    grey = np.full((64, 64, 3), 99, np.uint8)
    people = write_people(tmp_path / "people.zip", [("somebody", "happy", grey)])
    for train in (("expressions",), ("mouth", "--faces", faces)):
        train = (*train, "--out", out, "--people")
        assert "`people` must be a zip file of photos with labels" in fail(*train, faces)
        line = fail(*train, people, "--checkpoint", tiny_checkpoint)
        assert "`checkpoint` must hold a face mesh, got none" in line
    train = ["train", "expressions", "--people", str(people), "--out", str(out)]
    assert exit_code([*train, "--axes", "0"]) == exit_code([*train, "--motions", "-1"]) == 2
    line = fail("mouth", "--faces", faces, "--people", people, "--out", out, "--resume")
    assert "`out` must hold the state of a run to resume" in line
    assert not out.exists()


@pytest.mark.slow
def test_from_people_to_expressions_and_mouths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the shipped face mesh, on what can be cut out of one photo of a laughing face."""
    photo = load_image(ASTRONAUT)
    person = next(str(number) for number in range(20) if split_of(str(number)) == "tuning")
    pictures = {
        "neutral": photo,
        "happy": photo.resize((600, 512)),
        "sad": photo.resize((512, 600)),
    }
    photos = [(person, emotion, np.asarray(one)) for emotion, one in pictures.items()]
    people = str(write_people(tmp_path / "people.zip", photos))
    space, out = tmp_path / "space", tmp_path / "mouth"
    train = ["train", "expressions", "--people", people, "--out", str(space)]
    assert main([*train, "--axes", "2", "--motions", "1"]) == 0
    found = ExpressionSpace.from_pretrained(space)
    assert found.moving.shape == (2, 536, 2)
    assert found.motions.shape == (1, 68, 2)
    assert found.emotions[EMOTIONS.index("happy")].abs().max() > 0.1

    faces = write_folder(tmp_path / "faces", 1, side=128)
    train = ["train", "mouth", "--faces", str(faces), "--people", people, "--out", str(out)]
    train += ["--updates", "1", "--batch-size", "2"]
    assert main(train) == 0
    assert "update 1, " in capsys.readouterr().out
    assert UNet2DModel.from_pretrained(out / "mouth_painter").config.in_channels == 28


def test_too_few_faces_for_composites(
    tmp_path: Path, tiny_checkpoint: Path, fail: Callable[..., str]
) -> None:
    faces = write_folder(tmp_path / "faces", 4, labels=[{"file": "missing.png", "age": 30}])
    arguments = ("--faces", faces, "--out", tmp_path / "out", "--checkpoint", tiny_checkpoint)
    assert "No composite passed" in fail("composites", *arguments)


# --- settings ---


def test_a_preset_gives_the_defaults_of_all_other_settings() -> None:
    required = ["--faces", "f", "--out", "o"]
    for form in (["--preset", "gpu"], ["--preset=gpu"]):
        prior = parse(Prior, [*required, *form, "--batch-size", "3"], "prior")
        assert prior.settings == replace(PRIOR_PRESETS["gpu"], batch_size=3)
    assert parse(Prior, required, "prior").settings == PRIOR_PRESETS["cpu"]


def test_settings_of_map_runs() -> None:
    arguments = ["--faces", "f", "--out", "o", "--preset", "gpu", "--surrogates", "a", "b"]
    arguments += ["--weights", "dodging", "0", "luma", "2.5", "--batch-size", "3"]
    arguments += ["--protection.no-projection", "--protection.adam-betas", "0.1", "0.2"]
    config = parse(Map, arguments, "map").settings
    protection = replace(MAP_PRESETS["gpu"].protection, projection=False, adam_betas=(0.1, 0.2))
    assert config == replace(
        MAP_PRESETS["gpu"],
        surrogates=("a", "b"),
        weights={"dodging": 0.0, "luma": 2.5},
        batch_size=3,
        protection=protection,
    )


@pytest.mark.slow
def test_a_run_of_prior_starts_another(tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "faces", 12)
    train = ["train", "prior", "--faces", str(faces), *QUICK_OPTIONS, "--updates", "1"]
    train += ["--validation-faces", "0"]
    assert main([*train, "--out", str(tmp_path / "a")]) == 0
    forget_accelerate()
    more = ["--out", str(tmp_path / "b"), "--start", str(tmp_path / "a")]
    assert main([*train, "--learning-rate", "1e-9", *more]) == 0
    for part, kind in (("unet", UNet2DModel), ("conditioner", FaceConditioner)):
        first, second = (kind.from_pretrained(tmp_path / run / part) for run in "ab")
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    shutil.rmtree(tmp_path / "a" / "conditioner")
    assert load_start(str(tmp_path / "a"))[2] is None


@pytest.mark.slow
def test_score_prints_a_row_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = load_image(ASTRONAUT).crop((96, 0, 352, 256))
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
