"""MAP in fast mode at several strengths: what does less visible change cost in protection?"""

from map_pipeline.evaluation.methods.map import MAP

# Knob as options spell it -> its values in percent.
KNOBS = {"strength": (10, 25, 50, 75, 100), "expression": (0, 25, 50, 75, 100)}
# While the strength of the protection varies, the expression changes by so little that the change
# seen is the protection's.
LOW_EXPRESSION = 0.1


def _curve(knob: str) -> dict[str, int]:
    """Method name -> percent."""
    return {f"map-fast-{knob}-{percent}": percent for percent in KNOBS[knob]}


def _method(name: str, knob: str, percent: int) -> MAP:
    value = percent / 100
    if knob == "strength":
        settings = {"strength": value, "expression_strength": LOW_EXPRESSION}
    else:
        settings = {"expression_strength": value}
    return MAP(name, f"MAP, fast, {knob} {value:g}", mode="fast", settings=settings)


CURVES: dict[str, dict[str, int]] = {knob: _curve(knob) for knob in KNOBS}
VARIED: dict[str, MAP] = {
    name: _method(name, knob, percent)
    for knob, curve in CURVES.items()
    for name, percent in curve.items()
}
TRADE_OFF: tuple[str, ...] = tuple(VARIED)
