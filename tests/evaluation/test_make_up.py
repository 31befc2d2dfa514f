from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from map_pipeline import MAPPipeline, NoFaceError
from map_pipeline.errors import NotFiniteError
from map_pipeline.evaluation.face_parts import cheeks, eyelids, lips
from map_pipeline.evaluation.methods import Task, create
from map_pipeline.evaluation.methods.base import find_face
from map_pipeline.evaluation.methods.make_up import AXES, STRENGTHS, TEXTURE, make_up, part_masks
from map_pipeline.faces.landmarks import EYES, MIRRORED, LandmarkFinder

PARTS = {"lips": lips, "eyelids": eyelids, "cheeks": cheeks}


@pytest.fixture
def shape(tiny_pipeline: MAPPipeline, portrait: np.ndarray) -> Tensor:
    [face] = tiny_pipeline.face_detector.detect(portrait)
    return torch.as_tensor(face.landmarks68)


def at(mask: Tensor, point: Tensor) -> float:
    x, y = point.round().long().tolist()
    return float(mask[0, 0, y, x])


def descend(loss: object, image: Tensor, masks: Tensor, steps: int = 25) -> Tensor:
    return make_up(loss, image, masks, 1.5, steps, torch.Generator().manual_seed(0))


def test_every_part_lies_where_make_up_goes(shape: Tensor) -> None:
    drawn = {name: part(shape, (256, 240)) for name, part in PARTS.items()}
    assert all(mask.shape == (1, 1, 256, 240) for mask in drawn.values())
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in drawn.values())
    eyes = [shape[eye].mean(0) for eye in EYES]
    lower_lip = (shape[57] + shape[66]) / 2
    between = shape[60:68].mean(0)  # the lips of the astronaut are apart
    lids = [torch.lerp(shape[lid], shape[brow], 0.3) for lid, brow in ((37, 19), (44, 24))]
    sides = [(shape[41] + shape[48] + shape[2]) / 3, (shape[46] + shape[54] + shape[14]) / 3]
    expected = {"lips": [lower_lip], "eyelids": lids, "cheeks": sides}
    for name, mask in drawn.items():
        assert all(at(mask, point) > 0.5 for point in expected[name]), name
        others = [point for other in expected if other != name for point in expected[other]]
        for point in (*others, *eyes, *shape[17:27], shape[30], shape[8], between):
            assert at(mask, point) < 0.2, name


def test_parts_of_the_mirror_image_are_mirrored(shape: Tensor) -> None:
    other = shape[torch.from_numpy(MIRRORED)] * torch.tensor([-1, 1]) + torch.tensor([255, 0])
    for name, part in PARTS.items():
        mirrored = part(other, (256, 256)).flip(-1)
        assert (part(shape, (256, 256)) - mirrored).abs().max() < 0.02, name


def test_a_colour_ends_at_its_strength_and_lips_never_turn_green() -> None:
    """Far against a constant gradient; where no part lies, nothing changes."""
    image, masks = torch.full((1, 3, 20, 20), 0.5), torch.zeros(3, 1, 20, 20)
    masks[0, :, :10] = 1  # lips
    lighter, _, bluer = STRENGTHS[lips]
    shade = lighter * (1 + TEXTURE)
    greener = torch.tensor([1.0, -4.0, 0.0]).view(1, 3, 1, 1)
    change = descend(lambda picture: (picture * greener).sum(), image, masks, 40)
    assert change[:, :, 10:].abs().max() == 0
    # Lighter helps, as green counts more than red; redder would do harm, so there's none of it.
    torch.testing.assert_close(change[:, :2, 2:8], torch.full((1, 2, 6, 20), shade))
    darker = torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    change = descend(lambda picture: (picture * darker).sum(), image, masks, 40)
    assert float(change[:, 2, 2:8].max()) == pytest.approx(-shade - bluer, abs=1e-4)
    assert AXES[0] == (1, 1, 1)


def test_gradients_that_are_not_finite() -> None:
    image, masks = torch.full((1, 3, 20, 20), 0.5), torch.ones(3, 1, 20, 20)
    with pytest.raises(NotFiniteError, match="finite"):
        descend(lambda picture: (picture * 0).sqrt().sum(), image, masks, 1)


def test_only_the_parts_change(tiny_pipeline: MAPPipeline, portrait: np.ndarray) -> None:
    task = Task(portrait, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)
    change = create("make-up", steps=10).protect(tiny_pipeline, task).astype(int) - portrait
    place = find_face(tiny_pipeline, portrait)
    assert place.region.scale == (1, 1)
    x0, y0, x1, y1 = place.region.box
    masks = part_masks(tiny_pipeline, portrait, place)
    anywhere = masks.amax(0)[0].numpy() > 0
    assert 0.05 < anywhere.mean() < 0.5
    inside = np.zeros(portrait.shape[:2], bool)
    inside[y0:y1, x0:x1] = anywhere
    assert not change[~inside].any()
    for mask in masks:  # all of them are made up
        assert np.abs(change[y0:y1, x0:x1][mask[0].numpy() > 0.9]).mean() > 2


def test_a_face_without_landmarks(
    tiny_pipeline: MAPPipeline, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that knows five points only, and the finder doesn't find the others either."""
    place = find_face(tiny_pipeline, portrait)
    place = replace(place, face=replace(place.face, landmarks68=None))
    assert part_masks(tiny_pipeline, portrait, place).max() > 0.9
    monkeypatch.setattr(LandmarkFinder, "find_aligned", lambda *_: None)
    with pytest.raises(NoFaceError, match="68 landmarks"):
        part_masks(tiny_pipeline, portrait, place)
