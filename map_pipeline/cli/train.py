"""`map-protect train ...`: label faces, train the prior, fine-tune it into the MAP network.

Every run's settings are dataclass fields (`PriorConfig`, `MAPTrainingConfig`) and options of the
same name; a preset gives the starting values.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from map_pipeline.diffusion.unet import patch_size
from map_pipeline.errors import CheckpointError, MAPError, UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DModel
    from torch import Tensor

    from map_pipeline.diffusion.conditioner import FaceConditioner
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.training.map_training import MAPTrainingConfig
    from map_pipeline.training.prior import PriorConfig


def add_train(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "train",
        help="train the networks of a checkpoint",
        description="Train the networks of a checkpoint: label faces, then train the prior, then "
        "fine-tune it into the MAP network. Settings are stored with the weights.",
    )
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `label`, `prior`, `score`, `map`, `curves`, `shapes`, `composites`; each sets `run`."""
    commands = parser.add_subparsers(required=True, metavar="WHAT")

    label = commands.add_parser("label", help="emotions and landmarks of aligned faces")
    _add_faces(label)
    label.add_argument("--checkpoint", help="whose expression networks label (default: bundled)")
    label.set_defaults(run=run_label)

    prior = commands.add_parser("prior", help="train the score network's prior")
    _add_faces(prior)
    prior.add_argument("--out", type=Path, required=True, help="folder; an existing run goes on")
    prior.add_argument(
        "--start",
        metavar="NETWORK",
        help="diffusers folder or Hub id of a pixel-space U-Net to start from, such as "
        "google/ddpm-ema-celebahq-256, or the OUT of another run",
    )
    prior.add_argument("--dry-run", action="store_true", help="show settings and sizes, then stop")
    _add_settings(prior, "PriorConfig, values as JSON, such as learning_rate=1e-4")
    prior.set_defaults(run=run_prior)

    score = commands.add_parser("score", help="measure score networks on the faces of photos")
    score.add_argument(
        "networks", nargs="+", metavar="NETWORK", help="folder of `prior`, a checkpoint, or Hub id"
    )
    score.add_argument(
        "--photos", type=Path, required=True, help="folder or zip as for `evaluate --pairs`"
    )
    score.add_argument("--limit", type=int, default=32, help="first photos only (default: 32)")
    score.set_defaults(run=run_score)

    network = commands.add_parser("map", help="train the MAP network of a prior")
    _add_faces(network)
    network.add_argument("--out", type=Path, required=True, help="folder; an existing run goes on")
    network.add_argument("--checkpoint", help="prior, recognisers, targets (default: bundled)")
    network.add_argument("--prior", type=Path, help="folder that `prior` wrote, instead")
    network.add_argument("--surrogates", nargs="+", help="recognisers in the loss")
    network.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=VALUE", help="of the objectives"
    )
    network.add_argument(
        "--protection", nargs="+", default=[], metavar="NAME=VALUE", help="settings of MAPConfig"
    )
    _add_settings(network, "MAPTrainingConfig")
    network.set_defaults(run=run_map)

    curves = commands.add_parser("curves", help="draw the losses of `map` runs")
    curves.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders `map` wrote")
    curves.add_argument("--out", type=Path, required=True, help="PNG file")
    curves.set_defaults(run=run_curves)

    shapes = commands.add_parser("shapes", help="measure where emotions move landmarks")
    _add_faces(shapes)
    shapes.add_argument("--out", type=Path, required=True, help="folder of the component")
    shapes.set_defaults(run=run_shapes)

    composites = commands.add_parser("composites", help="make the built-in targets")
    composites.add_argument(
        "--faces", type=Path, required=True, help="zip or folder of aligned faces with labels"
    )
    composites.add_argument("--out", type=Path, required=True, help="folder of the component")
    composites.add_argument("--checkpoint", type=Path, help="recognisers (default: bundled)")
    composites.add_argument("--impostors", type=Path, help="zip or folder of photos of strangers")
    composites.add_argument("--seed", type=int, default=0)
    composites.set_defaults(run=run_composites)


def _add_faces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--faces", type=Path, nargs="+", required=True, help="zips or folders of aligned faces"
    )


def _add_settings(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--preset", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"settings of {what}"
    )


def run_label(options: argparse.Namespace) -> int:
    """Write `NAME.labels.npz` beside every data set."""
    import torch

    from map_pipeline.cli.main import check_writable
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


def run_prior(options: argparse.Namespace) -> int:
    """Train, or go on training, the prior."""
    from map_pipeline.cli.main import check_writable
    from map_pipeline.training import prior
    from map_pipeline.training.faces import load_faces

    config = with_settings(prior.PRESETS[options.preset], options.set)
    unet = scheduler = conditioner = None
    if options.start:
        unet, scheduler, conditioner = load_start(options.start)
        config = _of_network(config, unet, options.set)
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


def run_score(options: argparse.Namespace) -> int:
    """Print a table of PSNRs in dB, one row a network."""
    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.images import load_image, to_array
    from map_pipeline.training.validation import score_photos

    if options.limit < 1:
        raise UnknownOptionError(f"`limit` must be at least 1, got {options.limit}.")
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


