"""Several networks as one pipeline component, each in a folder of its own on disk."""

import importlib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import nn

from map_pipeline.errors import CheckpointError, UnknownOptionError


class Ensemble(ModelMixin, ConfigMixin):
    """Named networks, used like a dictionary: `ensemble["name"]`, `.items()`, `in`, `len`.

    Saved as `config.json`, which names the members and their classes, and one folder for each
    member as it saves itself.

    Args:
        members: name -> network, of the classes in `member_classes`.
    """

    member_classes: ClassVar[tuple[str, ...]] = ()  # public names of `map_pipeline`

    def __init__(self, members: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.networks = nn.ModuleDict()
        # Device and dtype of an empty ensemble, which diffusers asks of every component.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self.register_to_config(members=[])  # pairs: JSON objects would lose their order
        for name, network in (members or {}).items():
            self[name] = network

    def __getitem__(self, name: str) -> Any:
        return self.networks[name]

    def __setitem__(self, name: str, network: nn.Module) -> None:
        """Add or replace a member.

        Raises:
            UnknownOptionError: it's not one of `member_classes`, or its name is no identifier.
        """
        kind = type(network).__name__
        if kind not in self.member_classes or not name.isidentifier():
            raise UnknownOptionError(
                f"`members` must be {' or '.join(self.member_classes)} under names such as "
                f"my_network, got {kind} as {name!r}."
            )
        self.networks[name] = network
        kept = [pair for pair in self.config.members if pair[0] != name]
        self.register_to_config(members=[*kept, [name, kind]])

    def __contains__(self, name: object) -> bool:
        return name in self.networks

    def __iter__(self) -> Iterator[str]:
        return iter(self.networks)

    def __len__(self) -> int:
        return len(self.networks)

    def keys(self) -> Any:
        """Names of the members, in the order they report."""
        return self.networks.keys()

    def values(self) -> Any:
        """The members."""
        return self.networks.values()

    def items(self) -> Any:
        """Pairs of name and member."""
        return self.networks.items()

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> None:
        """Save the list of members, and each of them in the folder of its name.

        Args:
            save_directory: created if it doesn't exist.
            kwargs: passed on to `ModelMixin.save_pretrained` of every member.
        """
        self.save_config(save_directory)
        for name, network in self.items():
            network.save_pretrained(Path(save_directory) / name, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Self:
        """Load a folder written by `save_pretrained`.

        Args:
            pretrained_model_name_or_path: local folder.
            kwargs: passed on to `from_pretrained` of every member.

        Raises:
            CheckpointError: the list names a class that isn't among `member_classes`.
        """
        folder = Path(pretrained_model_name_or_path)
        listed = cls.load_config(folder)["members"]
        package = importlib.import_module("map_pipeline")
        members = {}
        for name, kind in listed:
            if kind not in cls.member_classes:
                raise CheckpointError(
                    f"`members` of {folder} must be of {', '.join(cls.member_classes)}, got {kind}."
                )
            members[name] = getattr(package, kind).from_pretrained(folder / name, **kwargs)
        return cls(members).eval()
