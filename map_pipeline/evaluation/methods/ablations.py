"""MAP with one part switched off at a time: what is each part worth?"""

from map_pipeline.config import MAPConfig
from map_pipeline.evaluation.methods.map import MAP

# The whole method first: what the others are compared with, so all have its mode.
_WHOLE = MAP()
_WITHOUT = (
    MAP("map-no-projection", "MAP without projection", config=MAPConfig(projection=False)),
    MAP("map-no-ema", "MAP without EMA", config=MAPConfig(ema_decay=0.0)),
    MAP("map-no-smoothness", "MAP without smoothness", weights={"smoothness": 0.0}),
    MAP("map-no-score-matching", "MAP without score matching", weights={"score_matching": 0.0}),
    MAP("map-no-motion", "MAP without motion", config=MAPConfig(motion_rate=0.0)),
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
    ),
)
ABLATED: dict[str, MAP] = {method.name: method for method in _WITHOUT}
ABLATIONS: tuple[str, ...] = (_WHOLE.name, *ABLATED)
