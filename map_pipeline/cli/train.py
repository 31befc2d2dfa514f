"""Train the networks of a checkpoint: label faces, train the prior, fine-tune it, and the rest.

Settings are fields of `training.config`, options of the same names, and stored with the weights.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from map_pipeline.cli.options import check_writable
from map_pipeline.cli.train_options import (
    Composites,
    Convert,
    Curves,
    Expressions,
    Label,
    Map,
    Mouth,
    Prior,
    Score,
)
from map_pipeline.errors import CheckpointError, MAPError, UnknownOptionError
from map_pipeline.training.config import (
    PRIOR_PRESETS,
    UNET_SETTINGS,
    PriorConfig,
)

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DModel

    from map_pipeline.diffusion.conditioner import FaceConditioner
    from map_pipeline.pipeline import MAPPipeline


def run_label(options: Label) -> int:
    """Write `NAME.labels.npz` beside every data set."""
    import torch

    from map_pipeline.training.faces import labels_path
    from map_pipeline.training.label import label

    for source in options.faces:
        check_writable("--faces", labels_path(source).parent)
    pipe = load_checkpoint(options.checkpoint)
    if not pipe.expression_classifiers:
        raise CheckpointError("`checkpoint` must hold an expression network, got none.")
    template = torch.tensor(pipe.config.alignment_template)
    for source in options.faces:
        faces = label(source, template, pipe.expression_classifiers.values())
        print(f"{source.name}: {len(faces)} faces, {int(faces.has_landmarks.sum())} with landmarks")
    return 0


def run_prior(options: Prior) -> int:
    """Train, or go on training, the prior."""
    from map_pipeline.training import prior
    from map_pipeline.training.faces import load_faces

    config = options.settings
    unet = scheduler = conditioner = None
    if options.start:
        unet, scheduler, conditioner = load_start(options.start)
        config = settings_of_network(config, PRIOR_PRESETS[options.preset], unet)
        if conditioner is not None:
            config = replace(config, hidden=conditioner.config.hidden)
    faces = load_faces(options.faces)
    if options.dry_run:
        unet = unet or prior.new_unet(config, faces.images.shape[-1])
        prior.check_inputs(config, faces, unet, scheduler or prior.new_scheduler(), options.out)
        training, validation = prior.split(faces, config)
        print(json.dumps(asdict(config), indent=2))
        print(f"{len(training)} faces to train on, {len(validation)} to validate with")
        print(f"{unet.num_parameters() / 1e6:.1f} M parameters")
        return 0
    check_writable("--out", options.out)
    prior.train_prior(config, faces, options.out, unet, scheduler, _say, conditioner)
    return 0


def run_score(options: Score) -> int:
    """Print a table of PSNRs in dB, one row a network."""
    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.images import load_image, to_array
    from map_pipeline.training.validation import score_photos

    networks = {name: load_start(name) for name in options.networks}
    pipe = load_checkpoint(None)
    photos = PhotoSet(options.photos)
    names = [pair.first for pair in photos.pairs if pair.first][: options.limit]
    chosen = [to_array(load_image(photos.read(name))) for name in names]
    for index, (name, (unet, scheduler, conditioner)) in enumerate(networks.items()):
        count, scores = score_photos(pipe, unet.float(), scheduler, conditioner, chosen)
        if index == 0:
            _say(f"PSNR in dB, mean of {count} faces\n\n| network | {' | '.join(scores)} |")
            _say("|---" * (1 + len(scores)) + "|")
        _say(f"| {name} | {' | '.join(f'{value:.1f}' for value in scores.values())} |")
    return 0


def run_map(options: Map) -> int:
    """Train the MAP network."""
    import torch

    from map_pipeline.diffusion.map_network import MAPNetwork
    from map_pipeline.expression.space import ExpressionSpace
    from map_pipeline.identity.objectives import default_objectives, with_weights
    from map_pipeline.training.faces import load_faces
    from map_pipeline.training.map_training import train_map
    from map_pipeline.training.teachers import load_teacher

    torch.backends.cudnn.benchmark = True  # shapes stay the same
    config = options.settings
    with_weights(default_objectives(), **config.weights)  # an unknown name is an error now
    pipe = load_checkpoint(options.checkpoint)
    pipe.check_inputs("happy", config.surrogates, "pil")
    if pipe.targets is None:
        raise CheckpointError("`checkpoint` must hold targets, got none.")
    recognisers = {name: pipe.recognisers[name] for name in config.surrogates}
    recognisers |= {path.stem: load_teacher(path) for path in options.teacher}
    template = torch.tensor(pipe.config.alignment_template)
    targets = {
        name: pipe.targets.embed_with(name, net, template, pipe.device)
        for name, net in recognisers.items()
    }
    unet, scheduler, conditioner = pipe.unet, pipe.scheduler, pipe.conditioner
    if options.prior is not None:
        if not (options.prior / "unet").is_dir():
            raise CheckpointError(f"`prior` must be a folder with unet/, got {options.prior}.")
        unet, scheduler, conditioner = load_start(str(options.prior))
    if conditioner is None:
        raise CheckpointError(
            f"`{'prior' if options.prior else 'checkpoint'}` must hold a conditioner, got none."
        )
    check_writable("--out", options.out)
    start = MAPNetwork.from_pretrained(options.start) if options.start else None
    reports = train_map(
        config,
        load_faces(options.faces),
        options.out,
        (unet, conditioner, scheduler),
        recognisers,
        pipe.expression_classifiers,
        targets,
        template,
        pipe.expression_space or ExpressionSpace(),
        _say,
        start=start,
    )
    if reports:
        _try_curves([options.out], options.out / "curves.png")
    return 0


def run_curves(options: Curves) -> int:
    """Draw the curves of runs, for comparison."""
    from map_pipeline.training.pictures import write_curves

    write_curves(options.runs, options.out)
    return 0


def run_expressions(options: Expressions) -> int:
    """Measure the space of people's expressions, and their motions."""
    import torch

    from map_pipeline.expression.people import PeoplePhotos
    from map_pipeline.faces.detect import BundledDetector
    from map_pipeline.training.expression_space import measure_space

    people = PeoplePhotos(options.people, "tuning")
    pipe = load_checkpoint_with_mesh(options.checkpoint)
    check_writable("--out", options.out)
    template = torch.tensor(pipe.config.alignment_template)
    space = measure_space(
        people, BundledDetector(), pipe.face_mesh, template, options.axes, options.motions
    )
    space.half().save_pretrained(options.out)
    return 0


