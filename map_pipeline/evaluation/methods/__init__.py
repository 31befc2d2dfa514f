"""Protection methods, all through one interface: MAP and its ablations, those it is compared with.

>>> from map_pipeline.evaluation.methods import create
>>> create("mifgsm", eps=4).title
'MI-FGSM, eps 4/255'
"""

from dataclasses import fields, replace
from typing import Any

from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.methods.ablations import ABLATED, ABLATIONS
from map_pipeline.evaluation.methods.base import Method, Task, Unprotected
from map_pipeline.evaluation.methods.blur import Blur, Mosaic
from map_pipeline.evaluation.methods.free_form import FREE_FORM
from map_pipeline.evaluation.methods.make_up import MakeUp
from map_pipeline.evaluation.methods.map import MAP
from map_pipeline.evaluation.methods.noise import MIFGSM, PGD, TIDIM, TIPIM
from map_pipeline.evaluation.methods.trade_off import TRADE_OFF, VARIED

__all__ = ["ABLATIONS", "TRADE_OFF", "Method", "Task", "create", "method_names"]

_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        MAP(),
        MAP("map-fast", "MAP, fast", mode="fast"),
        MAP("map-one-pass", "MAP, one pass", mode="fast", settings={"refine_steps": 0}),
        MAP("map-strong", "MAP, strong", mode="strong"),
        PGD(),
        MIFGSM(),
        TIDIM(),
        TIPIM(),
        MakeUp(),
        FREE_FORM,
        Blur(),
        Mosaic(),
        Unprotected(),
        *ABLATED.values(),
        *VARIED.values(),
    )
}


def method_names() -> list[str]:
    """Names that `create` knows, in the order of the tables."""
    return list(_METHODS)


def create(name: str, **options: Any) -> Method:
    """Make a method.

    Args:
        name: one of `method_names()`.
        options: fields of the methods, e.g. `eps` (of 255) of the noise methods. What doesn't
            concern the method is ignored, so that one set of options serves all.

    Raises:
        UnknownOptionError: there is no such method.
        ValueError: an option is outside its range.
    """
    if name not in _METHODS:
        raise UnknownOptionError(f"`method` must be one of {', '.join(_METHODS)}; got {name!r}.")
    method = _METHODS[name]
    own = {field.name for field in fields(method)}
    chosen = {key: value for key, value in options.items() if key in own}
    if "settings" in chosen:  # what makes an ablation, or a strength, wins
        chosen["settings"] = {**chosen["settings"], **method.settings}
    return replace(method, **chosen)
