from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import write_folder
from people_zip import write_people
from PIL import Image
from torch import Tensor

from map_pipeline.errors import InvalidImageError
from map_pipeline.expression.mouth import HEIGHT, MOUTH_WIDTH, WIDTH
from map_pipeline.expression.people import PeoplePhotos, split_of
from map_pipeline.faces.detect import Face
from map_pipeline.faces.mesh import INNER_LIPS, MESH_POINTS, MOUTH_CORNERS
from map_pipeline.training.mouth_patches import Mouths, cut, cut_mouths, vary

TEMPLATE = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.2, 0.75], [0.8, 0.75]])
GAP = 0.4  # of the open mouths here, of their width


def mouth_mesh(left: Tensor, right: Tensor, gap: float = GAP) -> Tensor:
    """A mesh `[468,2]` whose inner lips are an ellipse from corner to corner."""
    across = right - left
    angle = torch.linspace(np.pi, 3 * np.pi, len(INNER_LIPS) + 1)[:-1]
    level = torch.stack([(1 + angle.cos()) / 2, gap / 2 * angle.sin()], 1)
    along = torch.stack([across, torch.stack([-across[1], across[0]])], 1)
    mesh = left.expand(MESH_POINTS, 2).clone()
    mesh[list(INNER_LIPS)] = left + level @ along.T
    mesh[list(MOUTH_CORNERS)] = torch.stack([left, right])
    return mesh


