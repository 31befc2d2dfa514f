"""Test photos from a folder or a zip: two photos of each person, targets, attributes.

Two layouts are known. *Pairs*: `NAME_a.*` (to protect) and `NAME_b.*` (another photo of the same
person), as soon as one file name ends so. Else *one folder per identity* (CelebA-HQ, LADN, LFW):
the first photo of a folder, by name, is protected and the second is the other one. In both, targets
lie as `ID_enroll.*` (optimised towards) and `ID_probe.*` (tested against), by custom in a folder
`targets`.

Whatever can't be used becomes a `Problem` with its name; nothing is dropped silently.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from map_pipeline.errors import InvalidImageError, UnknownOptionError
from map_pipeline.images import SUFFIXES

ROLES = {"_a": 0, "_b": 1}
TARGET_ROLES = {"_enroll": 0, "_probe": 1}
# Upper ends of the age bands that a numeric `age` is put in, years; the last band is open.
AGE_BANDS = (19, 39, 59)


@dataclass(frozen=True)
class Problem:
    """Something that can't be used: its name (of a file or person) and the rule that it breaks."""

    name: str
    rule: str


@dataclass(frozen=True)
class Pair:
    """One person's photos, as names of files in their `PhotoSet`.

    Attributes:
        name: of the person or pair, unique and fit for a file name.
        first: the photo to protect, None if there's none.
        second: another photo of the person, None if there's none.
    """

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class TargetPhotos:
    """Two photos of one target: `enroll` to optimise towards, `probe` to test against."""

    name: str
    enroll: bytes
    probe: bytes


class PhotoSet:
    """The people and targets of a folder or zip; files are read on demand.

    Attributes:
        pairs: people with a photo to protect, in order of name; `second` may be missing.
        problems: what couldn't be used, or only in part.

    Raises:
        InvalidImageError: neither a folder nor a zip, or nobody in it can be protected.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.problems: list[Problem] = []
        files = sorted(name for name in self._list() if not _is_hidden(name))
        photos = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
        self._targets = self._find_targets(photos)
        rest = [name for name in photos if not _role(name, TARGET_ROLES)]
        if any(_role(name, ROLES) for name in rest):
            found = self._find_pairs(rest)
            self._report_other_types(files)
        else:
            found = self._find_identities(rest, files)
        self.pairs = self._complete(found)
        if not self.pairs:
            raise InvalidImageError(
                "`pairs` must hold files NAME_a.* and NAME_b.* of each person, or a folder of "
                "photos for each, got none."
            )

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            InvalidImageError: the zip is damaged there, or encrypted.
        """
        if self._path.is_dir():
            return (self._path / name).read_bytes()
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise InvalidImageError(
                f"`image` must be readable, got {name!r} in the zip ({error})."
            ) from None

    @property
    def targets(self) -> list[str]:
        """Ids of the targets that have both photos."""
        return sorted(self._targets)

    def target(self, name: str) -> TargetPhotos:
        """A target identity by its id.

        Raises:
            UnknownOptionError: it isn't there.
        """
        if name not in self._targets:
            raise UnknownOptionError(
                f"`target` must be one of {', '.join(self.targets) or 'none'}; got {name!r}."
            )
        enroll, probe = self._targets[name]
        return TargetPhotos(name, self.read(enroll), self.read(probe))

    def fingerprint(self) -> str:
        """Hash of the names of all photos, to see whether a run is continued on the same set."""
        names = json.dumps([[pair.name, pair.first, pair.second] for pair in self.pairs])
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def _list(self) -> Iterator[str]:
        """All files and folders, as posix paths in the set; folders end in a slash."""
        if self._path.is_dir():
            for path in self._path.rglob("*"):
                name = path.relative_to(self._path).as_posix()
                yield name + "/" if path.is_dir() else name
        elif zipfile.is_zipfile(self._path):
            with zipfile.ZipFile(self._path) as archive:
                yield from archive.namelist()
        else:
            raise InvalidImageError(f"`pairs` must be a folder or a zip file, got {self._path}.")

    def _find_targets(self, photos: Sequence[str]) -> dict[str, tuple[str, str]]:
        found: dict[str, list[str | None]] = {}
        for file in photos:
            if role := _role(file, TARGET_ROLES):
                found.setdefault(role[0], [None, None])[role[1]] = file
        for name, (enroll, probe) in found.items():
            if enroll is None or probe is None:
                rule = f"a target needs {name}_enroll.* and {name}_probe.*; left out"
                self.problems.append(Problem(enroll or probe or name, rule))
        return {name: (e, p) for name, (e, p) in found.items() if e is not None and p is not None}

    def _find_pairs(self, photos: Sequence[str]) -> dict[str, list[str | None]]:
        """Person -> [file a, file b]; people are distinguished by folder and stem."""
        found: dict[str, list[str | None]] = {}
        for file in photos:
            role = _role(file, ROLES)
            if role is None:
                self.problems.append(Problem(file, "neither NAME_a.* nor NAME_b.*; left out"))
                continue
            person = (PurePosixPath(file).parent / role[0]).as_posix()
            files = found.setdefault(person, [None, None])
            if files[role[1]] is None:
                files[role[1]] = file
            else:
                rule = f"the place is taken by {files[role[1]]}; left out"
                self.problems.append(Problem(file, rule))
        return found

    def _find_identities(
        self, photos: Sequence[str], files: Sequence[str]
    ) -> dict[str, list[str | None]]:
        """Folder -> its first two photos."""
        found: dict[str, list[str | None]] = {}
        for file in photos:
            folder = PurePosixPath(file).parent.as_posix()
            if folder == ".":
                rule = "lies beside the folders of identities, in none of them; left out"
                self.problems.append(Problem(file, rule))
            else:
                found.setdefault(folder, []).append(file)
        folders = [name.rstrip("/") for name in files if name.endswith("/")]
        for folder in folders:
            inside = [file for file in files if file.startswith(folder + "/") and file[-1] != "/"]
            if not any(PurePosixPath(file).suffix.lower() in SUFFIXES for file in inside):
                self.problems.append(Problem(folder, "an identity's folder without any photo"))
        return {folder: [*files, None][:2] for folder, files in found.items()}

    def _report_other_types(self, files: Sequence[str]) -> None:
        """A photo of a type that can't be read, such as HEIC, is missed by somebody: say so."""
        for file in files:
            suffix = PurePosixPath(file).suffix.lower()
            if suffix and suffix not in SUFFIXES and _role(file, ROLES):
                self.problems.append(Problem(file, f"must end in {', '.join(SUFFIXES)}; left out"))

    def _complete(self, found: Mapping[str, list[str | None]]) -> list[Pair]:
        """Pairs with something to protect, named by stem, or by path where stems repeat."""
        stems = [PurePosixPath(person).name for person in found]
        pairs = []
        for person, (first, second) in sorted(found.items()):
            stem = PurePosixPath(person).name
            name = _file_name(stem if stems.count(stem) == 1 else person)
            if first is None:
                rule = "no photo to protect beside it (NAME_a.*); left out"
                self.problems.append(Problem(second or name, rule))
                continue
            if second is None:
                rule = "no second photo of this person; left out of dodging and identification"
                self.problems.append(Problem(first, rule))
            pairs.append(Pair(name, first, second))
        return pairs


