"""Whether weight files are the ones that were shipped: SHA-256 of each, beside them.

A folder lists its weights in `SHA256SUMS`, the format of `sha256sum`, which can check it too. Every
checkpoint is checked when it's loaded and has such a list; the bundled ones have. After training
new weights into a folder that has a list, write it again: `python -m map_pipeline.checksums
FOLDER`, or without FOLDER for the bundled ones.
"""

import argparse
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from map_pipeline.errors import CheckpointError
from map_pipeline.files import write_atomically

FILE_NAME = "SHA256SUMS"
WEIGHT_SUFFIXES = (".safetensors", ".onnx")
BUNDLED_FOLDERS = ("checkpoint", "faces/weights")  # in the package
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def check_folder(folder: Path) -> None:
    """Check all weight files of a folder; only the bundled ones must have a list to check by.

    Raises:
        CheckpointError: a file is missing, isn't listed or isn't what the list says.
    """
    if not (folder / FILE_NAME).is_file() and folder not in bundled_folders():
        return
    listed = read_list(folder)
    for name in [*listed, *weight_files(folder)]:
        check_content(folder, name, _read(folder / name), listed)


def check_content(folder: Path, name: str, content: bytes, listed: dict[str, str]) -> None:
    """Raise `CheckpointError` unless `content` is the listed one of the file `folder/name`."""
    found = hashlib.sha256(content).hexdigest()
    if name not in listed:
        raise CheckpointError(
            f"`{folder / name}` must be listed in {FILE_NAME}, got SHA-256 {found}."
        )
    if found != listed[name]:
        raise CheckpointError(
            f"`{folder / name}` must have the SHA-256 {listed[name]}, got {found}. It's damaged or "
            "was replaced: fetch it again, or, if you made it, run `python -m map_pipeline."
            f"checksums {folder}`."
        )


def read_checked(folder: Path, name: str) -> bytes:
    """The content of a weight file of a folder with a list.

    Raises:
        CheckpointError: it's missing or isn't what the list says.
    """
    content = _read(folder / name)
    check_content(folder, name, content, read_list(folder))
    return content


def read_list(folder: Path) -> dict[str, str]:
    """File name, relative to the folder, -> SHA-256 as its list says.

    Raises:
        CheckpointError: the list is missing, damaged, or names a file outside of the folder.
    """
    path = folder / FILE_NAME
    listed = {}
    for line in _read(path).decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or ".." in match[2] or Path(match[2]).is_absolute():
            raise CheckpointError(
                f"`{path}` must hold lines of a SHA-256 and a file name in its folder, "
                f"got {line[:100]!r}."
            )
        listed[match[2]] = match[1]
    return listed


def weight_files(folder: Path) -> list[str]:
    """Names of all weight files in a folder and below, relative to it, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def write_list(folder: Path) -> Path:
    """Write the list of a folder's weights as they are now, and return its path.

    Raises:
        CheckpointError: the folder holds no weight file.
    """
    names = weight_files(folder)
    if not names:
        kinds = " or ".join(WEIGHT_SUFFIXES)
        raise CheckpointError(f"`{folder}` must hold {kinds} files, got none.")
    lines = [f"{hashlib.sha256(_read(folder / name)).hexdigest()}  {name}\n" for name in names]
    write_atomically(folder / FILE_NAME, "".join(lines).encode())
    return folder / FILE_NAME


def bundled_folders() -> list[Path]:
    """The folders of the package that hold weights."""
    root = Path(str(resources.files("map_pipeline")))
    return [root / name for name in BUNDLED_FOLDERS]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the lists of the folders given, or of the bundled ones."""
    parser = argparse.ArgumentParser(description="Write the SHA-256 of weight files beside them.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    for folder in parser.parse_args(arguments).folders or bundled_folders():
        print(write_list(folder))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"`{path}` must be a readable file, got: {error.strerror or error}."
        ) from None


if __name__ == "__main__":
    main()
