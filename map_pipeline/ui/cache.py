"""Where uploads and results lie for a few minutes, and that nothing stays there.

Gradio's own `delete_cache` only knows files that components handed out, forgets those of a handler
that yields updates, and ends for good if a file is added while it looks; a killed server leaves
everything. So this folder is swept by age, also at the next start.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

SWEEP_SECONDS = 60.0


def use_own_cache(keep_seconds: float, every: float = SWEEP_SECONDS) -> Path:
    """Make Gradio write into a private folder, and delete what is older than `keep_seconds` there.

    Call it before components are made. The folder lies in `GRADIO_TEMP_DIR`, else among the
    system's temporary files; servers of one user share it.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    name = f"map-page-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    folder = parent if parent.name == name else parent / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)

    def keep_sweeping() -> None:
        while True:
            sweep(folder, keep_seconds)
            time.sleep(min(every, keep_seconds))

    threading.Thread(target=keep_sweeping, daemon=True, name="cache sweeper").start()
    return folder


def sweep(folder: Path, keep_seconds: float) -> None:
    """Delete files that were written, and empty folders that were changed, longer ago than that."""
    limit = time.time() - keep_seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before the folder
        try:
            if path.lstat().st_mtime > limit:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        except OSError:  # gone already, or a folder that isn't empty
            continue


def keep(paths: Sequence[str]) -> None:
    """Let the minutes until these files are deleted begin anew, as long as they're worked on."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)
