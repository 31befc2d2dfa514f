"""A folder that the test makes is whole until the test breaks one thing in it."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

from map_pipeline.ui import space_check

ROOT = Path(__file__).parents[2]
HEAD = {
    "title": "A page",
    "emoji": "🎭",
    "colorFrom": "indigo",
    "colorTo": "pink",
    "sdk": "gradio",
    "sdk_version": "6.31.0",
    "python_version": '"3.12"',
    "app_file": "app.py",
    "short_description": "What it does",
    "license": "mit",
    "tags": "[privacy]",
    "suggested_hardware": "zero-a10g",
    "thumbnail": "https://huggingface.co/spaces/me/page/resolve/main/card.jpg",
}
REQUIREMENTS = "# why\ntorch>=2.8,<2.14\ngradio\nspaces\nhuggingface_hub\nnumpy>=2  # why\n"
PROJECT = '[project]\nrequires-python = ">=3.11,<3.13"\n'
APP = """
from types import SimpleNamespace
import spaces
import torch

class PageSettings:
    from_environment = classmethod(lambda cls: cls())

def pipe(device):
    return SimpleNamespace(components={"net": torch.nn.Linear(1, 1).to(device)})

def load_shipped(settings):
    return SimpleNamespace(protecting={"auto": pipe("cuda")}, judging={"auto": pipe("cpu")})

def build_demo(settings, load):
    load()
    spaces.GPU(lambda: None)
"""


def write_head(folder: Path, **changes: str | None) -> None:
    """README.md with these settings changed, or left out where they're None."""
    lines = [f"{name}: {value}" for name, value in (HEAD | changes).items() if value is not None]
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "# A page"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "requirements.txt": REQUIREMENTS, "pyproject.toml": PROJECT, "app.py": APP, "card.jpg": "",
        "package/__init__.py": "", "package/weights.bin": "w", ".gitignore": "__pycache__/\n",
    }  # fmt: skip
    (tmp_path / "package").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    write_head(tmp_path)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_whole_folder_passes_every_quick_check(folder: Path) -> None:
    for name, check in space_check.checks("me/page", offline=True).items():
        if name != "app on ZeroGPU":
            assert check(folder) == [], name
    assert space_check.large_files(folder) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", None),
        ("tags", None),
        ("tags", "privacy"),
        ("emoji", "M"),
        ("emoji", "🎭x"),
        ("colorFrom", "orange"),
        ("colorTo", "black"),
        ("sdk", "streamlit"),
        ("sdk_version", "6.31"),
        ("python_version", "3.12"),  # YAML reads a number
        ("python_version", '"3.13"'),
        ("app_file", "main.py"),
        ("short_description", "x" * 61),
        ("suggested_hardware", "zero-gpu"),
        ("thumbnail", "card.jpg"),
        ("thumbnail", "https://huggingface.co/spaces/me/page/resolve/main/missing.jpg"),
        ("hardware", "zero-a10g"),
    ],
)
def test_wrong_setting_is_named(folder: Path, name: str, value: str | None) -> None:
    write_head(folder, **{name: value})
    [problem] = space_check.check_front_matter(folder)
    assert f"`{name}`" in problem


def test_thumbnail_of_another_space_is_named(folder: Path) -> None:
    assert space_check.check_front_matter(folder, "me/page") == []
    [problem] = space_check.check_front_matter(folder, "you/page")
    assert "https://huggingface.co/spaces/you/page/" in problem


@pytest.mark.parametrize("emoji", ["🎭", "👩🏽‍🚀", "☀️"])
def test_every_emoji_is_one(folder: Path, emoji: str) -> None:
    write_head(folder, emoji=emoji)
    assert space_check.check_front_matter(folder) == []


def add_file(folder: Path) -> None:
    (folder / "holiday.jpg").write_text("private")


def lose_file(folder: Path) -> None:
    (folder / "package" / "weights.bin").unlink()


def ignore_file(folder: Path) -> None:
    (folder / ".gitignore").write_text("__pycache__/\n*.safetensors\n")
    (folder / "package" / "net.safetensors").write_text("w")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (add_file, "holiday.jpg"),
        (lose_file, "package/weights.bin"),
        (ignore_file, "package/net.safetensors"),
    ],
)
def test_file_that_git_does_not_know_or_lacks_is_named(
    folder: Path, change: Callable[[Path], None], name: str
) -> None:
    change(folder)
    [problem] = space_check.check_tracked(folder)
    assert f"`{name}`" in problem


def test_what_python_writes_is_no_problem(folder: Path) -> None:
    (folder / "package" / "__pycache__").mkdir()
    (folder / "package" / "__pycache__" / "a.pyc").write_text("")
    assert space_check.check_tracked(folder) == []


def test_pointer_of_git_lfs_is_no_file(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "package" / "weights.bin").write_text(pointer)
    [problem] = space_check.check_contents(folder)
    assert "`package/weights.bin`" in problem


