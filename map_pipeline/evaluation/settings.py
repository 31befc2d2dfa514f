"""What one evaluation measures, and the comparison with an earlier run into the same folder.

Nothing here loads torch: the command line is made from these fields.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import UnknownOptionError, check_setting
from map_pipeline.files import write_atomically

# Settings that may differ between runs into one folder: they only say which units are wanted.
RESUMABLE_FIELDS = ("methods", "styles", "skip", "limit")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        methods: map, map-fast, map-one-pass, map-strong, pgd, mifgsm, tidim, tipim, make-up and
            free-form (our own simple versions of adversarial make-up and of a free change by a
            diffusion model), blur, mosaic, none, the name of an ablation or of a strength;
            "ablations" and "trade-off" stand for all of these.
        emotion: Asked expression, or "all": photo i gets emotion i mod 7.
        targets: Ids of targets of the photo set, names of composites, auto, or none to only hide;
            photo i gets target i mod their number. All of the set if not given, or auto if it has
            none.
        leave_out: Recognisers left out of the optimisation, with their family: one per photo in
            turn (rotate), each for every photo, or none.
        transforms: What protected photos go through before they are judged: share, jpeg90, jpeg75,
            jpeg50, resize50, resize25, screenshot (smaller and sharpened), phone_filter (contrast,
            warmth, dark corners), blur, noise, squeeze4, grey, or purifyN with a noise level N. All
            but purification if not given.
        styles: Protect filtered sources, too: grey, low_light, sketch, sepia, old_photo, scratched,
            cartoon, blurred, tilted, glasses, beard, made_up, mask, or all.
        protect_both: Protect the second photos, too, and compare protected with protected.
        skip: Leave out so many photos at the start, such as those used for tuning.
        limit: Protect only so many photos.
        gallery: People in the gallery and in the estimate of thresholds.
        seed: Of all randomness.
        eps: Budget of the noise methods, of 255.
        margin: How sure MAP shall be: normal, high or a number, see `map-protect protect`.
        expression_strength: Expression of MAP, 0 to 1; its own default if not given.

    Raises:
        UnknownOptionError: a name or number that isn't allowed. Names of methods, transforms and
            styles are checked by `names.resolve`.
    """

    methods: tuple[str, ...] = ("map",)
    emotion: str = "happy"
    targets: tuple[str, ...] = ()
    leave_out: Literal["rotate", "each", "none"] = "rotate"
    transforms: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    protect_both: bool = False
    skip: int = 0
    limit: int | None = None
    gallery: int = 200
    seed: int = 0
    eps: float = 8.0
    margin: str | None = None
    expression_strength: float | None = None

    def __post_init__(self) -> None:
        emotions = (*EMOTIONS, "all")
        known = self.emotion in emotions
        check_setting(self, "emotion", known, f"one of {', '.join(emotions)}")
        check_setting(
            self, "leave_out", self.leave_out in ("rotate", "each", "none"), "rotate, each or none"
        )
        check_setting(self, "skip", self.skip >= 0, ">= 0")
        check_setting(self, "limit", self.limit is None or self.limit >= 1, ">= 1")
        check_setting(self, "gallery", self.gallery >= 1, ">= 1")

    @property
    def method_options(self) -> dict[str, object]:
        """Options of `methods.create`."""
        chosen = {"margin": self.margin, "expression_strength": self.expression_strength}
        own = {name: value for name, value in chosen.items() if value is not None}
        return {"eps": self.eps, **({"settings": own} if own else {})}

    def chosen(self, count: int) -> range:
        """Indices of the photos to protect among `count`."""
        return range(count)[self.skip :][: self.limit]


def check_same_run(out: Path, settings: Mapping[str, object]) -> None:
    """Note the settings in `out/settings.json`, or compare with those of the run found there.

    Raises:
        UnknownOptionError: they differ, and rows of both would get mixed.
    """
    path = out / "settings.json"
    now = json.loads(json.dumps(settings, default=str))
    if path.is_file():
        then = json.loads(path.read_text())
        differences = [
            f"{name} {then.get(name)!r} there and {now.get(name)!r} here"
            for name in sorted({*then, *now})
            if then.get(name) != now.get(name)
        ]
        if differences:
            raise UnknownOptionError(
                f"`out` must be a new folder or hold a run of the same settings, got {out} with "
                f"{'; '.join(differences)}."
            )
    write_atomically(path, json.dumps(now, indent=2).encode())
