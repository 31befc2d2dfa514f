"""Loading a pipeline: from the package, a folder or the Hub."""

from os import PathLike
from typing import Any, Self

import torch

from map_pipeline.errors import CheckpointError, MAPError, UnknownOptionError
from map_pipeline.hub import download_checkpoint, find_checkpoint
from map_pipeline.identity.recognisers import find_arcface


class CheckpointMixin:
    """`from_pretrained` and `download` of `MAPPipeline`; stands before `DiffusionPipeline`."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load a checkpoint: the bundled one, a local folder, or a Hub repository "user/repo".

        Only JSON and safetensors are read. insightface's ArcFace joins the recognisers when its
        model pack is on disk (its weights are for non-commercial use).

        Raises:
            CheckpointError: neither a Hub id nor a folder that holds a `model_index.json`; or
                the Hub can't be reached; or a file is missing, damaged or not the one listed in
                the checkpoint's `SHA256SUMS`.
            UnknownOptionError: a `variant` is asked for; networks in folders of a component, as
                recognisers are, have none.
        """
        if (variant := kwargs.get("variant")) is not None:
            raise UnknownOptionError(
                f"`variant` must be None, as a checkpoint has one set of weights, got {variant!r}; "
                "dtype=torch.float16 or torch.bfloat16 loads it in half precision."
            )
        path = find_checkpoint(pretrained_model_name_or_path)
        if "torch_dtype" in kwargs:  # the older name
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        kwargs.setdefault("dtype", torch.float32)
        kwargs.setdefault("use_safetensors", True)
        if "unet" in kwargs:  # the network is a change of the checkpoint's own
            kwargs.setdefault("map_network", None)
        try:
            pipe = super().from_pretrained(path, **kwargs)  # type: ignore[misc]
        except (MAPError, TypeError):  # TypeError: a keyword that doesn't exist
            raise
        except Exception as error:  # diffusers, safetensors and json each have their own
            raise CheckpointError(
                f"`checkpoint` must be whole and fit this version, got {path}: {error}"
            ) from error
        if "recognisers" not in kwargs and (arcface := find_arcface()) is not None:
            pipe.recognisers["arcface"] = arcface.requires_grad_(False).to(pipe.recognisers.dtype)
        return pipe

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a checkpoint from the Hub and return its local folder.

        diffusers refuses Hub repositories whose components live in an installed package; a plain
        snapshot of JSON and safetensors needs no remote code.
        """
        return download_checkpoint(pretrained_model_name, **kwargs)
