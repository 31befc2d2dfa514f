"""Pipelines whose trained network never saw the recogniser that judges them."""

from map_pipeline.errors import UnknownOptionError
from map_pipeline.pipeline import MAPPipeline


def surrogates_without(pipe: MAPPipeline, left_out: str) -> tuple[str, ...]:
    """The checkpoint's surrogates that aren't of a recogniser's family; all for ""."""
    if not left_out:
        return tuple(pipe.surrogates)
    family = pipe.recognisers[left_out].config.family
    return tuple(n for n in pipe.surrogates if pipe.recognisers[n].config.family != family)


def rotation(pipe: MAPPipeline, leave_out: str) -> tuple[str, ...]:
    """Recognisers to leave out in turn; `("",)` if none is.

    Raises:
        UnknownOptionError: all surrogates are of one family, so that none would be left.
    """
    if leave_out == "none":
        return ("",)
    for name in pipe.surrogates:
        if not surrogates_without(pipe, name):
            raise UnknownOptionError(
                "`leave_out` must be 'none' where all surrogates are of one family, "
                f"got {leave_out!r} and {', '.join(pipe.surrogates)}."
            )
    return tuple(pipe.surrogates)


def leave_one_out(pipe: MAPPipeline, left_out: str) -> MAPPipeline:
    """The same pipeline without its trained network if a recogniser of this family taught that.

    All steps start from the prior then. Components are shared, not copied.

    Args:
        left_out: name of a recogniser; "" leaves none out.
    """
    network = pipe.map_network
    if not left_out or network is None:
        return pipe
    if pipe.recognisers[left_out].config.family not in network.config.families:
        return pipe
    other = MAPPipeline(**{**pipe.components, "map_network": None}, **settings_of(pipe))
    other.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return other


def settings_of(pipe: MAPPipeline) -> dict:
    """The settings of a pipeline that aren't components, as its constructor takes them."""
    names = ("alignment_template", "surrogates", "target_ranker", "detector", "weights_date")
    return {name: pipe.config[name] for name in names}