def read_attributes(path: str | Path) -> dict[str, dict[str, str]]:
    """Photo name -> attribute -> group, from JSON lines such as `{"name": "001", "age": 34}`.

    A number as `age` (years) becomes a band such as "20-39"; other values are taken as text.

    Raises:
        UnknownOptionError: a line that isn't an object with a `name`.
    """
    attributes: dict[str, dict[str, str]] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name = entry.pop("name")
            except (ValueError, KeyError, AttributeError, TypeError):
                raise UnknownOptionError(
                    '`attributes` must hold one JSON object with a "name" a line, '
                    f"got {line.strip()[:60]!r} in line {number}."
                ) from None
            attributes[str(name)] = {key: _group(key, value) for key, value in entry.items()}
    return attributes


def _group(attribute: str, value: object) -> str:
    if attribute == "age" and isinstance(value, int | float) and not isinstance(value, bool):
        lower = 0
        for upper in AGE_BANDS:
            if value < upper + 1:
                return f"{lower}-{upper}"
            lower = upper + 1
        return f"{lower}+"
    return str(value)


def _role(file: str, roles: Mapping[str, int]) -> tuple[str, int] | None:
    """Name and position by the ending of a file's stem."""
    stem = PurePosixPath(file).stem
    for ending, position in roles.items():
        if stem.endswith(ending) and stem != ending and not file.endswith("/"):
            return stem.removesuffix(ending), position
    return None


def _file_name(person: str) -> str:
    """A person's path as one printable file name."""
    return "".join(c if c.isprintable() else "_" for c in person.replace("/", "__"))


def _is_hidden(file: str) -> bool:
    """Whether it or a folder above it is bookkeeping of an operating system."""
    return any(p.startswith(".") or p == "__MACOSX" for p in PurePosixPath(file).parts)
