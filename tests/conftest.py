"""Shared fixtures: a small pipeline of real components with random weights, the shipped one, and
the page with either.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from made_up_space import tiny_mesh, tiny_mouth_painter, tiny_space
from PIL import Image
from pipeline_calls import QUICK

from map_pipeline import (
    EMOTIONS,
    ClassifierEnsemble,
    ExpressionClassifier,
    FaceRecogniser,
    MAPPipeline,
    MAPPipelineOutput,
    RecogniserEnsemble,
    TargetBank,
)
from map_pipeline.diffusion.conditioner import FaceConditioner, embedding_width
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.face import Face
from map_pipeline.identity import objectives
from map_pipeline.images import load_image, to_array

if TYPE_CHECKING:  # most tests need no page
    import gradio as gr
    from browsing import Site
    from gradio_client import Client

    from map_pipeline.ui.settings import PageSettings

EXAMPLES = Path(__file__).parent.parent / "examples"
ASTRONAUT, VIDEO_CALL = EXAMPLES / "astronaut.png", EXAMPLES / "video-call.png"
TINY_INPUT = 32  # px, side of the crops of the tiny recognisers and classifiers
TINY_TEMPLATE = (ARCFACE_TEMPLATE_112 * TINY_INPUT / 112).tolist()


def exit_code(arguments: list[str]) -> int:
    """Of the command line, whether it returns it or argument parsing exits with it."""
    from map_pipeline.cli.main import main

    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its nature: tests of the shipped checkpoint, and those in a browser."""
    for item in items:
        if "bundled_pipeline" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.weights)
        if item.path.name.startswith("test_browser"):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def accelerate_anew() -> Iterator[None]:
    """For tests that train: accelerate keeps the first settings of a process."""
    from made_up import forget_accelerate

    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture(scope="session", autouse=True)
def no_insightface_pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests mean the same on every machine, also where insightface's models are installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAP_INSIGHTFACE_ROOT", str(tmp_path_factory.mktemp("insightface")))
        yield


def tiny_nodes(outputs: int) -> list[dict]:
    """A network of two convolutions for `TINY_INPUT` px that distinguishes positions."""
    conv = {"op": "conv", "kernel": 3, "stride": 2, "padding": "same"}
    side = TINY_INPUT // 8
    return [
        {**conv, "name": "conv_1", "inputs": ["input"], "channels_in": 3, "channels_out": 8},
        {"name": "relu_1", "op": "relu", "inputs": ["conv_1"]},
        {**conv, "name": "conv_2", "inputs": ["relu_1"], "channels_in": 8, "channels_out": 8},
        {"name": "relu_2", "op": "relu", "inputs": ["conv_2"]},
        {"name": "pool", "op": "average_pool", "inputs": ["relu_2"], "kernel": 2, "stride": 2},
        {"name": "flat", "op": "flatten", "inputs": ["pool"]},
        {
            "name": "out",
            "op": "linear",
            "inputs": ["flat"],
            "in_features": 8 * side * side,
            "out_features": outputs,
        },
    ]


def tiny_recogniser(family: str) -> FaceRecogniser:
    return FaceRecogniser(
        nodes=tiny_nodes(16),
        title=f"tiny {family}",
        family=family,
        input_size=TINY_INPUT,
        template=TINY_TEMPLATE,
        mean=[127.5] * 3,
        std=[127.5] * 3,
        embedding_dim=16,
        thresholds={"0.01": 0.6, "0.001": 0.8},
    ).eval()


def tiny_classifier() -> ExpressionClassifier:
    return ExpressionClassifier(
        nodes=tiny_nodes(len(EMOTIONS)),
        title="tiny expression network",
        labels=EMOTIONS,
        input_size=TINY_INPUT,
        template=TINY_TEMPLATE,
    ).eval()


def tiny_unet(patch: int = 4, class_embed_type: str | None = None) -> UNet2DModel:
    """Works on crops of `8 * patch` px."""
    return UNet2DModel(
        sample_size=8,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
        class_embed_type=class_embed_type,
    ).eval()


def tiny_targets() -> TargetBank:
    """Three targets; the recogniser "faceres" is one that the bank doesn't know."""
    names = ["first", "second", "third"]
    dims = {"dlib_resnet": 16, "mobilefacenet": 16}
    bank = TargetBank(names, [f"the {name}" for name in names], 32, dims)
    bank.images.copy_(torch.randint(0, 256, bank.images.shape, dtype=torch.uint8))
    for name, dim in dims.items():
        bank.embeddings(name).copy_(F.normalize(torch.randn(len(names), dim)))
    return bank.eval()


