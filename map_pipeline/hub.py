"""Where checkpoints come from: the package, a folder, or the Hugging Face Hub."""

import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from map_pipeline.checksums import FILE_NAME, check_folder
from map_pipeline.errors import CheckpointError

# Files of a checkpoint; Python and pickles are never fetched. `*` also matches slashes here.
CHECKPOINT_PATTERNS = ["*.json", "*.safetensors", "README.md", FILE_NAME]
SNAPSHOT_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def bundled_checkpoint() -> Path:
    """Folder of the checkpoint that comes with the package."""
    return Path(str(resources.files("map_pipeline") / "checkpoint"))


def find_checkpoint(name_or_path: str | PathLike[str] | None) -> str:
    """What `DiffusionPipeline.from_pretrained` shall load: a checked folder, or a Hub repository.

    Args:
        name_or_path: folder or Hub repository "user/repo"; the bundled checkpoint if None.

    Raises:
        CheckpointError: neither a Hub id nor a folder with a `model_index.json`, or weights of the
            folder that aren't those of its `SHA256SUMS`.
    """
    path = name_or_path or bundled_checkpoint()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not Path(path).exists():
        return str(path)
    if not (Path(path) / "model_index.json").is_file():
        raise CheckpointError(
            "`checkpoint` must be a Hub id such as user/repo or a folder with "
            f"model_index.json, got {path}."
        )
    check_folder(Path(path))
    return str(path)


def download_checkpoint(repository: str, **options: Any) -> str:
    """Fetch a checkpoint from the Hub and return its local folder.

    Args:
        repository: "user/repo".
        options: of `snapshot_download`; others are ignored.

    Raises:
        CheckpointError: it can't be fetched and wasn't before, or a file isn't the one listed in
            its `SHA256SUMS`.
    """
    chosen = {key: options[key] for key in SNAPSHOT_OPTIONS if options.get(key) is not None}
    try:
        folder = snapshot_download(repository, allow_patterns=CHECKPOINT_PATTERNS, **chosen)
    except Exception as error:  # huggingface_hub lets those of its HTTP library through
        raise CheckpointError(
            f"`checkpoint` must be a Hub repository that can be fetched or was before, got "
            f"{repository}: {error}"
        ) from error
    check_folder(Path(folder))
    return folder
