import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from map_pipeline.errors import UnknownOptionError
from map_pipeline.faces.align import (
    apply_affine,
    arcface_template,
    similarity_transform,
    square_corners,
)
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.hub import bundled_checkpoint
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.identity.targets import TargetBank, choose_target

RECOGNISERS = ["dlib_resnet", "mobilefacenet", "faceres", "sface", "mobileface"]
ENLARGEMENT = 3
PADDING = 60  # px of the enlarged picture
MAX_REALIGNMENT = 3.0  # px at the corners of the composite


@pytest.fixture(scope="module")
def bank() -> TargetBank:
    return TargetBank.from_pretrained(bundled_checkpoint() / "targets", dtype=torch.float32)


def test_bundled_bank_offers_everybody_a_target(bank: TargetBank) -> None:
    assert len(bank.names) >= 8
    assert len(set(bank.names)) == len(bank.names) == len(bank.config.descriptions)
    parts = [name.split("-") for name in bank.names]
    assert {part[0] for part in parts} == {"woman", "man"}
    assert {part[1] for part in parts} == {"young", "older"}
    assert {part[2] for part in parts} == {"light", "medium", "tan", "dark"}
    for description in bank.config.descriptions:
        assert description.startswith("Composite of ")


def test_pictures_are_colour_photos_of_the_stated_size(bank: TargetBank) -> None:
    size = bank.config.image_size
    assert bank.images.shape == (len(bank.names), 3, size, size)
    assert bank.images.dtype == torch.uint8
    grey_spread = bank.images.float().mean(1).flatten(1).std(1)
    assert (grey_spread > 15).all()
    inner = bank.images[:, :, size // 3 : size * 3 // 4, size // 3 : size * 2 // 3].float()
    red, _, blue = inner.mean((2, 3)).unbind(1)
    assert (red > blue + 10).all()  # skin


def test_picture_is_the_named_one(bank: TargetBank) -> None:
    name = bank.names[-1]
    picture = bank.picture(name)
    assert isinstance(picture, Image.Image)
    expected = bank.images[-1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_unknown_name_is_explained(bank: TargetBank) -> None:
    with pytest.raises(UnknownOptionError, match=r"`target` must be 'auto', .*got 'nobody'"):
        bank.index("nobody")


@pytest.mark.slow
@pytest.mark.parametrize("recogniser", RECOGNISERS)
def test_stored_embeddings_are_those_of_the_pictures(bank: TargetBank, recogniser: str) -> None:
    net = FaceRecogniser.from_pretrained(
        bundled_checkpoint() / "recognisers" / recogniser, dtype=torch.float32
    )
    template = arcface_template(bank.config.image_size, 0.06).expand(len(bank.names), -1, -1)
    with torch.no_grad():
        computed = net.eval()(bank.images.float() / 255, template)
    stored = bank.embeddings(recogniser)
    assert stored is not None
    assert F.cosine_similarity(stored, computed).min() > 0.999
    torch.testing.assert_close(stored.norm(dim=1), torch.ones(len(bank.names)))


def test_embeddings_of_a_later_recogniser_are_not_stored(bank: TargetBank) -> None:
    assert bank.embeddings("arcface") is None


@pytest.mark.slow
def test_composites_are_aligned_to_the_template(bank: TargetBank) -> None:
    detector = BundledDetector()
    size = bank.config.image_size
    template = arcface_template(size, 0.06)
    corners = square_corners((size / 2, size / 2), size / 2)
    for name in bank.names:
        picture = bank.picture(name)
        side = size * ENLARGEMENT
        enlarged = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        photo = np.pad(enlarged, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="edge")
        faces = detector.detect(photo)
        assert len(faces) == 1, name
        found = torch.from_numpy((faces[0].landmarks - PADDING + 0.5) / ENLARGEMENT - 0.5)
        # Single points differ from the template by the proportions of the face ...
        assert (found - template).abs().max() < 6, name
        # ... but aligning the picture anew would hardly move it.
        moved = apply_affine(similarity_transform(found[None], template), corners)[0] - corners
        assert moved.norm(dim=1).max() < MAX_REALIGNMENT, name


def test_saving_keeps_pictures_and_embeddings(tmp_path, bank: TargetBank) -> None:  # noqa: ANN001
    bank.save_pretrained(tmp_path)
    again = TargetBank.from_pretrained(tmp_path)
    assert again.names == bank.names
    assert again.images.dtype == torch.uint8
    assert torch.equal(again.images, bank.images)
    assert torch.equal(again.embeddings("faceres"), bank.embeddings("faceres"))


def test_names_must_be_unique() -> None:
    with pytest.raises(ValueError, match="`names` must be unique"):
        TargetBank(names=["a", "a"], descriptions=["x", "y"], image_size=8, embedding_dims={})


def at_cosines(*cosines: float) -> torch.Tensor:
    """Unit embeddings `[N,2]` at these cosines to (1, 0)."""
    x = torch.tensor(cosines)
    return torch.stack([x, (1 - x.square()).sqrt()], 1)


SOURCE = torch.tensor([[1.0, 0.0]])


def choose(targets: dict[str, torch.Tensor], threshold: float = 0.5) -> int:
    sources = dict.fromkeys(targets, SOURCE)
    return choose_target(sources, targets, dict.fromkeys(targets, threshold), ranker="one")


def test_the_most_similar_target_is_chosen() -> None:
    assert choose({"one": at_cosines(0.1, 0.4, 0.2)}) == 1


def test_a_target_matched_by_any_recogniser_is_left_out() -> None:
    targets = {"one": at_cosines(0.1, 0.9, 0.3), "two": at_cosines(0.0, 0.4, 0.2)}
    assert choose(targets) == 2


def test_the_ranker_decides_among_the_rest() -> None:
    targets = {"one": at_cosines(0.3, 0.2, 0.1), "two": at_cosines(0.0, 0.4, 0.45)}
    assert choose(targets) == 0


def test_recognisers_without_threshold_leave_nobody_out() -> None:
    targets = {"one": at_cosines(0.1, 0.9)}
    assert choose_target({"one": SOURCE}, targets, {}, ranker="one") == 1


def test_one_target_is_taken_even_if_it_matches() -> None:
    assert choose({"one": at_cosines(0.9)}) == 0


def test_if_all_match_the_least_matched_is_taken() -> None:
    assert choose({"one": at_cosines(0.9, 0.6, 0.8)}) == 1
