"""`map-protect evaluate`: options in, a folder with results, summary, report and plots out."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from map_pipeline.cli.options import add_photos, names, positive, rates
from map_pipeline.errors import UnknownOptionError

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.evaluation.dataset import PhotoSet, Problem
    from map_pipeline.evaluation.runner import Evaluation, Processes
    from map_pipeline.evaluation.settings import Settings
    from map_pipeline.evaluation.subjects import Tools

DESCRIPTION = (
    "Measure how well photos are protected: against recognisers that were left out, after JPEG "
    "and resizing, with the loss of quality and the cost. Writes results.csv, photos.csv, "
    "summary.json, report.html and plots. The same command continues a run that was stopped."
)
LAUNCHED = "LOCAL_RANK"  # set by `accelerate launch` in the processes that it starts


def add_evaluate(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "evaluate", help="measure how well photos are protected", description=DESCRIPTION
    )
    data = parser.add_argument_group("photos")
    add_photos(data)
    data.add_argument("--attributes", type=Path, help='JSON lines {"name": ..., "gender": ...}')
    data.add_argument(
        "--gallery",
        type=positive,
        default=200,
        help="people in the gallery and in the estimate of thresholds (default: 200)",
    )
    method = parser.add_argument_group("protection")
    method.add_argument(
        "--methods",
        type=names,
        default=("map",),
        help="map, map-fast, map-one-pass, map-strong, pgd, mifgsm, tidim, tipim, blur, mosaic, "
        "none, an ablation or a strength; separated by commas (default: map)",
    )
    method.add_argument("--ablations", action="store_true", help="add map and its ablations")
    method.add_argument(
        "--trade-off",
        action="store_true",
        help="add map-fast at five strengths of the protection and of the expression",
    )
    method.add_argument(
        "--emotion", default="happy", help="asked expression, or all in turn (default: happy)"
    )
    method.add_argument("--eps", type=float, default=8.0, help="budget of noise, /255 (default: 8)")
    method.add_argument("--strength", type=float, help="visible change of MAP, 0 to 1")
    method.add_argument("--expression-strength", type=float, help="expression of MAP, 0 to 1")
    method.add_argument(
        "--leave-out",
        choices=("rotate", "each", "none"),
        default="rotate",
        help="recognisers left out of the optimisation, with their family: one per photo in turn "
        "(default), each for every photo, or none",
    )
    method.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    judged = parser.add_argument_group("what is measured")
    judged.add_argument(
        "--transforms",
        type=names,
        help="none share jpeg90 jpeg75 jpeg50 resize50 resize25 blur noise squeeze4 grey, or "
        "purifyN with a noise level N (default: all but purification)",
    )
    judged.add_argument(
        "--all-transforms", action="store_true", help="add purify100, purify200 and purify300"
    )
    judged.add_argument(
        "--styles",
        type=names,
        help="protect filtered sources, too: grey, low_light, sketch, old_photo, blurred, or all",
    )
    judged.add_argument(
        "--protect-both",
        action="store_true",
        help="protect the second photos, too, and compare protected with protected",
    )
    judged.add_argument(
        "--far", type=rates, default=(0.01, 0.001), help="false accept rates (default: 0.01,0.001)"
    )
    judged.add_argument(
        "--thresholds",
        choices=("stored", "estimated"),
        default="stored",
        help="thresholds stored with the recognisers, or estimated on the clean pairs; both are "
        "shown (default: stored)",
    )
    judged.add_argument(
        "--expression-judge", type=Path, metavar="DIR", help="folder of a held-out network"
    )
    judged.add_argument("--lpips", type=Path, metavar="FILE", help="AlexNet weights for LPIPS")
    judged.add_argument(
        "--inception", type=Path, metavar="FILE", help="TorchScript network for FID"
    )
    judged.add_argument(
        "--facepp",
        action="store_true",
        help="send photos to Face++ compare, with FACEPP_API_KEY and FACEPP_API_SECRET",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder of the results")
    output.add_argument("--workers", type=positive, default=1, help="processes that share the work")
    output.add_argument(
        "--readme",
        type=Path,
        nargs="?",
        const=Path("README.md"),
        metavar="FILE",
        help="rewrite the results section of a README (default: README.md) from OUT/summary.json; "
        "without --pairs nothing else is done",
    )
    parser.set_defaults(run=run_evaluate)
    return parser


def run_evaluate(options: argparse.Namespace) -> int:
    """Run the evaluation, or only rewrite the README; return the exit code."""
    from map_pipeline.cli.main import check_writable

    if options.out is None:
        raise UnknownOptionError("`--out` must name the folder of the results, got none.")
    if options.pairs is None and options.readme is None:
        raise UnknownOptionError("`--pairs` must name a folder or zip of photos, got none.")
    if options.pairs is not None:
        check_writable("--out", options.out)
        if options.workers > 1 and LAUNCHED not in os.environ:
            return launch(options)
        if not evaluate(options):
            return 0  # another process tells the results
    if options.readme is not None:
        from map_pipeline.evaluation import readme

        readme.update(options.readme, options.out / "summary.json")
        print(f"results section of {options.readme} rewritten")
    return 0


def evaluate(options: argparse.Namespace) -> bool:
    """Measure what is missing and write all results; whether this is the main process."""
    from map_pipeline.cli.main import load_pipeline
    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.evaluation.runner import Evaluation
    from map_pipeline.evaluation.summary import weight_hashes

    photos = PhotoSet(options.pairs)
    settings = settings_of(options)
    attributes, strangers = attributes_of(options, photos)
    tools, absent = tools_of(options)
    processes = join_processes()
    pipe = load_pipeline(on_own_device(options))
    evaluation = Evaluation(pipe, photos, settings, options.out, tools)
    hashes = weight_hashes(pipe, checkpoint_folder(options))
    evaluation.run(processes, {"weights": hashes})
    if processes.index > 0:
        return False
    write_results(options, evaluation, hashes, attributes, strangers, absent)
    return True


def write_results(
    options: argparse.Namespace,
    evaluation: "Evaluation",
    hashes: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, str]],
    strangers: Sequence["Problem"],
    absent: Mapping[str, str],
) -> None:
    """Write summary, plots and report, and print the tables.

    Args:
        hashes: component -> SHA-256 of its weights.
        strangers: attributes of nobody in the set; absent: metric -> why it isn't there.
    """
    from map_pipeline.evaluation.html import write_report
    from map_pipeline.evaluation.metrics import load_inception
    from map_pipeline.evaluation.plots import write_plots
    from map_pipeline.evaluation.results import (
        PhotoRow,
        Row,
        photos_file,
        read_rows,
        results_file,
    )
    from map_pipeline.evaluation.summary import (
        Context,
        compute_fid,
        estimate_thresholds,
        summarise,
        to_json,
        to_tables,
    )
    from map_pipeline.images import write_atomically

    out, pipe, gallery = options.out, evaluation.pipe, evaluation.gallery
    rows = read_rows(results_file(out), Row)
    photo_rows = read_rows(photos_file(out), PhotoRow)
    inception = load_inception(options.inception)
    fid = {}
    if isinstance(inception, str):
        absent = {**absent, "fid": inception}
    else:
        fid = compute_fid(out, photo_rows, inception)
    context = Context(
        config=config_of(options),
        pipe=pipe,
        titles=evaluation.titles(dict.fromkeys(row.method for row in photo_rows)),
        thresholds=estimate_thresholds(pipe, gallery, options.far, options.thresholds),
        gallery_size=gallery.size,
        weights=hashes,
        attributes=attributes,
        problems=[*evaluation.photos.problems, *gallery.problems, *strangers],
        judge=evaluation.tools.judge.config.title if evaluation.tools.judge else None,
        absent=absent,
        probe=evaluation.probe,
    )
    summary = summarise(rows, photo_rows, context, fid)
    summary["runs"] = runs_into(out, summary["config"])
    write_atomically(out / "summary.json", to_json(summary).encode())
    plain = [row for row in photo_rows if row.style == "plain"]
    names_of_plain = {row.photo for row in plain}
    plots = write_plots(summary, [r for r in rows if r.photo in names_of_plain], plain, out)
    write_report(summary, plots, out)
    print(to_tables(summary))
    print(f"\nall results: {out / 'report.html'}")


def settings_of(options: argparse.Namespace) -> "Settings":
    """What the options ask to measure."""
    from map_pipeline.evaluation.methods import ABLATIONS, TRADE_OFF
    from map_pipeline.evaluation.settings import DEFAULT_TRANSFORMATIONS, PURIFICATIONS, Settings
    from map_pipeline.evaluation.styles import STYLES

    asked = options.methods + (ABLATIONS if options.ablations else ())
    asked += TRADE_OFF if options.trade_off else ()
    transforms = options.transforms or DEFAULT_TRANSFORMATIONS
    styles = tuple(STYLES) if options.styles == ("all",) else options.styles or ()
    return Settings(
        methods=tuple(dict.fromkeys(asked)),
        emotion=options.emotion,
        targets=options.targets or (),
        leave_out=options.leave_out,
        transformations=transforms + (PURIFICATIONS if options.all_transforms else ()),
        styles=tuple(dict.fromkeys(("plain", *styles))),
        protect_both=options.protect_both,
        skip=options.skip,
        limit=options.limit,
        gallery=options.gallery,
        seed=options.seed,
        eps=options.eps,
        strength=options.strength,
        expression_strength=options.expression_strength,
    )


def tools_of(options: argparse.Namespace) -> tuple["Tools", dict[str, str]]:
    """Optional networks and services, and why LPIPS is absent if it is."""
    from map_pipeline.evaluation.facepp import FacePlusPlus
    from map_pipeline.evaluation.metrics import load_lpips
    from map_pipeline.evaluation.subjects import Tools
    from map_pipeline.expression.classifiers import ExpressionClassifier

    judge = None
    if options.expression_judge is not None:
        judge = ExpressionClassifier.from_pretrained(options.expression_judge).eval()
    lpips = load_lpips(options.lpips)
    facepp = FacePlusPlus.from_environment() if options.facepp else None
    if isinstance(lpips, str):
        return Tools(judge, None, facepp), {"lpips": lpips}
    return Tools(judge, lpips, facepp), {}


def attributes_of(
    options: argparse.Namespace, photos: "PhotoSet"
) -> tuple[dict[str, dict[str, str]], list["Problem"]]:
    """Attributes of the photos, and as problems those of nobody and people without any."""
    from map_pipeline.evaluation.dataset import Problem, read_attributes

    if options.attributes is None:
        return {}, []
    attributes = read_attributes(options.attributes)
    people = {pair.name for pair in photos.pairs}
    wanted = [pair.name for pair in photos.pairs[options.skip :][: options.limit]]
    unknown = [name for name in attributes if name not in people]
    silent = [name for name in wanted if name not in attributes]
    rule = "has attributes, but there is no such photo; left out of the groups"
    problems = [Problem(name, rule) for name in unknown]
    rule = "has no attributes; left out of the groups"
    return attributes, problems + [Problem(name, rule) for name in silent]


def runs_into(out: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Options of all runs into a folder, as its last summary tells them, and of this one."""
    path = out / "summary.json"
    earlier = json.loads(path.read_text()).get("runs", []) if path.is_file() else []
    own = json.loads(json.dumps(config))
    return [*(run for run in earlier if run != own), own]


