"""MAP with one part switched off, or done more simply, at a time: what is each part worth?"""

from dataclasses import replace

from map_pipeline.config import DEFAULT_MODE, MODES
from map_pipeline.evaluation.methods.map import MAP

# The whole method first: what the others are compared with, so all have its mode.
_WHOLE, _SHIPPED = MAP(), MODES[DEFAULT_MODE]
_FROM_PRIOR = replace(_SHIPPED, use_map_network=False)
_WITHOUT = (
    MAP("map-no-projection", "MAP without projection", config=replace(_SHIPPED, projection=False)),
    MAP(
        "map-one-gradient",
        "MAP, one summed gradient",
        config=replace(_SHIPPED, objectives="summed"),
    ),
    MAP("map-no-ema", "MAP without EMA", config=replace(_SHIPPED, ema_decay=0.0)),
    MAP("map-no-smoothness", "MAP without smoothness", weights={"smoothness": 0.0}),
    MAP("map-no-score-matching", "MAP without score matching", weights={"score_matching": 0.0}),
    MAP("map-no-contrast-limit", "MAP without limits of contrast", without=("contrast",)),
    MAP("map-any-colour", "MAP in any colour", without=("shading",)),
    MAP("map-no-residual", "MAP without residual", without=("residual",)),
    MAP("map-no-motion", "MAP without motion", config=replace(_SHIPPED, motion_rate=0.0)),
    MAP("map-no-network", "MAP from the prior", config=_FROM_PRIOR),
    # The network was taught by all recognisers, so that fewer of them start from the prior.
    MAP("map-two-recognisers", "... by two recognisers", config=_FROM_PRIOR, surrogates=2),
    MAP("map-one-recogniser", "... by one recogniser", config=_FROM_PRIOR, surrogates=1),
    MAP("map-no-edit", "MAP without expression edit", settings={"expression_strength": 0.0}),
    MAP(
        "map-identity-only",
        "MAP, identity only",
        weights={"expression": 0.0},
        settings={"expression_strength": 0.0},
    ),
    MAP(
        "map-expression-only",
        "MAP, expression only",
        weights={"impersonation": 0.0, "dodging": 0.0},
        surrogates=0,
    ),
)
ABLATED: dict[str, MAP] = {method.name: method for method in _WITHOUT}
ABLATIONS: tuple[str, ...] = (_WHOLE.name, *ABLATED)
