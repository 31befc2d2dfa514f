import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from map_pipeline.config import EMOTIONS
from map_pipeline.errors import CheckpointError
from map_pipeline.expression.classifiers import (
    ExpressionClassifier,
    TransformersExpressionClassifier,
    expression_template,
    image_size,
    label_order,
    to_grey,
)
from map_pipeline.faces.align import ARCFACE_TEMPLATE_112, arcface_template
from map_pipeline.hub import bundled_checkpoint

CHECKPOINT = bundled_checkpoint()
DATA = Path(__file__).parents[1] / "data"
ENCODERS = ("mini_xception", "face_api_expression")
# As a network published on the Hub might name and order them.
OTHER_LABELS = ("Happiness", "anger", "neutral", "Sadness", "surprised", "disgust", "fear")


@pytest.fixture(scope="module", params=ENCODERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(name: str) -> ExpressionClassifier:
    return ExpressionClassifier.from_pretrained(CHECKPOINT / "expression_classifiers" / name)


def smooth_images(batch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)


def landmarks(batch: int, size: int) -> Tensor:
    return (arcface_template(size) * 0.8 + size * 0.1).expand(batch, 5, 2)


def test_outputs_equal_the_original_runtime(encoder: ExpressionClassifier, name: str) -> None:
    reference = json.loads((DATA / "reference_outputs.json").read_text())["outputs"][name]
    crops = torch.stack([synthetic_crop(encoder.config.input_size, index) for index in (0, 1)])
    with torch.no_grad():
        logits = encoder.classify(crops)
    labels = list(encoder.config.labels)
    expected = torch.tensor(reference)[:, [labels.index(emotion) for emotion in EMOTIONS]]
    # mini-Xception's graph ends in a softmax, which the encoder leaves out.
    outputs = logits.softmax(1) if name == "mini_xception" else logits
    assert F.cosine_similarity(outputs, expected).min() > 0.9999
    assert outputs.argmax(1).tolist() == expected.argmax(1).tolist()


def synthetic_crop(size: int, index: int) -> Tensor:
    """The pattern that the reference outputs were computed for: [3,size,size] in [0,1]."""
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    x, y = axis[None, None, :], axis[None, :, None]
    channel = torch.arange(3, dtype=torch.float64)[:, None, None]
    phase = (1.3 + index) * (channel + 1)
    waves = torch.sin(2 * torch.pi * (2.5 * x + (1.0 + 0.5 * channel) * y) + phase)
    waves = waves + torch.sin(2 * torch.pi * ((3.0 - channel) * x * y - 1.5 * y) - phase)
    return ((127.5 + 63.75 * waves).round().clamp(0, 255) / 255).float()


def test_forward_is_batch_consistent(encoder: ExpressionClassifier) -> None:
    images, points = smooth_images(3, 128), landmarks(3, 128)
    with torch.no_grad():
        together = encoder(images, points)
        alone = torch.cat([encoder(images[i : i + 1], points[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 7)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_gradient_reaches_the_image(encoder: ExpressionClassifier) -> None:
    images = smooth_images(2, 128).requires_grad_()
    loss = F.cross_entropy(encoder(images, landmarks(2, 128)), torch.tensor([3, 4]))
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.isfinite().all()
    assert (gradient[:, :, 48:80, 48:80] != 0).float().mean() > 0.5


def test_unaligned_crops_are_refused(encoder: ExpressionClassifier) -> None:
    with pytest.raises(ValueError, match=r"`crops` must be \[B,3,"):
        encoder.classify(torch.zeros(1, 3, 50, 50))
    with pytest.raises(ValueError, match="`landmarks` must be"):
        encoder(torch.zeros(1, 3, 50, 50), torch.zeros(2, 5, 2))


def test_label_order_understands_synonyms_and_names_what_is_missing() -> None:
    order = label_order(OTHER_LABELS)
    assert [OTHER_LABELS[i] for i in order] == [
        "anger", "disgust", "fear", "Happiness", "neutral", "Sadness", "surprised",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="fear, surprise missing"):
        label_order(["angry", "disgust", "happy", "neutral", "sad"])


def test_encoder_without_all_emotions_is_refused() -> None:
    with pytest.raises(CheckpointError, match="`labels` must contain all of"):
        ExpressionClassifier(
            nodes=[{"name": "mean", "op": "global_mean", "inputs": ["input"]}],
            title="tiny",
            labels=["happy", "sad", "neutral"],
            input_size=8,
            template=expression_template(8, 1.0),
        )


def test_expression_template_is_arcface_at_zoom_one() -> None:
    plain = torch.tensor(expression_template(112, 1.0))
    torch.testing.assert_close(plain, ARCFACE_TEMPLATE_112, atol=1e-3, rtol=0)
    zoomed = torch.tensor(expression_template(112, 1.5, raise_by=0.1))
    torch.testing.assert_close(
        zoomed[1] - zoomed[0], (plain[1] - plain[0]) * 1.5, atol=1e-3, rtol=0
    )
    expected = (plain[2, 1] - 56) * 1.5 + 56 - 11.2
    torch.testing.assert_close(zoomed[2, 1], expected, atol=1e-3, rtol=0)


def test_grey_of_white_is_white() -> None:
    torch.testing.assert_close(to_grey(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(48, (48, 48)), ({"height": 32, "width": 48}, (32, 48)), ({"shortest_edge": 64}, (64, 64))],
)
def test_image_size_spellings(value: int | dict[str, int], expected: tuple[int, int]) -> None:
    assert image_size(value) == expected


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    """A tiny random ViT in the layout of a Hub repository."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(OTHER_LABELS)),
        label2id={label: i for i, label in enumerate(OTHER_LABELS)},
    )
    ViTForImageClassification(config).eval().save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "do_normalize": True,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path


def test_transformers_encoder_preprocesses_and_reorders(vit_folder: Path) -> None:
    encoder = TransformersExpressionClassifier.from_classifier(vit_folder)
    crops = smooth_images(2, 224)
    small = F.interpolate(crops, (32, 32), mode="bilinear", antialias=True)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    with torch.no_grad():
        logits = encoder.classify(crops)
        expected = encoder.model(pixel_values=(small - mean) / std).logits
    torch.testing.assert_close(logits[:, EMOTIONS.index("happy")], expected[:, 0])
    torch.testing.assert_close(logits[:, EMOTIONS.index("angry")], expected[:, 1])
    torch.testing.assert_close(logits[:, EMOTIONS.index("fear")], expected[:, 6])


def test_transformers_encoder_is_differentiable(vit_folder: Path) -> None:
    encoder = TransformersExpressionClassifier.from_classifier(vit_folder)
    images = smooth_images(2, 96).requires_grad_()
    logits = encoder(images, landmarks(2, 96))
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), images)
    assert logits.shape == (2, 7)
    assert gradient.isfinite().all()
    assert (gradient[:, :, 36:60, 36:60] != 0).float().mean() > 0.5


def test_transformers_encoder_survives_saving(vit_folder: Path, tmp_path: Path) -> None:
    encoder = TransformersExpressionClassifier.from_classifier(vit_folder)
    encoder.save_pretrained(tmp_path / "saved")
    loaded = TransformersExpressionClassifier.from_pretrained(tmp_path / "saved")
    crops = smooth_images(2, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.classify(crops), encoder.classify(crops))


def test_transformers_encoder_needs_all_emotions(vit_folder: Path) -> None:
    path = vit_folder / "config.json"
    config = json.loads(path.read_text())
    config["id2label"]["6"] = "contempt"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="fear missing"):
        TransformersExpressionClassifier.from_classifier(vit_folder)