def config_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options by name, as plain values: the command line that leads to the same results."""
    plain: dict[str, Any] = {}
    for name, value in vars(options).items():
        if name not in ("run", "readme"):
            value = list(value) if isinstance(value, tuple) else value
            plain[name] = str(value) if isinstance(value, Path) else value
    return plain


def to_arguments(config: Mapping[str, Any]) -> list[str]:
    """The command line behind `config_of`."""
    arguments = []
    for name, value in config.items():
        if value is None or value is False:
            continue
        text = ",".join(str(one) for one in value) if isinstance(value, list) else str(value)
        arguments.append(f"--{name.replace('_', '-')}")
        if value is not True:
            # One argument, so that a value may start with a dash.
            arguments[-1] += f"={text}"
    return arguments


def launch(options: argparse.Namespace) -> int:
    """Start this command in several processes through `accelerate launch`."""
    environment = dict(os.environ)
    threads = max((os.cpu_count() or 1) // options.workers, 1)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    arguments = to_arguments(config_of(options))
    if options.readme is not None:
        arguments.append(f"--readme={options.readme}")
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        # Several processes on this machine, whether it has GPUs or not; any free port.
        *("--multi_gpu", "--num_processes", str(options.workers), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "map_pipeline", "evaluate", *arguments),
    ]
    return subprocess.run(command, env=environment, check=False).returncode


def join_processes() -> "Processes":
    """This process among those of `accelerate launch`; a process alone if there are no others."""
    from map_pipeline.evaluation.runner import Processes

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # Only to know one's share and to wait for each other, which needs no GPU; a process may have
    # to wait for as long as another protects its last photo with many methods.
    state = PartialState(cpu=True, timeout=timedelta(days=7))
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone)


def on_own_device(options: argparse.Namespace) -> argparse.Namespace:
    """The options with this process's GPU, where several processes share several GPUs."""
    import torch

    device = options.device
    if LAUNCHED in os.environ and torch.cuda.is_available() and device in (None, "cuda"):
        device = f"cuda:{int(os.environ[LAUNCHED]) % torch.cuda.device_count()}"
    return argparse.Namespace(checkpoint=options.checkpoint, device=device)


def checkpoint_folder(options: argparse.Namespace) -> Path | None:
    """Folder of the weights; None for a Hub repository."""
    from map_pipeline.hub import bundled_checkpoint

    folder = bundled_checkpoint() if options.checkpoint is None else Path(options.checkpoint)
    return folder if folder.is_dir() else None