def edit_components() -> dict[str, Any]:
    """What a pipeline needs to edit expressions: crops in which landmarks are found, a network that
    takes conditions with a trained change, and a space whose axes are known, as a random one would
    tear a face apart.
    """
    space = tiny_space()
    unet = tiny_unet(16, class_embed_type="identity")
    conditioner = FaceConditioner(embedding_width(unet), hidden=16).eval()
    conditioner.mean_shape.copy_(space.neutral)
    with torch.no_grad():
        for parameter in conditioner.parameters():
            parameter.mul_(0.03)
    network = MAPNetwork.for_unet(unet, {"dlib_resnet": 16, "mobilefacenet": 16}, rank=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    parts = {"unet": unet, "conditioner": conditioner, "map_network": network}
    edits = {"face_mesh": tiny_mesh(), "mouth_painter": tiny_mouth_painter()}
    return {**parts, **edits, "expression_space": space}


def build_tiny_pipeline(edits: bool = False) -> MAPPipeline:
    """A new pipeline, always with the same weights.

    Args:
        edits: with the components of `edit_components`; otherwise it's like an old checkpoint.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = MAPPipeline(
            **(edit_components() if edits else {"unet": tiny_unet()}),
            scheduler=DDIMScheduler(),
            targets=tiny_targets(),
            recognisers=RecogniserEnsemble(
                {
                    "dlib_resnet": tiny_recogniser("dlib"),
                    "mobilefacenet": tiny_recogniser("mobilefacenet"),
                    "faceres": tiny_recogniser("mobilefacenet"),
                }
            ),
            expression_classifiers=ClassifierEnsemble({"mini_xception": tiny_classifier()}),
            alignment_template=[
                [x / TINY_INPUT * 0.8 + 0.1, y / TINY_INPUT * 0.8 + 0.1] for x, y in TINY_TEMPLATE
            ],
            surrogates=["dlib_resnet", "mobilefacenet"],
            detector="bundled",
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A face of about 90 px, `uint8 [256,256,3]`."""
    return np.array(Image.open(ASTRONAUT).convert("RGB"))[:256, 96:352]


@pytest.fixture
def portrait_file(portrait: np.ndarray, tmp_path: Path) -> Path:
    Image.fromarray(portrait).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


@pytest.fixture(scope="session")
def couple(portrait: np.ndarray) -> np.ndarray:
    """The portrait and, smaller and mirrored beside it, once more, `uint8 [256,448,3]`."""
    face = Image.fromarray(portrait)
    small = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((192, 192))
    picture = Image.new("RGB", (448, 256), "grey")
    picture.paste(face, (0, 0))
    picture.paste(small, (256, 32))
    return np.array(picture)


@pytest.fixture
def lying(portrait: np.ndarray) -> np.ndarray:
    """Somebody upright and, at the right, somebody who lies on the side, `uint8 [256,512,3]`."""
    return np.concatenate([portrait, np.rot90(portrait)], 1)


@pytest.fixture
def overlooks_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector overlooks turned faces beside upright ones unless it's asked for them."""
    detect = BundledDetector.detect

    def see(self: BundledDetector, photo: np.ndarray, rotate: bool = False) -> list[Face]:
        return [face for face in detect(self, photo, rotate) if rotate or face.turns == 0]

    monkeypatch.setattr(BundledDetector, "detect", see)


@pytest.fixture
def cheap_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiny networks find is hardly ever worth its price, so next to nothing is charged."""
    shipped = objectives.default_objectives

    def cheap() -> list[objectives.Objective]:
        return [
            replace(one, weight=one.weight / 1000 if one.side == "prior" else one.weight)
            for one in shipped()
        ]

    monkeypatch.setattr(objectives, "default_objectives", cheap)


@pytest.fixture
def space() -> ExpressionSpace:
    """Expressions of made-up faces."""
    return tiny_space()


@pytest.fixture
def painter() -> UNet2DModel:
    """Paints mouths, badly but always alike."""
    torch.manual_seed(0)
    return tiny_mouth_painter()


@pytest.fixture(scope="session")
def tiny_pipeline() -> MAPPipeline:
    """Real components with a few channels and random weights; a call takes tenths of a second.

    It has no `conditioner` and can't edit expressions, like a checkpoint of old.
    """
    return build_tiny_pipeline()


@pytest.fixture
def protect(tiny_pipeline: MAPPipeline) -> Callable[..., MAPPipelineOutput]:
    """Protect with the tiny pipeline; without an `output_type`, images are `uint8` arrays."""

    def call(image: Any, seed: int = 0, **settings: Any) -> MAPPipelineOutput:
        generator = torch.Generator().manual_seed(seed)
        output = tiny_pipeline(image, **{"generator": generator, **QUICK, **settings})
        if "output_type" not in settings and isinstance(output, MAPPipelineOutput):
            output.images = [np.array(picture) for picture in output.images]
        return output

    return call


@pytest.fixture(scope="session")
def editing_pipeline() -> MAPPipeline:
    """The same with crops of 128 px, and all that an edit of expressions needs."""
    return build_tiny_pipeline(edits=True)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `tiny_pipeline` as saved."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bundled_pipeline() -> MAPPipeline:
    pipe = MAPPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def page_settings(tiny_checkpoint: Path) -> "PageSettings":
    """Of `demo`; a module may have its own."""
    from map_pipeline.ui.settings import PageSettings

    return PageSettings(checkpoint=tiny_checkpoint)


@pytest.fixture(scope="module")
def demo(
    page_settings: "PageSettings",
    tiny_pipeline: MAPPipeline,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator["gr.Blocks"]:
    """The running page with the networks of `tiny_pipeline`."""
    from serving import pickling_gpu, running_page

    cache = tmp_path_factory.mktemp("cache")
    with running_page(page_settings, tiny_pipeline, cache, pickling_gpu) as page:
        yield page


@pytest.fixture(scope="module")
def client(demo: "gr.Blocks", tmp_path_factory: pytest.TempPathFactory) -> "Client":
    """A program that uses `demo`."""
    from gradio_client import Client

    downloads = tmp_path_factory.mktemp("downloads")
    return Client(demo.local_url, verbose=False, download_files=downloads, analytics_enabled=False)


@pytest.fixture(scope="module")
def site(
    bundled_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Site"]:
    """The page with the shipped networks, and a browser."""
    from browsing import open_site

    from map_pipeline.ui.settings import PageSettings

    with open_site(bundled_pipeline, PageSettings(), tmp_path_factory.mktemp("cache")) as site:
        yield site
