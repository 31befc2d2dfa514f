"""An app loaded as on ZeroGPU, for `space_check`; prints what is wrong with it as JSON.

Runs `spaces` itself in its ZeroGPU mode: it stands in for CUDA until a GPU is lent, and raises an
error where real CUDA is touched before. Needs a process of its own with the variables that the
platform sets.
"""

import json
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

DEVICES = {"protecting": "cuda", "judging": "cpu"}  # of the pipelines in `Models`


def main(name: str) -> None:
    """Load the app that is the module `name` of the working folder."""
    if torch.version.cuda is None:
        let_cpu_build_stand_in()
    print(json.dumps(problems(import_module(name))))


def let_cpu_build_stand_in() -> None:
    """Give a CPU build of torch the names that `spaces` takes from a CUDA build and replaces."""
    torch.version.cuda = "13.0"
    torch._C._cuda_init = None
    torch.cuda._is_in_bad_fork = bool  # "no", in a form that goes to another process


def problems(app: ModuleType) -> list[str]:
    """What ZeroGPU would trip over."""
    from spaces.zero.decorator import decorated_cache

    settings = app.PageSettings.from_environment()
    models = app.load_shipped(settings)
    app.build_demo(settings, lambda: models)
    found = [
        f"`{kind}` must have its networks on {device}, got {name} on {place}."
        for kind, device in DEVICES.items()
        for name, place in places(getattr(models, kind)).items()
        if place != {device}
    ]
    if not decorated_cache:
        found.append("A function must ask for the GPU with `spaces.GPU`, got none.")
    return found


def places(pipes: dict[str, Any]) -> dict[str, set[str]]:
    """Name of a network -> the kinds of devices that its tensors are on."""
    nets = {
        name: net
        for pipe in pipes.values()
        for name, net in pipe.components.items()
        if isinstance(net, torch.nn.Module)
    }
    return {
        name: {tensor.device.type for tensor in net.state_dict().values()}
        for name, net in nets.items()
    }


if __name__ == "__main__":
    main(sys.argv[1])
