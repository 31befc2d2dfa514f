import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tfjs_file import TfjsFile, b64, integers

from map_pipeline.cli.main import main
from map_pipeline.config import EMOTIONS
from map_pipeline.errors import CheckpointError
from map_pipeline.expression.classifiers import ExpressionClassifier
from map_pipeline.graph.convert import dlib, tfjs
from map_pipeline.graph.convert.builder import GraphBuilder
from map_pipeline.graph.executor import GraphNetwork, Node
from map_pipeline.training.conversion import RECIPES, convert

SEED = 5


def network(nodes: list[Node], state: dict[str, torch.Tensor]) -> GraphNetwork:
    graph = GraphNetwork(nodes)
    graph.load_state_dict(state)
    return graph.eval()


def random_array(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(SEED + sum(shape))
    return generator.uniform(-0.5, 0.5, shape).astype(np.float32)


# --- simplification -------------------------------------------------------------------------------


def test_builder_folds_pad_affine_and_clips_without_changing_the_result() -> None:
    graph = GraphBuilder()
    weight, bias, scale, shift = random_array(4, 3, 3, 3), *(random_array(4) for _ in range(3))
    x = graph.add("pad", "input", amounts=[1, 1, 1, 1])
    x = graph.conv(x, weight, bias)
    x = graph.affine(x, scale, shift)
    x = graph.add("clip", graph.add("relu", x), max=0.3)
    graph.add("clip", x, min=0.1)
    nodes, state = graph.finish()
    assert [node["op"] for node in nodes] == ["conv", "clip"]

    image = torch.randn(2, 3, 5, 5)
    expected = F.conv2d(image, torch.from_numpy(weight), torch.from_numpy(bias), padding=1)
    expected = expected * torch.from_numpy(scale).view(-1, 1, 1)
    expected = (expected + torch.from_numpy(shift).view(-1, 1, 1)).clamp(0.1, 0.3)
    torch.testing.assert_close(network(nodes, state)(image), expected)


def test_builder_keeps_an_affine_whose_input_is_used_twice() -> None:
    graph = GraphBuilder()
    first = graph.conv("input", random_array(2, 3, 1, 1))
    second = graph.affine(first, random_array(2), random_array(2))
    graph.add("add", first, second)
    nodes, state = graph.finish()
    assert [node["op"] for node in nodes] == ["conv", "affine", "add"]
    image = torch.randn(1, 3, 2, 2)
    raw = F.conv2d(image, torch.from_numpy(random_array(2, 3, 1, 1)))
    vector = torch.from_numpy(random_array(2)).view(-1, 1, 1)
    torch.testing.assert_close(network(nodes, state)(image), raw + raw * vector + vector)


# --- TensorFlow.js --------------------------------------------------------------------------------


def test_tfjs_graph_equals_its_meaning(tmp_path: Path) -> None:
    file = TfjsFile()
    file.add("image", "Placeholder")
    kernel = file.constant("kernel", random_array(3, 3, 3, 4), "float16")
    scale = file.constant("scale", random_array(4))
    shift = file.constant("shift", random_array(4))
    depthwise = file.constant("depthwise", random_array(3, 3, 4, 1), "uint8")
    slope = file.constant("slope", random_array(1, 1, 4))
    dense = file.constant("dense", random_array(16, 2))
    bias = file.constant("bias", random_array(2))
    file.constant("zero", np.zeros((), np.float32))
    file.constant("six", np.full((), 0.4, np.float32))
    file.constant("shape", np.array([-1, 16], np.int32))
    file.constant("edges", np.array([[0, 0], [0, 1], [1, 0], [0, 0]], np.int32))
    window = {"padding": b64("SAME"), "dilations": integers(1, 1, 1, 1)}
    file.add("conv", "Conv2D", "image", "kernel", strides=integers(1, 2, 2, 1), **window)
    file.add("scaled", "Mul", "conv", "scale")
    file.add("shifted", "AddV2", "scaled", "shift")
    file.add("relu", "Relu", "shifted")
    file.add("capped", "Minimum", "relu", "six")
    file.add("active", "Maximum", "capped", "zero")
    file.add("padded", "Pad", "active", "edges")
    window["padding"] = b64("VALID")
    strides = integers(1, 1, 1, 1)
    file.add("dw", "DepthwiseConv2dNative", "padded", "depthwise", strides=strides, **window)
    file.add("positive", "Maximum", "zero", "dw")
    file.add("negative", "Minimum", "zero", "dw")
    file.add("slanted", "Mul", "slope", "negative")
    file.add("leaky", "AddV2", "positive", "slanted")
    file.add("flat", "Reshape", "leaky", "shape")
    fused = {"fused_ops": {"list": {"s": [b64("BiasAdd")["s"], b64("Relu")["s"]]}}}
    file.add("head", "_FusedMatMul", "flat", "dense", "bias", **fused)
    file.add("unused", "Softmax", "head")
    nodes, state = tfjs.convert(file.write(tmp_path), "head")
    operations = ["conv", "clip", "conv", "prelu", "flatten", "linear", "relu"]
    assert [node["op"] for node in nodes] == operations

    image = torch.randn(2, 3, 6, 6)
    tensors = (torch.from_numpy(a) for a in (kernel, scale, shift, depthwise, slope, dense, bias))
    kernel_t, scale_t, shift_t, depthwise_t, slope_t, dense_t, bias_t = tensors
    # SAME on 6 pixels, kernel 3, stride 2: one pixel at the right and the bottom.
    x = F.conv2d(F.pad(image, [0, 1, 0, 1]), kernel_t.permute(3, 2, 0, 1), stride=2)
    x = (x * scale_t.view(-1, 1, 1) + shift_t.view(-1, 1, 1)).clamp(0, 0.4)
    x = F.conv2d(F.pad(x, [1, 0, 0, 1]), depthwise_t.permute(2, 3, 0, 1), groups=4)
    x = F.prelu(x, slope_t.flatten()).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(network(nodes, state)(image), F.relu(x @ dense_t + bias_t))


def test_tfjs_pools_means_and_sums(tmp_path: Path) -> None:
    file = TfjsFile()
    file.add("image", "Placeholder")
    file.constant("offset", np.full((), 0.5, np.float32))
    file.constant("axes", np.array([1, 2], np.int32))
    size = {"ksize": integers(1, 3, 3, 1), "strides": integers(1, 2, 2, 1), "padding": b64("SAME")}
    file.add("centred", "Sub", "image", "offset")
    file.add("largest", "MaxPool", "centred", **size)
    file.add("average", "AvgPool", "centred", **size)
    file.add("sum", "AddV2", "largest", "average")
    file.add("mean", "Mean", "sum", "axes")
    file.add("output", "Identity", "mean")
    nodes, state = tfjs.convert(file.write(tmp_path), "output")
    image = torch.randn(1, 3, 5, 5)
    x = image - 0.5  # on 5 pixels SAME means one pixel on every side
    pools = F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(network(nodes, state)(image), pools.mean((2, 3)))


def test_tfjs_unknown_operations_are_refused(tmp_path: Path) -> None:
    file = TfjsFile()
    file.add("image", "Placeholder")
    file.add("odd", "FFT", "image")
    with pytest.raises(CheckpointError, match="known TensorFlow operations, got FFT"):
        tfjs.convert(file.write(tmp_path), "odd")


# --- ONNX -----------------------------------------------------------------------------------------


def test_onnx_graph_equals_onnxruntime(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    from map_pipeline.graph.convert.onnx import convert as convert_onnx

    make = onnx.helper.make_node
    arrays = {
        "w": random_array(4, 3, 3, 3),
        "mean": random_array(4),
        "variance": random_array(4) + 1,
        "gain": random_array(4),
        "shift": random_array(4),
        "half": np.full((1, 4, 1, 1), 0.5, np.float32),
        "dense": random_array(8, 5),
        "shape": np.array([-1, 8], np.int64),
    }
    nodes = [
        make(
            "Conv", ["image", "w"], ["conv"], kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 0, 1]
        ),
        make("BatchNormalization", ["conv", "gain", "shift", "mean", "variance"], ["norm"]),
        make("Relu", ["norm"], ["relu"]),
        make(
            "MaxPool", ["relu"], ["large"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        make(
            "AveragePool", ["relu"], ["middle"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        ),
        make("Mul", ["middle", "half"], ["halved"]),
        make("Sub", ["halved", "half"], ["lower"]),
        make("Sigmoid", ["lower"], ["gate"]),
        make("Concat", ["large", "gate"], ["both"], axis=1),
        make("GlobalAveragePool", ["both"], ["pooled"]),
        make("Reshape", ["pooled", "shape"], ["flat"]),
        make("MatMul", ["flat", "dense"], ["logits"]),
        make("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "everything",
        [info("image", onnx.TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [info("probabilities", onnx.TensorProto.FLOAT, ["batch", 5])],
        [onnx.numpy_helper.from_array(value, key) for key, value in arrays.items()],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))

    image = torch.randn(2, 3, 9, 9)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": image.numpy()})
    output = network(*convert_onnx(path))(image)
    torch.testing.assert_close(output, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    logits = network(*convert_onnx(path, skip_softmax=True))(image)
    torch.testing.assert_close(logits.softmax(1), output)


# --- dlib -----------------------------------------------------------------------------------------


def packed(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "little")


def serialised(name: bytes, values: np.ndarray, *before: int) -> bytes:
    head = b"\x01" + bytes([len(name)]) + name + b"".join(map(packed, before))
    sizes = b"".join(map(packed, (values.size, 1, 1, 1)))
    return head + packed(2) + sizes + values.astype("<f4").tobytes() + b"\x01\x00tail"


def test_dlib_integers_may_be_negative_and_long() -> None:
    assert dlib.read_integer(b"\x02\x80\x12", 0) == (4736, 3)
    assert dlib.read_integer(b"xx\x81\x05", 2) == (-5, 4)


def test_dlib_layers_are_found_behind_their_names() -> None:
    # The weights of the first layer spell a layer's name, which mustn't be taken for one.
    trap = np.frombuffer(b"\x01\x05con_4.", "<f4")
    arrays = [trap, random_array(6), random_array(10)]
    data = b"start" + serialised(b"con_4", trap) + serialised(b"affine_", arrays[1])
    data += serialised(b"fc_2", arrays[2], 5, 2)
    for found, expected in zip(dlib.read_layers(data), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_dlib_network_has_the_published_layout() -> None:
    generator = np.random.default_rng(SEED)
    layers, inputs = [], 3
    for outputs, kernel in [(32, 7)] + [(c, 3) for c, _ in dlib.BLOCKS for _ in (1, 2)]:
        layers.append(generator.normal(0, 0.05, outputs * (inputs * kernel**2 + 1)))
        layers.append(np.concatenate([np.ones(outputs), np.zeros(outputs)]))
        inputs = outputs
    layers.append(generator.normal(0, 0.1, 256 * 128))
    nodes, state = dlib.ResNetWriter(layers).write()
    assert sum(node["op"] == "conv" for node in nodes) == 29
    assert network(nodes, state)(torch.randn(1, 3, 150, 150)).shape == (1, 128)


def test_other_dlib_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(serialised(b"con_4", random_array(4)))
    with pytest.raises(CheckpointError, match="59 weighted layers, got 1"):
        dlib.convert(path)


# --- command line ---------------------------------------------------------------------------------


def write_face_api_package(folder: Path) -> None:
    """A package folder with random weights of the right shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, outputs in enumerate((32, 64, 128, 256)):
        for step in range(4):
            name = f"dense{block}/conv{step}"
            if block == step == 0:
                shapes[f"{name}/filters"] = (3, 3, 3, 32)
            else:
                shapes[f"{name}/depthwise_filter"] = (3, 3, channels, 1)
                shapes[f"{name}/pointwise_filter"] = (1, 1, channels, outputs)
            shapes[f"{name}/bias"] = (outputs,)
            channels = outputs
    shapes |= {"fc/weights": (256, 7), "fc/bias": (7,)}
    weights = [{"name": k, "shape": list(v), "dtype": "float32"} for k, v in shapes.items()]
    (folder / "model").mkdir()
    manifest = folder / "model" / RECIPES["face_api_expression"].file
    manifest.write_text(json.dumps([{"paths": ["w.bin"], "weights": weights}]))
    data = b"".join((random_array(*shape) * 0.2).tobytes() for shape in shapes.values())
    (folder / "model" / "w.bin").write_bytes(data)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-2)])
def test_command_line_writes_a_checkpoint(tmp_path: Path, dtype: str, tolerance: float) -> None:
    write_face_api_package(tmp_path)
    target = tmp_path / "out"
    arguments = ["train", "convert", "face_api_expression", "--source", str(tmp_path)]
    assert main([*arguments, "--out", str(target), "--dtype", dtype]) == 0
    loaded = ExpressionClassifier.from_pretrained(target)
    original = convert("face_api_expression", tmp_path)
    crops = torch.rand(1, 3, 112, 112)
    with torch.no_grad():
        logits, expected = loaded.classify(crops), original.classify(crops)
    assert logits.shape == (1, len(EMOTIONS))
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)


def test_a_package_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be or hold emotion\.json"):
        convert("mini_xception", tmp_path)
