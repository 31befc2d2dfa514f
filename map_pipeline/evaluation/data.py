"""Test photos: pairs of one person each, and target identities, from a folder or a zip.

Layout: `NAME_a.*` (to protect) and `NAME_b.*` (another photo of the same person); targets as
`targets/ID_enroll.*` (optimised towards) and `targets/ID_probe.*` (tested against).
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.images import SUFFIXES


@dataclass(frozen=True)
class Pair:
    """Two photos of one person, as the bytes of their files.

    Attributes:
        name: what both file names share; first: the photo to protect; second: the other one.
    """

    name: str
    first: bytes
    second: bytes


@dataclass(frozen=True)
class TargetPhotos:
    """Two photos of one target: `enroll` to optimise towards, `probe` to test against."""

    name: str
    enroll: bytes
    probe: bytes


class PhotoSet:
    """The files of a folder or zip by name, read on demand."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if self._path.is_dir():
            files = [p for p in self._path.rglob("*") if p.is_file()]
            self._names = sorted(p.relative_to(self._path).as_posix() for p in files)
        elif zipfile.is_zipfile(self._path):
            with zipfile.ZipFile(self._path) as archive:
                self._names = sorted(archive.namelist())
        else:
            raise InvalidImageError(f"`pairs` must be a folder or a zip file, got {path}.")
        self._names = [n for n in self._names if PurePosixPath(n).suffix.lower() in SUFFIXES]

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        if self._path.is_dir():
            return (self._path / name).read_bytes()
        with zipfile.ZipFile(self._path) as archive:
            return archive.read(name)

    def roles(self, first: str, second: str) -> dict[str, tuple[str | None, str | None]]:
        """Name -> its two files, told by the endings of their stems; None where one is missing."""
        found: dict[str, list[str | None]] = {}
        for file in self._names:
            stem = PurePosixPath(file).stem
            for position, ending in enumerate((first, second)):
                if stem.endswith(ending):
                    found.setdefault(stem.removesuffix(ending), [None, None])[position] = file
        return {name: (files[0], files[1]) for name, files in found.items()}

    def pairs(self, limit: int | None = None) -> Iterator[Pair]:
        """The pairs in order of name.

        Raises:
            InvalidImageError: there is none, or one lacks its partner.
        """
        found = self.roles("_a", "_b")
        lonely = [name for name, files in found.items() if None in files]
        if not found or lonely:
            raise InvalidImageError(
                "`pairs` must hold files NAME_a.* and NAME_b.* of each person, got "
                + (f"only one of {', '.join(lonely)}." if lonely else "none.")
            )
        for name in sorted(found)[:limit]:
            first, second = found[name]
            yield Pair(name, self.read(first), self.read(second))

    def target(self, name: str) -> TargetPhotos:
        """A target identity by its id.

        Raises:
            UnknownOptionError: it isn't there.
        """
        found = self.roles("_enroll", "_probe")
        known = {
            PurePosixPath(key).name: files for key, files in found.items() if None not in files
        }
        if name not in known:
            raise UnknownOptionError(
                f"`target` must be one of {', '.join(sorted(known)) or 'none'}; got {name!r}."
            )
        enroll, probe = known[name]
        return TargetPhotos(name, self.read(enroll), self.read(probe))
