import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, tiny_classifier
from made_up import write_folder

from map_pipeline.config import EMOTIONS
from map_pipeline.faces.align import Alignment, arcface_template, warp_affine
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.faces.landmarks import five_points
from map_pipeline.images import load_image, save_image, to_array, to_pil, to_tensor
from map_pipeline.training.faces import labels_path, load_faces
from map_pipeline.training.label import label

SIDE = 64
TEMPLATE = arcface_template(1, 0.06)  # units of the side


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    """`[1,3,S,S]`, an aligned face."""
    photo = to_array(load_image(ASTRONAUT))
    [found] = BundledDetector().detect(photo)
    alignment = Alignment.from_landmarks(torch.as_tensor(found.landmarks), TEMPLATE * SIDE, SIDE)
    return warp_affine(to_tensor(photo), alignment.crop_to_image[None], (SIDE, SIDE))


@pytest.fixture
def source(face: torch.Tensor, tmp_path: Path) -> Path:
    """A face, a meadow of noise, and the same face labelled by a person."""
    folder = tmp_path / "set"
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for name, picture in (("0", to_pil(face)), ("1", to_pil(noise)), ("2", to_pil(face))):
        save_image(picture, folder / f"{name}.png")
    (folder / "labels.jsonl").write_text(json.dumps({"file": "2.png", "emotion": "fear"}))
    return folder


def test_what_networks_see_is_stored(source: Path, face: torch.Tensor) -> None:
    classifiers = [tiny_classifier(), tiny_classifier()]
    faces = label(source, TEMPLATE, classifiers)
    pixels = (face * 255).round() / 255
    seen = [net(pixels, TEMPLATE[None] * SIDE).softmax(-1)[0] for net in classifiers]
    torch.testing.assert_close(faces.emotions[0], (seen[0] + seen[1]) / 2, atol=1e-4, rtol=0)
    assert faces.emotions[1].sum().item() == pytest.approx(1, abs=1e-5)
    # What a person says is certain.
    assert faces.emotions[2].tolist() == [float(name == "fear") for name in EMOTIONS]

    again = load_faces([source])
    assert labels_path(source).is_file()
    torch.testing.assert_close(again.emotions, faces.emotions, atol=1e-3, rtol=0)
    torch.testing.assert_close(again.landmarks68, faces.landmarks68, atol=1e-3, rtol=0)


def test_landmarks_of_a_face_but_not_of_noise(source: Path) -> None:
    faces = label(source, TEMPLATE, [tiny_classifier()])
    assert faces.has_landmarks.tolist() == [True, False, True]
    found = torch.from_numpy(five_points(faces.landmarks68[0].numpy()))
    assert (found - TEMPLATE).norm(dim=1).max() < 0.08  # she smiles
    assert not faces.landmarks68[1].any()
    torch.testing.assert_close(faces.landmarks68[2], faces.landmarks68[0])


def test_more_faces_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("map_pipeline.training.label.BATCH", 3)
    source, classifiers = write_folder(tmp_path / "set", 7, SIDE), [tiny_classifier()]
    small = label(source, TEMPLATE, classifiers)
    monkeypatch.setattr("map_pipeline.training.label.BATCH", 100)
    torch.testing.assert_close(label(source, TEMPLATE, classifiers).emotions, small.emotions)
