import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image

import map_pipeline
from map_pipeline import MAPNetwork, MAPPipeline, MAPPipelineOutput, __version__
from map_pipeline.cli.main import main
from map_pipeline.config import MODES


@pytest.fixture
def protect(tiny_checkpoint: Path) -> Callable[..., int]:
    """`map-protect protect` with the tiny checkpoint and one step."""

    def call(source: Path, output: Path, *options: str) -> int:
        defaults = ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "1"]
        return main(["protect", str(source), str(output), *defaults, *options])

    return call


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def error_line(text: str) -> str:
    """The one line about an error; progress bars may stand around it."""
    assert "Traceback" not in text
    [line] = [line for line in text.splitlines() if line.startswith("map-protect: ")]
    return line


def test_one_photo_into_a_new_folder_with_a_report(
    protect: Callable, portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, report = tmp_path / "new folder", tmp_path / "reports" / "report.json"
    options = ["--target", "second", "--emotion", "sad", "--detector", "bundled"]
    assert protect(portrait_file, out, *options, "--report", str(report)) == 0
    assert files(out) == {"portrait.png"}
    changed = (pixels(out / "portrait.png") != pixels(portrait_file)).any(-1)
    assert changed.mean() < 1
    table = capsys.readouterr().out
    for words in ("emotion sad, target second", "tiny dlib", "(bundled)"):
        assert words in table
    [face] = json.loads(report.read_text())["portrait.png"]
    assert face["emotion"] == "sad"
    assert {r["name"] for r in face["recognisers"]} == {"dlib_resnet", "mobilefacenet", "faceres"}


@pytest.mark.slow
def test_result_is_that_of_the_pipeline(
    protect: Callable, portrait_file: Path, tmp_path: Path, tiny_pipeline: MAPPipeline
) -> None:
    assert protect(portrait_file, tmp_path / "a.png", "--seed", "5") == 0
    assert protect(portrait_file, tmp_path / "b.png", "--seed", "5") == 0
    a, b = (pixels(tmp_path / f"{name}.png") for name in "ab")
    np.testing.assert_array_equal(a, b)
    generator = torch.Generator().manual_seed(5)
    expected = tiny_pipeline(portrait_file, refine_steps=1, generator=generator)
    # Saved weights are loaded as they were, but another memory layout may round differently.
    assert np.abs(a.astype(int) - np.array(expected.images[0])).max() <= 1


@pytest.mark.slow
def test_mode_and_expression_reach_the_pipeline(
    portrait_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    asked: list[dict] = []
    protect = MAPPipeline.__call__

    def watch(pipe: MAPPipeline, *photos: Path, **settings: Any) -> MAPPipelineOutput:
        asked.append(settings)
        return protect(pipe, *photos, **settings | {"refine_steps": 1, "config": None})

    monkeypatch.setattr(MAPPipeline, "__call__", watch)
    call = ["protect", str(portrait_file), str(tmp_path / "a.png"), "--overwrite"]
    call += ["--checkpoint", str(tiny_checkpoint)]
    assert main(call) == 0
    assert main([*call, "--mode", "fast", "--expression-strength", "0.75"]) == 0
    assert main([*call, "--compile"]) == 0
    names = ("mode", "expression_strength", "refine_steps")
    found = [tuple(one[name] for name in names) for one in asked]
    assert found == [("strong", None, None), ("fast", 0.75, None), ("strong", None, None)]
    units = ["--action-units", "smile=0.5", "brows_up=-0.3"]
    assert main([*call, *units]) == 0
    assert [one["action_units"] for one in asked] == [{}, {}, {}, {"smile": 0.5, "brows_up": -0.3}]
    assert "emotion happy with smile +0.5, brows_up -0.3" in capsys.readouterr().out
    compiled = replace(MODES["strong"], compile=True)
    assert [one["config"] for one in asked[:3]] == [MODES["strong"], MODES["fast"], compiled]


def test_own_target_comes_with_a_notice(
    protect: Callable, portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert protect(portrait_file, tmp_path / "out.png", "--target", str(ASTRONAUT)) == 0
    captured = capsys.readouterr()
    assert "agreed" in captured.err
    assert "target own image" in captured.out


def test_expression_to_copy_is_read_before_any_photo(
    protect: Callable, portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """And one that can't be copied ends the run, also that of a folder."""
    assert protect(tmp_path, tmp_path / "out", "--expression-of", str(portrait_file)) != 0
    assert "`checkpoint` must have a face mesh" in error_line(capsys.readouterr().err)
    assert files(tmp_path) == {"portrait.png"}


def grey(path: Path) -> None:
    Image.new("RGB", (128, 128), "grey").save(path)


def small(path: Path) -> None:
    Image.open(ASTRONAUT).convert("RGB").resize((180, 180), Image.Resampling.LANCZOS).save(path)


def text(path: Path) -> None:
    path.write_text("Dear diary")


def truncated(path: Path) -> None:
    Image.open(ASTRONAUT).convert("RGB").save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:9000])


def missing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (grey, "must show a face"),
        (small, "must be at least 40 px"),
        (text, "must be a whole PNG"),
        (truncated, "must be a whole PNG"),
        (missing, "must be an existing file"),
    ],
)
def test_bad_photo(
    protect: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    make: Callable[[Path], None],
    words: str,
) -> None:
    make(tmp_path / "in.png")
    before = files(tmp_path)
    report = tmp_path / "report.json"
    assert protect(tmp_path / "in.png", tmp_path / "out.png", "--report", str(report)) == 2
    captured = capsys.readouterr()
    assert words in error_line(captured.err)
    assert captured.out == ""
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--emotion", "hungry"], "`emotion` must be one of"),
        (["--target", "nobody"], "`target` must be"),
        (["--margin", "huge"], "`margin` must be normal, high or a number"),
        (["--expression-strength", "1.6"], "`expression_strength` must be in"),
        (["--refine-steps", "-1"], "`refine_steps` must be >= 0"),
        (["--action-units", "frown=1"], "`action_units` must be among smile"),
        (["--action-units", "smile=2"], "`action_units['smile']` must be in [-1, 1], got 2.0"),
        (["--action-units", "smile"], None),
        (["--action-units", "smile=much"], None),
        (["--checkpoint", "."], "model_index.json"),
        (["--faces", "smallest"], None),  # said by the parser, in words of its own
        (["--mode", "slow"], None),
        (["--seed", "x"], None),
        (["--detector", "eye"], None),
        (["--nonsense"], None),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_bad_option(
    protect: Callable,
    portrait_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: list[str],
    words: str | None,
    folder: bool,
) -> None:
    """An option is as wrong for a folder as for a photo: nothing is done, exit code 2."""
    source, output = (tmp_path, "out") if folder else (portrait_file, "out.png")
    try:
        code = protect(source, tmp_path / output, *options)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    errors = capsys.readouterr().err
    assert errors if words is None else words in error_line(errors)
    assert files(tmp_path) == {"portrait.png"}


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("file/out.png", [], "`OUT` must be in a writable folder"),
        ("file/folder", [], "`OUT` must be in a writable folder"),
        ("file", [], "`OUT` must be in a writable folder"),
        ("out.png", ["--report", "{}/file/report.json"], "`--report` must be in a writable folder"),
        ("out.webp", [], "`OUT` must end in .png, .jpg or .jpeg"),
        ("out.txt", [], "`OUT` must end in .png, .jpg or .jpeg"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    protect: Callable,
    portrait_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    output: str,
    options: list[str],
    words: str,
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert protect(portrait_file, tmp_path / output, *[o.format(tmp_path) for o in options]) == 2
    assert words in error_line(capsys.readouterr().err)
    assert files(tmp_path) == {"file", "portrait.png"}


def test_targets_are_listed_and_exported(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--checkpoint", str(tiny_checkpoint), "--export", str(tmp_path / "out")]
    assert main(["targets", *options]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, f"the {name}"] for name in ("first", "second", "third")]
    assert files(tmp_path / "out") == {"first.png", "second.png", "third.png"}
    assert pixels(tmp_path / "out" / "first.png").shape == (32, 32, 3)


def test_info_and_targets_name_what_is_there_and_what_is_missing(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pipe = MAPPipeline.from_pretrained(tiny_checkpoint, targets=None)
    dims = {"dlib_resnet": 16, "faceres": 16}
    pipe.register_modules(map_network=MAPNetwork.for_unet(pipe.unet, dims, rank=1))
    pipe.save_pretrained(tmp_path)
    assert main(["info", "--checkpoint", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for words in (__version__, "torch", "diffusers", "cpu", "bundled", "tiny expression network"):
        assert words in text
    assert "dlib_resnet: tiny dlib, surrogate" in text
    assert "faceres: tiny mobilefacenet, judge only" in text
    assert "trained on dlib_resnet, faceres" in text
    assert main(["targets", "--checkpoint", str(tmp_path)]) == 2
    assert "no built-in targets" in error_line(capsys.readouterr().err)


@pytest.mark.slow
def test_bundled_checkpoint_is_the_default(
    portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--mode", "fast", "--refine-steps", "1"]
    assert main(["protect", str(portrait_file), str(tmp_path / "o.png"), *options]) == 0
    assert (pixels(tmp_path / "o.png") != pixels(portrait_file)).any()
    captured = capsys.readouterr()
    assert "recogniser" in captured.out
    assert "cannot get type annotation" not in captured.err  # what diffusers says of odd types


@pytest.mark.parametrize(
    "arguments", [["--help"], ["protect", "--help"], ["evaluate", "--help"], ["train", "map", "-h"]]
)
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "map_pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: map-protect")
    modules = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "map_pipeline.cli.main" in modules
    assert not modules & {"torch", "diffusers", "pandas", "gradio", "PIL"}


def test_help_says_what_exit_codes_mean_and_version_is_known(
    capsys: pytest.CaptureFixture,
) -> None:
    assert main(["--help"]) == 0
    assert {"0", "1", "2", "3", "130"} <= set(capsys.readouterr().out.split())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["map-protect", map_pipeline.__version__]


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["train"], ["lineup", "frobnicate"]])
def test_without_a_known_command_the_choices_are_named(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert "must be one of" in line
    assert ("protect" if arguments[:1] not in (["train"], ["lineup"]) else "score") in line


def test_jpeg_says_what_it_lost_and_png_keeps_it(
    protect: Callable, portrait_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Image.open(portrait_file) as image:
        alpha = np.full(image.size[::-1], 255, np.uint8)
        alpha[:, :8] = 0
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "cutout.png")
    noted = []
    for suffix in (".png", ".jpg"):
        report = tmp_path / f"report{suffix}.json"
        out = tmp_path / f"out{suffix}"
        assert protect(tmp_path / "cutout.png", out, "--report", str(report)) == 0
        [[face]] = json.loads(report.read_text()).values()
        said, notes = capsys.readouterr().err, face["photo"]["notes"]
        assert all(note in said for note in notes)
        noted.append(len(notes))
    assert noted == [0, 1]
    with Image.open(tmp_path / "out.png") as kept:
        np.testing.assert_array_equal(np.array(kept)[..., 3], alpha)
    assert pixels(tmp_path / "out.jpg")[:, :4].min() > 240
