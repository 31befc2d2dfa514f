"""MAP in fast mode with a knob at several settings: what does it cost, and what does it buy?"""

from map_pipeline.evaluation.methods.map import MAP

# Argument of the pipeline -> its values in percent.
KNOBS = {"margin": (0, 50, 100, 200, 300), "expression_strength": (0, 25, 50, 75, 100)}


def _method(knob: str, percent: int) -> MAP:
    word = knob.split("_")[0]
    value = percent / 100
    title = f"MAP, fast, {word} {value:g}"
    return MAP(f"map-fast-{word}-{percent}", title, mode="fast", settings={knob: value})


VARIED: dict[str, MAP] = {
    method.name: method
    for knob, values in KNOBS.items()
    for method in (_method(knob, percent) for percent in values)
}
TRADE_OFF: tuple[str, ...] = tuple(VARIED)