def run_mouth(options: Mouth) -> int:
    """Train, or go on training, the painter of mouths."""
    import torch

    from map_pipeline.expression.people import PeoplePhotos
    from map_pipeline.faces.detect import BundledDetector
    from map_pipeline.training.mouth import check_out, train_mouth
    from map_pipeline.training.mouth_patches import cut_mouths

    check_out(options.out, options.resume)
    people = PeoplePhotos(options.people, "tuning")
    pipe = load_checkpoint_with_mesh(options.checkpoint)
    check_writable("--out", options.out)
    template = torch.tensor(pipe.config.alignment_template)
    mouths = cut_mouths(options.faces, people, BundledDetector(), pipe.face_mesh, template)
    train_mouth(options.settings, mouths, options.out, options.resume, _say)
    return 0


def run_composites(options: Composites) -> int:
    """Build, check and write the built-in targets."""
    from map_pipeline.hub import bundled_checkpoint
    from map_pipeline.training.bank import build_bank

    check_writable("--out", options.out)
    build_bank(
        options.faces,
        options.out,
        options.checkpoint or bundled_checkpoint(),
        options.impostors,
        options.seed,
        _say,
    )
    return 0


def run_convert(options: Convert) -> int:
    """Convert one network and save it in diffusers' layout."""
    import torch

    from map_pipeline.training.conversion import convert

    check_writable("--out", options.out)
    model = convert(options.name, options.source)
    model.network.to(getattr(torch, options.dtype))
    model.save_pretrained(options.out)
    return 0