def test_files_that_plain_git_may_not_hold_are_named(folder: Path) -> None:
    (folder / "package" / "weights.bin").write_bytes(bytes(10 * 2**20))
    assert space_check.large_files(folder) == []
    (folder / "package" / "weights.bin").write_bytes(bytes(10 * 2**20 + 1))
    assert space_check.large_files(folder) == [folder / "package" / "weights.bin"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("gradio<6", "gradio"),
        ("spaces==0.30.0", "spaces"),
        ("huggingface_hub~=1.0", "huggingface-hub"),
        ("torch>=2.12", "torch"),
        ("numpy 2", "requirements.txt"),
    ],
)
def test_requirement_that_fights_the_platform_is_named(folder: Path, line: str, name: str) -> None:
    others = [one for one in REQUIREMENTS.splitlines() if not one.startswith(line[:5])]
    (folder / "requirements.txt").write_text("\n".join([*others, line]))
    [problem] = space_check.check_requirements(folder)
    assert f"`{name}`" in problem


def test_python_that_the_project_refuses_is_named(folder: Path) -> None:
    write_head(folder, python_version='"3.10"')
    [problem] = space_check.check_requirements(folder)
    assert "`python_version`" in problem


def make_wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package of nothing but its metadata."""
    stem = f"{name}-{version}"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {one}" for one in needs]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.mark.slow
@pytest.mark.parametrize(("needed", "fits"), [("gradio>=6", True), ("gradio<6", False)])
def test_pip_itself_is_asked_whether_versions_go_together(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    needed: str, fits: bool,
) -> None:  # fmt: skip
    index = tmp_path_factory.mktemp("index")
    for name, version in (
        ("gradio", "6.31.0"), ("gradio", "5.0.0"), ("spaces", "0.51.3"),
        ("huggingface_hub", "2.4.0"), ("torch", "2.11.0"), ("numpy", "2.4.0"),
    ):  # fmt: skip
        make_wheel(index, name, version)
    make_wheel(index, "editor", "1.0", needed)
    (folder / "requirements.txt").write_text(REQUIREMENTS + "editor\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    problems = space_check.check_resolution(folder)
    assert (problems == []) is fits
    assert fits or "conflict" in problems[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ("", "", None),
        ('pipe("cuda")', 'pipe("cpu")', "`protecting` must have its networks on cuda"),
        ('{"auto": pipe("cpu")}', '{"auto": pipe("cuda")}', "`judging` must have its networks"),
        ("spaces.GPU(lambda: None)", "pass", "must ask for the GPU"),
        ("import torch", "import torch\ntorch.cuda.init()", "CUDA"),
        ("import torch", "import torch\nimport missing_package", "missing_package"),
    ],
    ids=["good", "left on the CPU", "judges on the GPU", "no GPU", "CUDA touched", "no import"],
)
def test_app_is_loaded_as_on_zero_gpu(folder: Path, old: str, new: str, answer: str | None) -> None:
    (folder / "app.py").write_text(APP.replace(old, new))
    problems = space_check.check_zero_gpu(folder)
    if answer is None:
        assert problems == []
    else:
        [problem] = problems
        assert answer in problem


@pytest.mark.weights
def test_this_repository_is_a_space(capsys: pytest.CaptureFixture) -> None:
    space_check.main([str(ROOT), "--offline"])
    answer = capsys.readouterr().out
    # Files that are being worked on are nobody's fault; the rest has to hold at any time.
    broken = {line for line in answer.splitlines() if line.startswith("NOT ok")}
    assert broken <= {"NOT ok: files tracked"}, answer
    assert "ok: app on ZeroGPU" in answer


def test_command_fails_where_a_check_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(space_check, "check_zero_gpu", lambda _: [])  # slow, see above
    assert space_check.main([str(folder), "--offline", "--space", "me/page"]) == 0
    (folder / "package" / "weights.bin").write_bytes(bytes(10 * 2**20 + 1))
    assert space_check.main([str(folder), "--offline"]) == 0  # `hf upload` can store it
    assert "package/weights.bin" in capsys.readouterr().out
    write_head(folder, emoji="M")
    assert space_check.main([str(folder)]) == 1  # without asking pip for versions
    assert "pip can be asked" in capsys.readouterr().out


@pytest.mark.parametrize("missing", [".git", "README.md"])
def test_what_is_no_space_at_all_is_refused(
    folder: Path, missing: str, capsys: pytest.CaptureFixture
) -> None:
    (folder / missing).rename(folder / "elsewhere")
    assert space_check.main([str(folder)]) == 1
    assert "must be a git checkout with the settings of a Space" in capsys.readouterr().out


def test_card_fits_where_links_are_shared() -> None:
    card = ROOT / metadata_load(ROOT / "README.md")["thumbnail"].split("/resolve/main/")[1]
    assert card.stat().st_size <= 150_000  # bytes
