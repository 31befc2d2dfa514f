"""What commands share: parsing, loading the checkpoint, and checks before long runs."""

import inspect
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro  # writes options and help from the dataclasses that the library uses anyway

from map_pipeline.errors import UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    import torch

    from map_pipeline.pipeline import MAPPipeline

Parsed = TypeVar("Parsed")
# Fields of another dataclass, as options without a prefix.
Inline = Annotated[Parsed, tyro.conf.arg(name="")]


def _amounts(given: list[str]) -> dict[str, float]:
    """["smile=0.5"] as {"smile": 0.5}; tyro reports a `ValueError` as a typing error."""
    pairs = [one.partition("=") for one in given]
    try:
        return {name: float(amount) for name, _, amount in pairs}
    except ValueError:
        raise ValueError("must be NAME=AMOUNT, such as smile=0.5") from None


# Numbers by name. One argument each, so that a negative number isn't taken for an option.
Amounts = Annotated[
    Mapping[str, float],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=AMOUNT",
        instance_from_str=_amounts,
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [f"{name}={amount}" for name, amount in value.items()],
    ),
]


def parse(kind: type[Parsed], arguments: Sequence[str], prog: str) -> Parsed:
    """Options as a dataclass; exits with code 2 and a text on stderr for wrong ones.

    Args:
        kind: the dataclass; its docstring describes the command and its fields. Where it has a
            class method `defaults(arguments)`, that makes the defaults.
    """
    defaults = getattr(kind, "defaults", None)
    given = {} if defaults is None else {"default": defaults(arguments)}
    return tyro.cli(
        kind,
        prog=prog,
        description=inspect.cleandoc(kind.__doc__ or "").split("Attributes:")[0].strip(),
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
        **given,
    )


@dataclass(frozen=True)
class Model:
    """The checkpoint and where it runs.

    Attributes:
        checkpoint: Folder or Hub repository; the bundled one if not given.
        device: cpu, cuda and so on; cuda where there is one if not given.
    """

    checkpoint: str | None = None
    device: str | None = None


def load_pipeline(model: Model, detector: str | None = None) -> "MAPPipeline":
    """Load the checkpoint on the chosen device.

    Raises:
        UnknownOptionError: there is no such device here.
    """
    from diffusers.utils import logging

    from map_pipeline.images import quiet_pillow
    from map_pipeline.pipeline import MAPPipeline

    device = usable_device(model.device)
    quiet_pillow()
    logging.disable_progress_bar()  # of loading, which takes a second and would blur an error
    settings = {} if detector is None else {"detector": detector}
    pipe = MAPPipeline.from_pretrained(model.checkpoint, **settings)
    return pipe.to(device)


def usable_device(name: str | None) -> "torch.device":
    """The device of a name such as "cpu", "cuda:1" or "mps"; "cuda" if possible without a name.

    Raises:
        UnknownOptionError: torch doesn't know the name, or finds no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # Each kind of device that is missing raises an error of its own: RuntimeError,
    # AssertionError, NotImplementedError, ModuleNotFoundError ...
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UnknownOptionError(
            f"`--device` must be cpu, cuda, mps or another device of this machine's torch, got "
            f"{name!r} ({reason})."
        ) from None
    if device.type == "meta":
        raise UnknownOptionError("`--device` must be able to compute, got 'meta'.")
    return device


def check_writable(option: str, folder: Path) -> None:
    """Create the folder and a nameless file in it, so that a full run isn't lost at its end.

    Raises:
        OSError: that isn't possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"`{option}` must be in a writable folder, got {folder} ({error.strerror})."
        ) from None
