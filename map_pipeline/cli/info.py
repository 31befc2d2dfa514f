"""`map-protect info`: versions, device, detector and the networks of the checkpoint."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from map_pipeline import __version__
from map_pipeline.cli.options import Inline, Model, load_pipeline

PACKAGES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")


@dataclass(frozen=True)
class Options:
    """Print versions, device, detector and the networks of the checkpoint."""

    model: Inline[Model] = Model()


def run(options: Options) -> int:
    """Print the table."""
    pipe = load_pipeline(options.model)
    lines = [("map-pipeline", __version__), *((name, _version(name)) for name in PACKAGES)]
    lines += [
        ("device", f"{pipe.device} ({os.cpu_count()} CPU threads)"),
        ("detector", pipe.face_detector.name),
        ("targets", str(len(pipe.targets.names) if pipe.targets else 0)),
    ]
    for name, net in pipe.recognisers.items():
        role = "surrogate" if name in pipe.surrogates else "judge only"
        lines.append(("recogniser", f"{name}: {net.config.title}, {role}, {net.config.licence}"))
    lines += [
        ("expression", f"{name}: {net.config.title}")
        for name, net in pipe.expression_classifiers.items()
    ]
    if pipe.map_network is not None:
        lines.append(("map network", f"trained on {', '.join(pipe.map_network.surrogates)}"))
    print("\n".join(f"{name:14}{value}" for name, value in lines))
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an extra that isn't installed
        return "not installed"
