from pathlib import Path

import pytest
import torch
from conftest import tiny_recogniser
from made_up import write_folder
from PIL import Image

from map_pipeline.errors import MAPError, NoFaceError
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.identity.targets import TargetBank
from map_pipeline.training.bank import (
    build_bank,
    embed_composites,
    embed_strangers,
    impostor_rates,
    save_bank,
)
from map_pipeline.training.candidates import GROUPS, SIZE
from map_pipeline.training.composites import Composite


@pytest.fixture
def composites() -> list[Composite]:
    pictures = (torch.rand(2, 3, SIZE, SIZE) * 255).round() / 255
    return [Composite(GROUPS[i], pictures[i], tuple("abcdefgh"), {}) for i in range(2)]


def test_the_bank_holds_pictures_and_their_embeddings(
    composites: list[Composite], tmp_path: Path
) -> None:
    recognisers = {name: tiny_recogniser(name) for name in ("one", "two")}
    save_bank(tmp_path, composites, recognisers)
    bank = TargetBank.from_pretrained(tmp_path)
    assert bank.names == [group.name for group in GROUPS[:2]]
    assert bank.config.descriptions[0].startswith("Composite of 8 young women")
    pictures = torch.stack([one.picture for one in composites])
    torch.testing.assert_close(bank.images.float() / 255, pictures)
    for name, recogniser in recognisers.items():
        expected = embed_composites(pictures, recogniser)
        torch.testing.assert_close(bank.embeddings(name), expected)


def test_strangers_that_match_are_counted(composites: list[Composite]) -> None:
    recogniser = tiny_recogniser("one")
    pictures = torch.stack([one.picture for one in composites])
    own = embed_composites(pictures[:1], recogniser)
    strangers = {"one": torch.cat([own, own, -own, -own])}
    rates = impostor_rates(pictures[:1], strangers, {"one": recogniser})
    assert rates["one"].tolist() == [0.5]


def test_strangers_without_a_face(tmp_path: Path) -> None:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    Image.new("RGB", (64, 64), "grey").save(strangers / "wall.png")
    with pytest.raises(NoFaceError, match=r"`impostors` must show faces, got none in .*strangers"):
        embed_strangers(strangers, BundledDetector(), {"one": tiny_recogniser("one")})


def test_nothing_is_written_without_a_composite(tmp_path: Path, tiny_checkpoint: Path) -> None:
    faces, said = write_folder(tmp_path / "faces", 3), []
    with pytest.raises(MAPError, match="No composite passed"):
        build_bank(faces, tmp_path / "out", tiny_checkpoint, say=said.append)
    assert len(said) == len(GROUPS)
    assert all("0 candidates: too few" in line for line in said)
    assert not (tmp_path / "out").exists()


def test_the_recognisers_of_the_checkpoint_look_for_strangers(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    faces, strangers = write_folder(tmp_path / "faces", 3), tmp_path / "strangers"
    strangers.mkdir()
    Image.new("RGB", (64, 64), "grey").save(strangers / "wall.png")
    with pytest.raises(NoFaceError, match="`impostors` must show faces"):
        build_bank(faces, tmp_path / "out", tiny_checkpoint, strangers)
