import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from map_pipeline.errors import CheckpointError, UnknownOptionError
from map_pipeline.faces.align import arcface_template
from map_pipeline.hub import bundled_checkpoint
from map_pipeline.identity.recognisers import FaceRecogniser, find_arcface, load_arcface

CHECKPOINT = bundled_checkpoint()
REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "reference_outputs.json").read_text())
AGREEMENT = 0.995  # cosine that 8 bits a weight leave
RECOGNISERS = ("dlib_resnet", "mobilefacenet", "faceres", "sface", "mobileface")


def synthetic_image(size: int, index: int) -> np.ndarray:
    """A smooth colour pattern [size,size,3] uint8 RGB; the reference outputs are made from it."""
    axis = (np.arange(size) + 0.5) / size
    x, y, channel = axis[None, :, None], axis[:, None, None], np.arange(3)[None, None]
    phase = (1.3 + index) * (channel + 1)
    waves = np.sin(2 * np.pi * (2.5 * x + (1.0 + 0.5 * channel) * y) + phase)
    waves = waves + np.sin(2 * np.pi * ((3.0 - channel) * x * y - 1.5 * y) - phase)
    return np.round(127.5 + 63.75 * waves).clip(0, 255).astype(np.uint8)


def synthetic_batch(size: int) -> Tensor:
    images = np.stack([synthetic_image(size, index) for index in (0, 1)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def landmarks(batch: int, size: int = 160) -> Tensor:
    return (arcface_template(size) * 0.9 + 8).expand(batch, 5, 2)


@pytest.fixture(scope="module", params=RECOGNISERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recogniser(name: str) -> FaceRecogniser:
    return FaceRecogniser.from_pretrained(CHECKPOINT / "recognisers" / name)


def test_embeddings_equal_the_original_runtime(recogniser: FaceRecogniser, name: str) -> None:
    with torch.no_grad():
        embeddings = recogniser.embed(synthetic_batch(recogniser.config.input_size))
    expected = torch.tensor(REFERENCE["outputs"][name])
    assert embeddings.shape == expected.shape == (2, recogniser.config.embedding_dim)
    assert F.cosine_similarity(embeddings, expected).min() > AGREEMENT


def test_half_precision_files_load_as_float32(recogniser: FaceRecogniser) -> None:
    assert {parameter.dtype for parameter in recogniser.parameters()} == {torch.float32}


def test_bfloat16_stays_close(recogniser: FaceRecogniser, name: str) -> None:
    crops = synthetic_batch(recogniser.config.input_size)
    half = FaceRecogniser.from_pretrained(CHECKPOINT / "recognisers" / name, dtype=torch.bfloat16)
    with torch.no_grad():
        embeddings = half.embed(crops)
        expected = recogniser.embed(crops)
    assert embeddings.dtype == torch.float32
    assert F.cosine_similarity(embeddings, expected).min() > 0.98


def test_forward_is_batch_consistent_and_normalised(recogniser: FaceRecogniser) -> None:
    images, points = synthetic_batch(160), landmarks(2)
    with torch.no_grad():
        together = recogniser(images, points)
        alone = torch.cat([recogniser(images[i : i + 1], points[i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


def test_a_moved_face_has_the_same_embedding(recogniser: FaceRecogniser) -> None:
    images, points = synthetic_batch(160)[:1], landmarks(1)
    moved, moved_points = F.pad(images, [13, 4, 7, 21]), points + torch.tensor([13.0, 7.0])
    with torch.no_grad():
        same = recogniser(moved, moved_points) @ recogniser(images, points).T
        other = recogniser(moved, points) @ recogniser(images, points).T
    assert same > 0.9999
    assert other < same


def test_gradient_reaches_the_image_through_crop_and_network(recogniser: FaceRecogniser) -> None:
    images = synthetic_batch(160).requires_grad_()
    similarity = recogniser(images, landmarks(2)).prod(0).sum()
    (gradient,) = torch.autograd.grad(similarity, images)
    inside = gradient[:, :, 60:120, 50:110]
    assert gradient.isfinite().all()
    assert (inside != 0).float().mean() > 0.5


def test_threshold_by_false_accept_rate(recogniser: FaceRecogniser) -> None:
    assert 0 < recogniser.threshold(0.01) < recogniser.threshold(0.001) < 1
    with pytest.raises(UnknownOptionError, match=r"must be one of .*0\.001, 0\.01.* got 0\.5"):
        recogniser.threshold(0.5)


@pytest.mark.parametrize(
    ("shape", "points", "message"),
    [
        ((2, 1, 64, 64), (2, 5, 2), "`images` must be"),
        ((3, 64, 64), (1, 5, 2), "`images` must be"),
        ((2, 3, 64, 64), (1, 5, 2), "`landmarks` must be"),
        ((2, 3, 64, 64), (2, 68, 2), "`landmarks` must be"),
    ],
)
def test_wrong_shapes_are_refused(
    recogniser: FaceRecogniser, shape: tuple[int, ...], points: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recogniser(torch.zeros(shape), torch.zeros(points))


def tiny_recogniser(channel_order: str = "rgb") -> FaceRecogniser:
    """Its embedding is the mean colour."""
    nodes = [
        {"name": "same", "op": "affine", "inputs": ["input"], "channels": 3},
        {"name": "mean", "op": "global_mean", "inputs": ["same"]},
    ]
    return FaceRecogniser(
        nodes=nodes,
        title="tiny",
        family="test",
        input_size=8,
        template=arcface_template(8).tolist(),
        mean=[0.0] * 3,
        std=[255.0] * 3,
        embedding_dim=3,
        thresholds={},
        channel_order=channel_order,
    )


def test_channel_order_decides_what_the_network_sees() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert tiny_recogniser().embed(red).tolist() == [[1.0, 0.0, 0.0]]
    assert tiny_recogniser("bgr").embed(red).tolist() == [[0.0, 0.0, 1.0]]


def test_unaligned_crops_and_unknown_channel_orders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`crops` must be \[B,3,8,8\]"):
        tiny_recogniser().embed(torch.zeros(1, 3, 9, 8))
    with pytest.raises(UnknownOptionError, match="`channel_order` must be rgb or bgr, got 'gbr'"):
        tiny_recogniser("gbr")


def test_saving_and_loading_keeps_the_recogniser(tmp_path: Path) -> None:
    saved = tiny_recogniser("bgr")
    saved.network.layers["same"].scale.data = torch.tensor([1.0, 2.0, 3.0])
    saved.save_pretrained(tmp_path)
    crops = torch.rand(2, 3, 8, 8)
    loaded = FaceRecogniser.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.embed(crops), saved.embed(crops))
    with pytest.raises(UnknownOptionError, match=r"tiny \(none\)"):
        loaded.threshold(0.01)


def write_small_arcface(path: Path) -> None:
    """An IResNet in miniature: batch norm, PReLU, residual sum, linear layer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def constant(name: str, *shape: int, low: float = -0.3, high: float = 0.3) -> str:
        arrays[name] = generator.uniform(low, high, shape).astype(np.float32)
        return name

    def norm(x: str, name: str, channels: int) -> onnx.NodeProto:
        values = [constant(f"{name}{i}", channels, low=0.5, high=1.5) for i in range(4)]
        return helper.make_node("BatchNormalization", [x, *values], [name], epsilon=1e-5)

    def conv(x: str, name: str, inputs: int, outputs: int, stride: int) -> onnx.NodeProto:
        values = [constant(f"{name}w", outputs, inputs, 3, 3), constant(f"{name}b", outputs)]
        return helper.make_node(
            "Conv", [x, *values], [name], strides=[stride] * 2, pads=[1] * 4, kernel_shape=[3, 3]
        )

    nodes = [
        conv("image", "stem", 3, 4, 4),
        helper.make_node("PRelu", ["stem", constant("slope", 4, 1, 1)], ["active"]),
        norm("active", "inner", 4),
        conv("inner", "deep", 4, 4, 1),
        helper.make_node("Add", ["deep", "active"], ["sum"]),
        norm("sum", "outer", 4),
        conv("outer", "small", 4, 2, 4),
        helper.make_node("Flatten", ["small"], ["flat"], axis=1),
        helper.make_node(
            "Gemm", ["flat", constant("gw", 16, 98), constant("gb", 16)], ["fc"], transB=1
        ),
        norm("fc", "embedding", 16),
    ]
    graph = helper.make_graph(
        nodes,
        "small-arcface",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


def test_arcface_file_equals_onnxruntime(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "w600k_r50.onnx"
    write_small_arcface(path)
    recogniser = load_arcface(path, thresholds={"0.01": 0.3})
    crops = synthetic_batch(112)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": ((crops * 255 - 127.5) / 127.5).numpy()})
    with torch.no_grad():
        embeddings = recogniser.embed(crops)
    assert embeddings.shape == (2, recogniser.config.embedding_dim) == (2, 16)
    torch.testing.assert_close(
        embeddings, F.normalize(torch.from_numpy(expected)), atol=1e-5, rtol=1e-4
    )
    assert recogniser.threshold(0.01) == 0.3
    with pytest.raises(UnknownOptionError, match="`far` must be one of"):
        recogniser.threshold(0.001)


def test_arcface_is_found_in_an_insightface_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAP_INSIGHTFACE_ROOT", str(tmp_path))
    assert find_arcface() is None
    path = tmp_path / "models" / "buffalo_l" / "w600k_r50.onnx"
    path.parent.mkdir(parents=True)
    write_small_arcface(path)
    found = find_arcface()
    assert found is not None
    assert (found.config.family, dict(found.config.thresholds)) == ("arcface", {})
    path.write_bytes(b"\xff" * 64)
    assert find_arcface() is None
    assert "Going on without ArcFace" in caplog.text
    with pytest.raises(CheckpointError, match="must be an ONNX file"):
        load_arcface(path, thresholds={})


@pytest.mark.slow
def test_dlib_itself_gives_the_same_embedding() -> None:
    dlib = pytest.importorskip("dlib")
    models = pytest.importorskip("face_recognition_models")
    network = dlib.face_recognition_model_v1(models.face_recognition_model_location())
    chips = [synthetic_image(150, index) for index in range(2, 6)]
    expected = torch.tensor([list(network.compute_face_descriptor(chip)) for chip in chips])
    crops = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        embeddings = FaceRecogniser.from_pretrained(
            CHECKPOINT / "recognisers" / "dlib_resnet"
        ).embed(crops)
    assert F.cosine_similarity(embeddings, expected).min() > AGREEMENT


@pytest.mark.weights
def test_autocast_leaves_the_alignment_exact() -> None:
    """bf16 positions would be off by half a pixel, which an embedding shows."""
    net = FaceRecogniser.from_pretrained(CHECKPOINT / "recognisers" / "mobilefacenet").float()
    faces, points = synthetic_batch(160), landmarks(2)
    with torch.no_grad():
        expected = net.crop(faces, points)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(net.crop(faces, points), expected)
