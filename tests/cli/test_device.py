"""A device that isn't there is an error in one line, on every command."""

from pathlib import Path

import pytest
import torch
from conftest import ASTRONAUT

from map_pipeline.cli.main import main
from map_pipeline.cli.options import usable_device
from map_pipeline.errors import UnknownOptionError

MISSING = ["gpu", "cuda:99", "meta", "xpu", "cpu:x", ""]
MISSING += [] if torch.cuda.is_available() else ["cuda"]
MISSING += [] if torch.backends.mps.is_available() else ["mps"]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_device_is_named(name: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"`--device` must .* '{name}'"):
        usable_device(name)


def test_a_device_that_is_there() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    assert usable_device(None).type in ("cpu", "cuda")


@pytest.mark.parametrize(
    "command",
    [["info"], ["targets"], ["profile"], ["compare", ASTRONAUT, ASTRONAUT], ["protect", ASTRONAUT]],
)
def test_every_command_says_so_in_one_line(
    command: list, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(part) for part in command]
    if command[0] == "protect":
        arguments.append(str(tmp_path / "new" / "a.png"))
    assert main([*arguments, "--checkpoint", str(tiny_checkpoint), "--device", "gpu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("map-protect: `--device` must")
