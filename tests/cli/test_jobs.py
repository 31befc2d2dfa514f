"""Which files a run reads and writes: nothing of the user's is ever replaced or passed over."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.cli.jobs import Plan, plan_jobs
from map_pipeline.cli.main import main
from map_pipeline.errors import InvalidImageError, UnknownOptionError


@pytest.fixture
def protect(tiny_checkpoint: Path) -> Callable[..., int]:
    """`map-protect protect` with the tiny checkpoint and without fine-tuning."""

    def call(*arguments: Path | str) -> int:
        defaults = ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "0"]
        return main(["protect", *map(str, arguments), *defaults, "--expression-strength", "0"])

    return call


def portrait(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = None if path.suffix else "JPEG"
    Image.open(ASTRONAUT).convert("RGB").crop((96, 0, 352, 256)).save(path, form)
    return path


def tiny(path: Path) -> Path:
    """A picture that need not be looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, None if path.suffix else "PNG")
    return path


def digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found
    }


def names(plan: Plan, output: Path) -> dict[str, str]:
    return {job.name: job.output.relative_to(output).as_posix() for job in plan.jobs}


# --- nothing is replaced ---


def never_called(*_args: object, **_settings: object) -> None:
    raise AssertionError("paths are checked before any work")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["me.png", "."], "OUT"),
        (["me.png", "me.png"], "OUT"),
        (["me.png", "../d"], "OUT"),
        (["me.png", "link.png"], "OUT"),
        (["me.png", "hard.png"], "OUT"),
        (["me.png", "me.png", "--overwrite"], "OUT"),
        (["me.png", ".", "--overwrite"], "OUT"),
        (["me.png", "hard.png", "--overwrite"], "OUT"),
        (["me.png", "other.png"], "OUT"),  # the shell's *.png of two photos
        (["me.png", "out.png", "--report", "me.png"], "--report"),
        (["me.png", "out.png", "--report", "me.png", "--overwrite"], "--report"),
        (["me.png", "out.png", "--report", "link.png", "--overwrite"], "--report"),
        (["me.png", "out.png", "--report", "other.png"], "--report"),
        (["me.png", "out.png", "--report", "other.png", "--skip-existing"], "--report"),
        (["me.png", "out.png", "--report", "out.png"], "--report"),
        (["me.png", "out.png", "--report", "folder"], "--report"),
        (["me.png", "new", "--report", "new"], "--report"),
        (["me.png", "new/deep", "--report", "./new"], "--report"),
        (["me.png", "other.png", "--target", "other.png", "--overwrite"], "OUT"),
        (["me.png", "other.png", "--expression-of", "other.png", "--overwrite"], "OUT"),
        (
            ["me.png", "a.png", "--target", "other.png", "--report", "other.png", "--overwrite"],
            "--report",
        ),
        ([".", "."], "OUT"),
        ([".", "../d"], "OUT"),
    ],
)
def test_no_file_of_the_user_is_replaced(
    tmp_path: Path,
    protect: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    option: str,
) -> None:
    folder = tmp_path / "d"
    tiny(folder / "me.png")
    tiny(folder / "other.png")
    (folder / "folder").mkdir()
    (folder / "link.png").symlink_to("me.png")
    os.link(folder / "me.png", folder / "hard.png")
    before = digests(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(MAPPipeline, "from_pretrained", never_called)
    assert protect(*arguments) == 2
    assert f"`{option}` must" in capsys.readouterr().err
    assert digests(folder) == before


def test_a_missing_photo_is_named_before_any_work(
    tmp_path: Path,
    protect: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(MAPPipeline, "from_pretrained", never_called)
    assert protect(tmp_path / "mistyped.png", tmp_path / "new" / "out.png") == 2
    assert "mistyped.png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_skipped_is_still_required(
    protect: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Tiny networks see the same face as before: not protected, in a run that goes on neither."""
    source, out, report = portrait(tmp_path / "me.png"), tmp_path / "out.png", tmp_path / "r.json"
    asked = ["--require", "dodging", "--refine-steps", "0"]
    assert protect(source, out, "--report", report, *asked) == 3
    assert protect(source, out, "--report", report, *asked, "--skip-existing") == 3
    assert "still recognised" in capsys.readouterr().err
    assert protect(source, out, *asked, "--skip-existing") == 3
    assert "no earlier report" in capsys.readouterr().err
    report.write_text('{"me.png": [{"written": "by another version"}]}')
    assert protect(source, out, "--report", report, *asked, "--skip-existing") == 3
    assert "no earlier report" in capsys.readouterr().err
    assert protect(source, out, "--report", report, "--skip-existing") == 0


def test_results_are_replaced_only_where_asked(protect: Callable, tmp_path: Path) -> None:
    source, out, report = portrait(tmp_path / "me.jpg"), tmp_path / "out.png", tmp_path / "r.json"
    tiny(out)
    report.write_text("{}")
    before = digests(tmp_path)
    assert protect(source, out) == 2
    assert protect(source, tmp_path / "new.png", "--report", report) == 2
    assert digests(tmp_path) == before
    assert protect(source, out, "--report", report, "--overwrite") == 0
    assert Image.open(out).size == (256, 256)
    assert set(json.loads(report.read_text())) == {"me.jpg"}
    assert digests(tmp_path)["me.jpg"] == before["me.jpg"]


def test_overwrite_and_skip_existing_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="--skip-existing"):
        plan_jobs(tiny(tmp_path / "a.png"), tmp_path / "b.png", overwrite=True, skip_existing=True)


# --- every result has a name of its own ---


@pytest.mark.parametrize(
    ("photos", "outputs"),
    [
        (("a.jpg", "a.png", "b.png"), ("a.jpg.png", "a.png.png", "b.png")),
        (("me.jpg", "me.jpg.png", "me.png"), ("me.jpg-2.png", "me.jpg.png", "me.png.png")),
        (("A.png", "a.jpg"), ("A.png.png", "a.jpg.png")),  # one name where case doesn't count
        (("x/a.png", "y/a.png"), ("x/a.png", "y/a.png")),
        (("a.b.png", "a.c.png"), ("a.b.png", "a.c.png")),
    ],
)
def test_results_have_distinct_names(
    tmp_path: Path, photos: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    for name in photos:
        tiny(tmp_path / "in" / name)
    plan = plan_jobs(tmp_path / "in", tmp_path / "out", recursive=True)
    assert names(plan, tmp_path / "out") == dict(zip(photos, outputs, strict=True))
    assert len({name.casefold() for name in outputs}) == len(photos)


# --- nothing is passed over in silence ---


def heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder as phones, cameras and file managers leave it."""
    folder = tmp_path / "photos"
    for name in ("a.png", "b.JPG", "no ending", "c.jfif", "sub/d.png", "sub/deeper/e.png"):
        portrait(folder / name) if name != "c.jfif" else portrait(folder / "c")
    (folder / "c").rename(folder / "c.jfif")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(60))  # AppleDouble
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "dir.png").mkdir()
    heic(folder / "phone.heic")
    heic(folder / "renamed")
    (folder / "notes.txt").write_text("Dear diary")
    (folder / "empty").write_bytes(b"")
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_a_folder_is_sorted_into_photos_and_reasons(mixed: Path, tmp_path: Path) -> None:
    plan = plan_jobs(mixed, tmp_path / "out")
    assert {job.name for job in plan.jobs} == {
        *("a.png", "b.JPG", "no ending", "c.jfif", "phone.heic", "renamed")
    }
    assert set(plan.skipped) == {"sub", "dir.png", "notes.txt", "empty", "gone.png", "pipe.png"}
    assert "--recursive" in plan.skipped["sub"]


