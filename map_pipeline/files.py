"""Writing files so that each is whole or absent."""

import os
import uuid
from pathlib import Path

from map_pipeline.errors import UnknownOptionError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it, so it is whole or absent.

    Raises:
        OSError: that isn't possible; it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")  # its own name may be at the limit
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:  # of a name that nobody gave
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_new(option: str, path: Path, overwrite: bool) -> None:
    """Refuse to replace a file.

    Raises:
        UnknownOptionError: `path` exists and `overwrite` isn't set.
    """
    if os.path.lexists(path) and not overwrite:
        raise UnknownOptionError(
            f"`{option}` must not exist, got {path.name!r}; --overwrite replaces it."
        )
