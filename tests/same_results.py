"""Are protected photos the same as those of another version, to the last bit?

    python tests/same_results.py PHOTOS before.json            # in the one checkout
    python tests/same_results.py PHOTOS after.json before.json # in the other: exit code 1 if not

Both modes, another emotion for each photo of the folder, seed 0. Results depend on the number of
threads and on the processor, so both runs belong on one machine.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from map_pipeline import EMOTIONS, MAPPipeline

MODES = ("fast", "strong")


def main(photos: str, out: str, expected: str | None = None) -> int:
    """Hash all results, write them, and compare them with those of another run."""
    pipe = MAPPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for index, photo in enumerate(sorted(Path(photos).iterdir())):
        for mode in MODES:
            emotion = EMOTIONS[index % len(EMOTIONS)]
            generator = torch.Generator().manual_seed(0)
            [result] = pipe(photo, emotion=emotion, mode=mode, generator=generator).images
            pixels = np.asarray(result).tobytes()
            found[f"{photo.stem} {mode}"] = hashlib.sha256(pixels).hexdigest()
            print(f"{photo.stem} {mode} {found[f'{photo.stem} {mode}'][:12]}", flush=True)
    Path(out).write_text(json.dumps(found, indent=1))
    if expected is None:
        return 0
    before = json.loads(Path(expected).read_text())
    differing = [name for name in before if found.get(name) != before[name]]
    print(f"{len(before) - len(differing)} of {len(before)} are the same", *differing, sep="\n")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