def test_recursive_keeps_the_folders_and_never_enters_its_own_results(mixed: Path) -> None:
    (mixed / "sub" / "loop").symlink_to(mixed)
    out = mixed / "results"
    portrait(out / "x.png")
    plan = plan_jobs(mixed, out, recursive=True)
    assert names(plan, out)["sub/deeper/e.png"] == "sub/deeper/e.png"
    assert "results/x.png" not in names(plan, out)
    assert "link" in plan.skipped["sub/loop"]


@pytest.mark.parametrize(("output", "match"), [("o.png", "must be a folder"), ("o", "hold photos")])
def test_a_folder_that_does_not_fit(tmp_path: Path, output: str, match: str) -> None:
    (tmp_path / "empty").mkdir()
    if output == "o.png":
        tiny(tmp_path / "empty" / "a.png")
    with pytest.raises(InvalidImageError, match=match):
        plan_jobs(tmp_path / "empty", tmp_path / output)


# --- a long run isn't lost ---


def test_a_mixed_folder_is_run_to_its_end(
    protect: Callable, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (mixed / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("RGB", (128, 128), "grey").save(mixed / "wall.png")
    (mixed / "pipe.png").unlink()  # reading it for its digest would wait for ever
    before = digests(mixed)
    report = tmp_path / "report.json"
    assert protect(mixed, tmp_path / "out", "--recursive", "--report", report) == 1
    assert digests(mixed) == before
    done = {"a.png", "b.JPG", "no ending", "c.jfif", "sub/d.png", "sub/deeper/e.png"}
    assert set(json.loads(report.read_text())) == done
    results = {"a.png", "b.png", "no ending.png", "c.png", "sub/d.png", "sub/deeper/e.png"}
    assert set(digests(tmp_path / "out")) == results
    errors = capsys.readouterr().err
    for name in ("notes.txt", "gone.png"):
        assert f"map-protect: {name}: skipped: " in errors
    for name in ("broken.png", "wall.png", "phone.heic", "renamed"):  # the latter hold no picture
        assert f"map-protect: {name}: `image` must" in errors
    assert errors.splitlines()[-1] == "4 of 10 photos failed."


def failing(
    monkeypatch: pytest.MonkeyPatch, photo: str, error: BaseException
) -> Callable[[], None]:
    """Let a photo fail; the answer ends that."""
    protect = MAPPipeline.__call__

    def fail(pipe: MAPPipeline, source: Path, **settings: object) -> object:
        if Path(source).name == photo:
            raise error
        return protect(pipe, source, **settings)

    monkeypatch.setattr(MAPPipeline, "__call__", fail)
    return lambda: monkeypatch.setattr(MAPPipeline, "__call__", protect)


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nimage"), MemoryError()])
def test_an_unexpected_error_ends_one_photo(
    protect: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: Exception,
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        portrait(tmp_path / "in" / name)
    failing(monkeypatch, "b.png", error)
    assert protect(tmp_path / "in", tmp_path / "out") == 1
    assert set(digests(tmp_path / "out")) == {"a.png", "c.png"}
    text = capsys.readouterr().err
    assert f"map-protect: b.png: unexpected {type(error).__name__}" in text
    assert "Traceback" not in text


def test_a_stopped_run_goes_on_where_it_was(
    protect: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        portrait(tmp_path / "in" / name)
    out, report = tmp_path / "out", tmp_path / "report.json"
    restore = failing(monkeypatch, "b.png", KeyboardInterrupt())
    assert protect(tmp_path / "in", out, "--report", report) == 130
    assert set(json.loads(report.read_text())) == {"a.png"}
    first = digests(out)
    assert set(first) == {"a.png"}
    restore()
    assert protect(tmp_path / "in", out, "--report", report, "--skip-existing") == 0
    assert set(digests(out)) == {"a.png", "b.png", "c.png"}
    assert digests(out)["a.png"] == first["a.png"]
    assert set(json.loads(report.read_text())) == {"a.png", "b.png", "c.png"}
