"""Parts of MAP that have no setting, switched off for a comparison.

The product carries no switches that nobody should use. So a comparison replaces the function that
is such a part while one photo is protected. That holds for the whole process; an evaluation's
workers are processes of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from map_pipeline import stages
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.identity import refine, tone


def _everything(landmarks: Tensor, size: int) -> Tensor:
    """A mask `[1,1,size,size]` that keeps all of one face."""
    return torch.ones(1, 1, size, size, device=landmarks.device)


def _nothing(landmarks: Tensor, size: int) -> Tensor:
    """A mask `[1,1,size,size]` that keeps nothing."""
    return torch.zeros(1, 1, size, size, device=landmarks.device)


def _as_painted(change: Tensor, source: Tensor) -> Tensor:  # noqa: ARG001 (as `as_shading`)
    """A change `[B,3,s,s]` in its own colours and as strong as it is."""
    return change.float().clamp(-1, 1)


def _brightness(change: Tensor, source: Tensor) -> Tensor:  # noqa: ARG001 (as `within_contrast`)
    """The brightness of a change, `[B,3,s,s]`, however strong."""
    return to_grey(change.float().clamp(-1, 1)).expand(-1, 3, -1, -1)


# Name -> where the function is looked up, its name there, and what takes its place.
PARTS: dict[str, tuple[ModuleType, str, Callable[..., Tensor]]] = {
    "residual": (stages, "quiet_features", _nothing),
    "quiet_features": (stages, "quiet_features", _everything),
    "outline": (stages, "within_outline", _everything),
    "shading": (refine, "as_shading", _as_painted),
    "contrast": (tone, "within_contrast", _brightness),
}


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """MAP without some of `PARTS`, and as shipped again afterwards, whatever happens."""
    chosen = [PARTS[name] for name in names]
    shipped = [getattr(module, function) for module, function, _ in chosen]
    try:
        for module, function, other in chosen:
            setattr(module, function, other)
        yield
    finally:
        for (module, function, _), own in zip(chosen, shipped, strict=True):
            setattr(module, function, own)