def run_map(options: argparse.Namespace) -> int:
    """Train the MAP network."""
    import torch

    from map_pipeline.cli.main import check_writable
    from map_pipeline.training.faces import load_faces
    from map_pipeline.training.map_training import train_map

    torch.backends.cudnn.benchmark = True  # shapes stay the same
    config = map_settings(options)
    pipe = load_checkpoint(options.checkpoint)
    pipe.check_inputs("happy", config.surrogates, "pil")
    targets = target_embeddings(pipe, config.surrogates)
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
    reports = train_map(
        config,
        load_faces(options.faces),
        options.out,
        (unet, conditioner, scheduler),
        {name: pipe.recognisers[name] for name in config.surrogates},
        pipe.expression_classifiers,
        targets,
        torch.tensor(pipe.config.alignment_template),
        _say,
    )
    if reports:
        _try_curves([options.out], options.out / "curves.png")
    return 0


def run_curves(options: argparse.Namespace) -> int:
    """Draw the curves of runs, for comparison."""
    from map_pipeline.training.pictures import write_curves

    write_curves(options.runs, options.out)
    return 0


def run_shapes(options: argparse.Namespace) -> int:
    """Measure the expression shapes of labelled faces."""
    from map_pipeline.training.expression_shapes import measure_shapes
    from map_pipeline.training.faces import load_faces

    measure_shapes(load_faces(options.faces)).save_pretrained(options.out)
    return 0


def run_composites(options: argparse.Namespace) -> int:
    """Build, check and write the built-in targets."""
    from map_pipeline.cli.main import check_writable
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


def load_checkpoint(name: str | None) -> "MAPPipeline":
    """The pipeline of a checkpoint, on the CPU."""
    from map_pipeline.pipeline import MAPPipeline

    return MAPPipeline.from_pretrained(name)


def target_embeddings(pipe: "MAPPipeline", surrogates: Sequence[str]) -> dict[str, "Tensor"]:
    """Surrogate name -> `[M,D]` of the built-in targets.

    Raises:
        CheckpointError: the checkpoint has no targets, or none for one of the surrogates.
    """
    stored = {name: pipe.targets and pipe.targets.embeddings(name) for name in surrogates}
    missing = [name for name, value in stored.items() if value is None]
    if missing:
        raise CheckpointError(
            f"`checkpoint` must hold targets embedded by all surrogates, got none by {missing}."
        )
    return stored


def map_settings(options: argparse.Namespace) -> "MAPTrainingConfig":
    """Settings of `train map`: the preset with all that the options change.

    Raises:
        UnknownOptionError: no such setting or objective, or a value of another kind.
    """
    from map_pipeline.identity.objectives import default_objectives
    from map_pipeline.training.map_training import PRESETS

    config = with_settings(PRESETS[options.preset], options.set)
    known = {objective.name: objective.weight for objective in default_objectives()}
    return replace(
        config,
        surrogates=tuple(options.surrogates or config.surrogates),
        weights=parse_settings(known, options.weights, "weights"),
        protection=with_settings(config.protection, options.protection, "protection"),
    )


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


def _of_network(
    config: "PriorConfig", unet: "UNet2DModel", settings: Sequence[str]
) -> "PriorConfig":
    """The settings of a given network, unless other ones were asked for."""
    from map_pipeline.training.prior import UNET_SETTINGS

    own = config.of_network(unet)
    asked = {text.partition("=")[0] for text in settings}
    for name in UNET_SETTINGS:
        if name in asked and getattr(config, name) != getattr(own, name):
            raise UnknownOptionError(
                f"`{name}` must be that of the network, {getattr(own, name)}, "
                f"got {getattr(config, name)}."
            )
    return own


def with_settings(config: Any, settings: Sequence[str], option: str = "set") -> Any:
    """Copy a settings dataclass with `NAME=VALUE` texts applied, values as JSON (or plain text).

    Raises:
        UnknownOptionError: no such setting, or a value of another kind.
    """
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(config, **parse_settings(known, settings, option))


def parse_settings(known: dict[str, Any], settings: Sequence[str], option: str) -> dict[str, Any]:
    """Name -> value of `NAME=VALUE` texts; a value is like the one in `known`."""
    simple = {k: v for k, v in known.items() if isinstance(v, str | bool | int | float | tuple)}
    changes = {}
    for text in settings:
        name, _, value = text.partition("=")
        if name not in simple:
            raise UnknownOptionError(
                f"`{option}` must name one of {', '.join(simple)}; got {name!r}."
            )
        changes[name] = _parse(name, value, simple[name])
    return changes


def _parse(name: str, text: str, like: Any) -> Any:
    if isinstance(like, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if isinstance(like, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(like, bool) and isinstance(value, bool):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(like, float):
        return float(value)
    if is_number and type(like) is int and value == value // 1:
        return int(value)
    raise UnknownOptionError(f"`{name}` must be like {_shown(like)}, got {text!r}.")


def _shown(value: Any) -> str:
    """As it is typed on the command line."""
    return json.dumps(value).replace(" ", "")


def _try_curves(runs: Sequence[Path], path: Path) -> None:
    """Draw the curves; say why if that isn't possible, for the training itself is done."""
    from map_pipeline.training.pictures import write_curves

    try:
        write_curves(runs, path)
    except MAPError as error:
        print(f"{path.name} wasn't drawn: {error}", file=sys.stderr)


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m map_pipeline.cli.train` is `map-protect train`."""
    from map_pipeline.cli.main import main as map_protect

    return map_protect(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    raise SystemExit(main())
