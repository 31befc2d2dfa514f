"""`map-protect targets`: list the built-in targets."""

from dataclasses import dataclass
from pathlib import Path

from map_pipeline.cli.options import Inline, Model, check_writable, load_pipeline
from map_pipeline.errors import MAPError


@dataclass(frozen=True)
class Options:
    """List the built-in targets, and export their pictures if asked.

    Attributes:
        export: Folder to write the pictures to.
    """

    export: Path | None = None
    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """List the built-in targets, and export their pictures if asked."""
    from map_pipeline.images import save_image

    pipe = load_pipeline(options.model)
    if pipe.targets is None:
        raise MAPError("This checkpoint holds no built-in targets.")
    if options.export is not None:
        check_writable("--export", options.export)
    for name, description in zip(pipe.targets.names, pipe.targets.config.descriptions, strict=True):
        print(f"{name:28}{description}")
        if options.export is not None:
            save_image(pipe.targets.picture(name), options.export / f"{name}.png")
    return 0