def ramps(side: int) -> Tensor:
    """A picture `[1,3,S,S]` whose red and green tell where a pixel is."""
    axis = torch.arange(side) / side
    across, down = torch.meshgrid(axis, axis, indexing="xy")
    return torch.stack([across, down, across])[None]


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_corners_of_the_mouth_always_lie_at_the_same_places(scale: float, degrees: float) -> None:
    side = 400
    angle = torch.tensor(degrees).deg2rad()
    half = scale * MOUTH_WIDTH / 2 * torch.stack([angle.cos(), angle.sin()])
    middle = torch.tensor([201.0, 187.0])
    mesh = mouth_mesh(middle - half, middle + half)
    image, mask = cut(ramps(side), mesh)
    assert image.shape == (1, 3, HEIGHT, WIDTH)
    assert mask.shape == (1, 1, HEIGHT, WIDTH)
    centre = image[0, :2, HEIGHT // 2 - 1 : HEIGHT // 2 + 1, WIDTH // 2 - 1 : WIDTH // 2 + 1]
    found = centre.float().mean((1, 2)) / 255 * side
    torch.testing.assert_close(found, middle, atol=1.5, rtol=0)
    for sign in (-1, 1):
        column = WIDTH // 2 + sign * MOUTH_WIDTH // 2
        places = image[0, :2, HEIGHT // 2 - 1 : HEIGHT // 2 + 1, column - 1 : column + 1]
        found = places.float().mean((1, 2)) / 255 * side
        torch.testing.assert_close(found, middle + sign * half, atol=1.5, rtol=0)


def test_the_mask_is_what_lies_between_the_lips() -> None:
    mesh = mouth_mesh(torch.tensor([50.0, 90.0]), torch.tensor([110.0, 90.0]))
    _, mask = cut(ramps(160), mesh)
    inside = (mask > 127).float()
    area = np.pi / 4 * MOUTH_WIDTH * GAP * MOUTH_WIDTH
    assert inside.sum().item() == pytest.approx(area, rel=0.05)
    assert inside[0, 0, HEIGHT // 2, WIDTH // 2] == 1
    assert not inside[..., [0, -1], :].any()
    assert not inside[..., [0, -1]].any()


def test_closed_and_small_mouths_are_left_out() -> None:
    left, right = torch.tensor([50.0, 90.0]), torch.tensor([110.0, 90.0])
    assert cut(ramps(160), mouth_mesh(left, right, 0.1)) is not None
    assert cut(ramps(160), mouth_mesh(left, right, 0.08)) is None
    assert cut(ramps(160), mouth_mesh(left, left + torch.tensor([40.0, 0.0]))) is None


class Mesh:
    """Finds a mouth between the corners, open in any picture that is bright."""

    def find(self, images: Tensor, landmarks: Tensor) -> Tensor:
        gap = GAP if images.mean() > 0.1 else 0.0
        return torch.stack([mouth_mesh(*points[3:], gap) for points in landmarks])


class Detector:
    """Finds a face that fills the picture, unless that is white."""

    name = "fixed"

    def detect(self, photo: np.ndarray) -> list[Face]:
        if photo.min() == 255:
            return []
        five = TEMPLATE.numpy() * photo.shape[0]
        points = np.zeros((68, 2), np.float32)
        points[36:42], points[42:48], points[30], points[48], points[54] = five
        return [Face((0, 0, 9, 9), five, 1.0, landmarks68=points)]


def people_zip(path: Path, *greys: int) -> PeoplePhotos:
    person = next(str(n) for n in range(20) if split_of(str(n)) == "tuning")
    photos = [(person, "happy", np.full((128, 128, 3), grey, np.uint8)) for grey in greys]
    return PeoplePhotos(write_people(path, photos), "tuning")


def test_mouths_come_from_people_and_from_faces_in_folders_below(tmp_path: Path) -> None:
    faces = write_folder(tmp_path / "faces" / "below", 3, side=128)
    Image.new("RGB", (128, 128)).save(faces / "closed.png")
    people = people_zip(tmp_path / "people.zip", 200, 0, 255, 100)
    found = cut_mouths([tmp_path / "faces"], people, Detector(), Mesh(), TEMPLATE)
    assert len(found) == 5
    assert found.images.dtype == found.masks.dtype == torch.uint8
    assert found.images[0].unique().tolist() == [200]
    assert found.images[1].unique().tolist() == [100]
    assert found.images[2:].float().std((1, 2, 3)).min() > 1


def test_faces_that_cant_be_used(tmp_path: Path) -> None:
    people = people_zip(tmp_path / "people.zip", 0)
    faces = write_folder(tmp_path / "faces", 1, side=128)
    with pytest.raises(InvalidImageError, match=r"two open mouths at least, .+, got 1"):
        cut_mouths([faces], people, Detector(), Mesh(), TEMPLATE)
    Image.new("RGB", (128, 96)).save(faces / "wide.png")
    with pytest.raises(InvalidImageError, match="square pictures, got 128 x 96 px in wide"):
        cut_mouths([faces], people, Detector(), Mesh(), TEMPLATE)
    (faces / "a.png").write_bytes(b"no picture")
    with pytest.raises(InvalidImageError, match=r"can be read, got a\.png"):
        cut_mouths([faces], people, Detector(), Mesh(), TEMPLATE)


def test_some_mouths_are_kept_out() -> None:
    numbers = torch.arange(120, dtype=torch.uint8).view(-1, 1, 1, 1)
    training, validation = Mouths(numbers, numbers).split()
    assert validation.images.flatten().tolist() == [0, 50, 100]
    assert sorted([*training.images.flatten().tolist(), 0, 50, 100]) == list(range(120))


def varied(images: Tensor, masks: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    return vary(images, masks, torch.Generator().manual_seed(seed))


def test_mouths_vary_in_light_side_and_lips() -> None:
    image, mask = cut(ramps(160), mouth_mesh(torch.tensor([50.0, 90.0]), torch.tensor([110.0, 90])))
    images, masks = image.expand(40, -1, -1, -1) / 255, mask.expand(40, -1, -1, -1) / 255
    found, lips = varied(images, masks)
    assert 0 <= found.min() < found.max() <= 1
    assert set(lips.unique().tolist()) == {0.0, 1.0}
    mirrored = (found[:, 0].diff(dim=-1).mean((1, 2)) < 0).float().mean()
    assert 0.25 < mirrored < 0.75
    assert found.mean((1, 2, 3)).std() > 0.02
    sizes = {varied(images, masks, seed)[1][0].sum().item() for seed in range(12)}
    assert len(sizes) == 3
    assert min(sizes) == pytest.approx(masks[0].sum().item(), rel=0.05)
    again = varied(images, masks)
    assert torch.equal(found, again[0])
    assert torch.equal(lips, again[1])
