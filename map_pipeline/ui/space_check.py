"""Whether a folder would run as a Hugging Face Space: `python -m map_pipeline.ui.space_check`.

Says what the platform would refuse or trip over before anything is uploaded. Facts about the
platform are those of its documentation in August 2026.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceHardware, metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

Check = Callable[[Path], list[str]]
"""A folder -> what is wrong with it, one sentence each."""

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REQUIRED = (
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file",
    "short_description", "license", "tags",
)  # fmt: skip
OPTIONAL = (
    "suggested_hardware", "thumbnail", "pinned", "models", "datasets", "preload_from_hub",
    "base_path", "fullWidth", "header", "hf_oauth", "hf_oauth_scopes",
    "hf_oauth_expiration_minutes", "hf_oauth_authorized_org", "disable_embedding",
    "startup_duration_timeout", "custom_headers",
)  # fmt: skip
MOST_LETTERS = 60  # of the short description
TORCH_VERSIONS = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")  # that ZeroGPU offers
PYTHON_VERSIONS = ("3.10", "3.12")  # as well
OWN_PACKAGES = ("gradio", "spaces", "huggingface-hub")  # installed by the platform itself
PLAIN_GIT_BYTES = 10 * 2**20
LFS_POINTER = b"version https://git-lfs"
RESOLVE_SECONDS = 600
ZERO_GPU_SECONDS = 300


def check_front_matter(folder: Path, space: str | None = None) -> list[str]:
    """Check the settings at the head of README.md.

    Args:
        folder: of the Space.
        space: "owner/name" of the Space it's meant for, where that is known.
    """
    given = _front_matter(folder)
    missing = [name for name in REQUIRED if not given.get(name)]
    unknown = [name for name in given if name not in (*REQUIRED, *OPTIONAL)]
    problems = [f"`{name}` must be set in README.md." for name in missing]
    problems += [f"`{name}` must be a setting of Spaces: it's ignored." for name in unknown]
    hardware = [one.value for one in SpaceHardware]
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "emoji": (_is_emoji, "one emoji"),
        "colorFrom": (lambda value: value in COLOURS, f"one of {', '.join(COLOURS)}"),
        "colorTo": (lambda value: value in COLOURS, f"one of {', '.join(COLOURS)}"),
        "sdk": (lambda value: value == "gradio", "gradio"),
        "sdk_version": (_is_full_version, "a text of three numbers, such as 6.31.0"),
        "python_version": (
            lambda value: value in PYTHON_VERSIONS, f"a text, one of {', '.join(PYTHON_VERSIONS)}"
        ),
        "app_file": (lambda value: (folder / str(value)).is_file(), "a file of the folder"),
        "short_description": (
            lambda value: len(str(value)) <= MOST_LETTERS, f"at most {MOST_LETTERS} letters long"
        ),
        "suggested_hardware": (lambda value: value in hardware, f"one of {', '.join(hardware)}"),
        "tags": (_is_list_of_texts, "a list of texts"),
        "thumbnail": (
            partial(_is_address, folder, space), f"{_start(space)} followed by a file of the folder"
        ),
    }  # fmt: skip
    return problems + [
        f"`{name}` must be {rule}, got {given[name]!r}."
        for name, (holds, rule) in rules.items()
        if given.get(name) and not holds(given[name])
    ]


def check_tracked(folder: Path) -> list[str]:
    """Check that git knows every file, as it's git's files that are tested and pushed."""
    left = _listed_by_git(folder, "--others", "--exclude-standard")
    gone = _listed_by_git(folder, "--deleted")
    # What the code may need and `hf upload` leaves out, as it reads .gitignore, too.
    packages = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    ignored = _listed_by_git(
        folder, "--others", "--ignored", "--exclude-standard", "--", *packages, "examples"
    )
    ignored = [name for name in ignored if "__pycache__" not in name]
    return [
        *(f"`{name}` must be tracked by git, or be ignored." for name in left),
        *(f"`{name}` must be there, as git tracks it." for name in gone),
        *(
            f"`{name}` must not be ignored by .gitignore, or it won't be uploaded."
            for name in ignored
        ),
    ]


def check_contents(folder: Path) -> list[str]:
    """Check that large files are there, not just the names that git keeps for them."""
    pointers = [path for path in _files(folder) if _starts_with(path, LFS_POINTER)]
    return [
        f"`{path.relative_to(folder)}` must be the file itself, got git-lfs's pointer to it."
        for path in pointers
    ]


def large_files(folder: Path) -> list[Path]:
    """The files that the platform doesn't take from plain git."""
    return [path for path in _files(folder) if path.stat().st_size > PLAIN_GIT_BYTES]


def check_requirements(folder: Path) -> list[str]:
    """Check requirements.txt against what the platform installs itself, without a network."""
    try:
        wanted = _requirements(folder)
    except (OSError, InvalidRequirement) as error:
        return [f"`requirements.txt` must be readable by pip, got: {error}"]
    given, problems = _front_matter(folder), []
    for name in OWN_PACKAGES:
        limits = wanted.get(name, SpecifierSet())
        if any(one.operator in ("==", "===", "~=") for one in limits):
            problems.append(f"`{name}` must not be pinned in requirements.txt, got {limits}.")
    version = str(given.get("sdk_version"))
    if _is_full_version(version) and version not in wanted.get("gradio", SpecifierSet()):
        problems.append(f"`gradio` must allow `sdk_version` {version}, got {wanted['gradio']}.")
    torch = wanted.get("torch", SpecifierSet())
    if not list(torch.filter(TORCH_VERSIONS)):
        offered = ", ".join(TORCH_VERSIONS)
        problems.append(f"`torch` must allow one of ZeroGPU's {offered}, got {torch}.")
    python = str(given.get("python_version"))
    if python in PYTHON_VERSIONS and python not in (allowed := _python_range(folder)):
        problems.append(f"`python_version` must be in {allowed} of pyproject.toml, got {python}.")
    return problems