def load_checkpoint(name: str | None) -> "MAPPipeline":
    """The pipeline of a checkpoint, on the CPU."""
    from map_pipeline.pipeline import MAPPipeline

    return MAPPipeline.from_pretrained(name)


def load_checkpoint_with_mesh(name: str | None) -> "MAPPipeline":
    """The pipeline of a checkpoint; `CheckpointError` if it lacks the face mesh."""
    pipe = load_checkpoint(name)
    if pipe.face_mesh is None:
        raise CheckpointError("`checkpoint` must hold a face mesh, got none.")
    return pipe


def load_start(
    name: str,
) -> tuple["UNet2DModel", "DDIMScheduler", "FaceConditioner | None"]:
    """A U-Net to start from, such as google/ddpm-ema-celebahq-256, with its noise schedule.

    It becomes conditional: the identity class embedding has no weights of its own. A run of
    `train prior` brings its conditioner along.

    Raises:
        CheckpointError: there is none, or it isn't a pixel-space U-Net.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    from map_pipeline.diffusion.conditioner import FaceConditioner
    from map_pipeline.diffusion.unet import patch_size

    def part(subfolder: str) -> dict[str, str]:
        return {"subfolder": subfolder} if (Path(name) / subfolder).is_dir() else {}

    try:
        unet = UNet2DModel.from_pretrained(name, class_embed_type="identity", **part("unet"))
        scheduler = DDIMScheduler.from_pretrained(name, **part("scheduler"))
        conditioner = None
        if part("conditioner"):
            conditioner = FaceConditioner.from_pretrained(name, **part("conditioner"))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "`start` must be a diffusers folder or Hub id of a U-Net with its noise schedule, "
            f"got {name!r}: {error}"
        ) from None
    channels = unet.config.in_channels
    if channels != unet.config.out_channels or channels != 3 * patch_size(unet) ** 2:
        raise CheckpointError(
            f"`start` must be a pixel-space U-Net with 3 p^2 channels, got {channels}."
        )
    return unet, scheduler, conditioner


def settings_of_network(
    config: PriorConfig, preset: PriorConfig, unet: "UNet2DModel"
) -> PriorConfig:
    """The settings of a given network, unless other ones were asked for.

    Args:
        preset: where `config` differs from it, something was asked for.

    Raises:
        UnknownOptionError: a setting that can't be, since the network has another one.
    """
    from map_pipeline.training.prior import of_network

    own = of_network(config, unet)
    for name in UNET_SETTINGS:
        asked = getattr(config, name) != getattr(preset, name)
        if asked and getattr(config, name) != getattr(own, name):
            raise UnknownOptionError(
                f"`{name}` must be that of the network, {getattr(own, name)}, "
                f"got {getattr(config, name)}."
            )
    return own


def _try_curves(runs: Sequence[Path], path: Path) -> None:
    """Draw the curves; say why if that isn't possible, for the training itself is done."""
    from map_pipeline.training.pictures import write_curves

    try:
        write_curves(runs, path)
    except MAPError as error:
        print(f"{path.name} wasn't drawn: {error}", file=sys.stderr)


def _say(text: str) -> None:
    print(text, flush=True)


SUBCOMMANDS = {
    "label": (Label, run_label),
    "prior": (Prior, run_prior),
    "score": (Score, run_score),
    "map": (Map, run_map),
    "curves": (Curves, run_curves),
    "expressions": (Expressions, run_expressions),
    "mouth": (Mouth, run_mouth),
    "composites": (Composites, run_composites),
    "convert": (Convert, run_convert),
}
