"""A second device on a machine without one: it computes on the CPU and refuses to mix devices.

Torch's "meta" device stands for it, as CPU builds know that name. Gradients through it are wrong,
so nothing here says anything of results; it says whether tensors are where they have to be.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
# These may read from another device.
COPIES = ("aten::copy_", "aten::_to_copy")
INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class OtherTensor(torch.Tensor):
    """A tensor of that device; `inner` holds its values."""

    @staticmethod
    def __new__(cls: type, inner: torch.Tensor) -> "OtherTensor":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), dtype=inner.dtype, device=DEVICE, requires_grad=False, **layout
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert a tensor of another device to numpy")

    __array__ = numpy

    def item(self) -> Any:
        return self.inner.item()

    def __float__(self) -> float:
        return float(self.inner.item())

    def __int__(self) -> int:
        return int(self.inner.item())

    def __bool__(self) -> bool:
        return bool(self.inner.item())

    def __index__(self) -> int:
        return int(self.inner.item())

    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
        return torch.as_tensor(data, dtype=dtype or self.dtype).clone().to(DEVICE)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            twin = OtherTensor(self.inner.clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(twin, self.requires_grad) if is_parameter else twin
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Sees what is made on the device, too."""

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the CPU; its result is on the device of what it was given."""
    schema = func._schema
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    others = [one for one in given if isinstance(one, OtherTensor)]
    of_cpu = [one for one in given if not isinstance(one, OtherTensor) and one.dim()]
    if others and of_cpu:
        reads = schema.name in COPIES or name in INDEXING
        if not reads or (name == INDEXING[0] and not isinstance(args[0], OtherTensor)):
            raise RuntimeError(f"Expected all tensors to be on the same device, got two in {name}")
    asked = kwargs.get("device")
    there = bool(others)
    if schema.name == "aten::copy_":
        there = isinstance(args[0], OtherTensor)
    if asked is not None:
        there, kwargs = torch.device(asked) == DEVICE, {**kwargs, "device": torch.device("cpu")}
    inner = lambda one: one.inner if isinstance(one, OtherTensor) else one  # noqa: E731
    found = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    if not there:
        return found
    found = tree_map(lambda one: OtherTensor(one) if type(one) is torch.Tensor else one, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if others else found


@contextmanager
def other_device() -> Iterator[torch.device]:
    """While it's open, tensors and modules can be moved to the device that it gives."""
    autocast, tensor, as_tensor = torch.autocast, torch.tensor, torch.as_tensor
    grad = torch.autograd.grad

    def make(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = data.clone() if isinstance(data, OtherTensor) else tensor(data, *args, **options)
        return made if device is None else made.to(device)

    def take(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        if isinstance(data, torch.Tensor):
            return data.to(device=device or data.device, dtype=dtype or data.dtype)
        made = as_tensor(data, dtype=dtype)
        return made if device is None else made.to(device)

    def no_autocast(device_type: str, *args: Any, **options: Any) -> Any:
        if device_type == DEVICE.type:
            return nullcontext()
        return autocast(device_type, *args, **options)

    def finite_grad(*args: Any, **options: Any) -> list[torch.Tensor]:
        found = grad(*args, **options)
        # They are wrong, sometimes NaN, and would spread to where indices are computed.
        return [one.nan_to_num(0, 1, -1).clamp(-1, 1) for one in found]

    patches: dict[str, Callable[..., Any]] = {
        "autocast": no_autocast,
        "tensor": make,
        "as_tensor": take,
        "autograd.grad": finite_grad,
    }
    with pytest.MonkeyPatch.context() as patch, Dispatch():
        for name, stand_in in patches.items():
            patch.setattr(f"torch.{name}", stand_in)
        yield DEVICE