def check_resolution(folder: Path) -> list[str]:
    """Check that pip finds versions that go together with the platform's own; needs a network."""
    if check_front_matter(folder) or check_requirements(folder):
        return ["README.md and requirements.txt must be right before pip can be asked."]
    given = _front_matter(folder)
    torch = _requirements(folder).get("torch", SpecifierSet())
    newest = list(torch.filter(TORCH_VERSIONS))[-1:]
    platform = [
        f"gradio[oauth,mcp]=={given['sdk_version']}",
        "spaces",
        "huggingface_hub",
        *(f"torch=={version}" for version in newest),
    ]
    with tempfile.TemporaryDirectory() as target:
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--disable-pip-version-check", "--only-binary=:all:", "--target", target,
            "--python-version", str(given["python_version"]),
            "-r", "requirements.txt", *platform,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=RESOLVE_SECONDS
        )
    if done.returncode == 0:
        return []
    errors = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return [f"pip must find versions that go together, got: {' '.join(errors) or done.stderr}"]


def check_zero_gpu(folder: Path) -> list[str]:
    """Check, in a process of its own, what `zero_gpu_run` says about the app."""
    name = Path(str(_front_matter(folder).get("app_file"))).stem
    # Nothing is asked of the address: the stand-in for CUDA works before the page is launched.
    zero_gpu = {"SPACES_ZERO_GPU": "1", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
    here = str(Path(__file__).parents[2])  # where the folder has no package of its own
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "map_pipeline.ui.zero_gpu_run", name],
        cwd=folder,
        env={**os.environ, **zero_gpu, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=ZERO_GPU_SECONDS,
    )
    if done.returncode:
        [*_, last] = done.stderr.strip().splitlines() or ["no message"]
        return [f"The app must load in ZeroGPU's mode, got: {last}"]
    return json.loads(done.stdout.splitlines()[-1])


def checks(space: str | None, offline: bool) -> dict[str, Check]:
    """All checks by their names."""
    named: dict[str, Check] = {
        "front matter": lambda folder: check_front_matter(folder, space),
        "files tracked": check_tracked,
        "files complete": check_contents,
        "requirements beside the platform's": check_requirements,
        "app on ZeroGPU": check_zero_gpu,
    }
    return named if offline else {**named, "versions found by pip": check_resolution}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and print what they find; 1 if that is anything."""
    parser = argparse.ArgumentParser(description="Check a folder as a Hugging Face Space would.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--space", metavar="OWNER/NAME", help="the Space it's meant for")
    parser.add_argument("--offline", action="store_true", help="ask no package index")
    options = parser.parse_args(arguments)
    folder, failed = options.folder.resolve(), False
    if not (_front_matter(folder) and (folder / ".git").exists()):
        print(f"`{folder}` must be a git checkout with the settings of a Space in README.md.")
        return 1
    for name, check in checks(options.space, options.offline).items():
        problems = check(folder)
        failed |= bool(problems)
        print("\n   ".join([f"{'NOT ok' if problems else 'ok'}: {name}", *problems]), flush=True)
    if large := large_files(folder):
        names = ", ".join(str(path.relative_to(folder)) for path in large)
        print(f"`git push` refuses these large files, `hf upload` stores them by itself: {names}")
    return int(failed)


def _front_matter(folder: Path) -> dict[str, Any]:
    readme = folder / "README.md"
    return (metadata_load(readme) if readme.is_file() else None) or {}


def _requirements(folder: Path) -> dict[str, SpecifierSet]:
    lines = (folder / "requirements.txt").read_text().splitlines()
    wanted = [line.split(" #")[0] for line in lines if line.strip() and not line.startswith("#")]
    parsed = map(Requirement, wanted)
    return {one.name.lower().replace("_", "-"): one.specifier for one in parsed}


def _python_range(folder: Path) -> SpecifierSet:
    project = folder / "pyproject.toml"
    settings = tomllib.loads(project.read_text()) if project.is_file() else {}
    return SpecifierSet(settings.get("project", {}).get("requires-python", ""))


def _listed_by_git(folder: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in done.stdout.split("\0") if name]


def _files(folder: Path) -> list[Path]:
    """What would be uploaded, as far as it's there."""
    listed = _listed_by_git(folder, "--cached", "--others", "--exclude-standard")
    return [path for name in sorted(set(listed)) if (path := folder / name).is_file()]


def _starts_with(path: Path, content: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(content)) == content


def _is_emoji(value: Any) -> bool:
    # A symbol, and what may change it: another skin, another look, or one more that it's joined to.
    kinds = {unicodedata.category(letter) for letter in str(value)}
    return "So" in kinds and kinds <= {"So", "Sk", "Mn", "Cf"}


def _is_full_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+\.\d+\.\d+", value) is not None


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _start(space: str | None) -> str:
    return f"https://huggingface.co/spaces/{space or 'OWNER/NAME'}/resolve/main/"


def _is_address(folder: Path, space: str | None, value: Any) -> bool:
    """Of a picture of the folder, where it will be when the folder is the Space."""
    owner = re.escape(space) if space else "[^/]+/[^/]+"
    start = re.escape(_start("SPACE")).replace("SPACE", owner)
    found = re.fullmatch(f"{start}(.+)", str(value))
    return found is not None and (folder / found[1]).is_file()


if __name__ == "__main__":
    sys.exit(main())
