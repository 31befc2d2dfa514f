import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from made_up import forget_accelerate
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.mouth import (
    HEIGHT,
    PATCH,
    WIDTH,
    fill,
    new_mouth_painter,
    noise_schedule,
)
from map_pipeline.training import mouth
from map_pipeline.training.config import MouthConfig
from map_pipeline.training.mouth import train_mouth, velocity_loss
from map_pipeline.training.mouth_patches import Mouths
from map_pipeline.training.run_state import Progress

pytestmark = pytest.mark.usefixtures("accelerate_anew")

QUICK = MouthConfig(
    batch_size=4, warmup=0, minutes=1e6, updates=6, report_every=2, mixed_precision="no"
)


def tiny_painter() -> UNet2DModel:
    return UNet2DModel(
        sample_size=(HEIGHT // PATCH, WIDTH // PATCH),
        in_channels=28,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mouth, "new_mouth_painter", tiny_painter)


def mouths(count: int = 12) -> Mouths:
    """Bright ellipses on skin that is darker for every mouth."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    inside = ((rows - 24) / 12) ** 2 + ((columns - 36) / 26) ** 2 < 1
    skin = torch.linspace(0.3, 0.7, count).view(-1, 1, 1, 1)
    images = torch.where(inside, 0.9, skin).expand(-1, 3, -1, -1)
    masks = inside.expand(count, 1, -1, -1)
    return Mouths((255 * images).byte(), 255 * masks.byte())


def run(out: Path, go_on: bool = False, **settings: object) -> tuple[list[str], float]:
    """Train as a new process would; what was said, and the last loss."""
    forget_accelerate()
    said: list[str] = []
    score = train_mouth(replace(QUICK, **settings), mouths(), out, go_on, said.append)
    return said, score


def weights(out: Path) -> dict[str, Tensor]:
    return UNet2DModel.from_pretrained(out / "mouth_painter").state_dict()


class Oracle:
    """Answers with the true velocity plus an error between the lips or outside."""

    def __init__(self, clean: Tensor, error: Tensor) -> None:
        self.clean, self.error = clean, error

    def __call__(self, given: Tensor, level: Tensor) -> SimpleNamespace:
        noisy = F.pixel_shuffle(given, PATCH)[:, :3]
        alpha = noise_schedule().alphas_cumprod[level].view(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean
        return SimpleNamespace(sample=F.pixel_unshuffle(velocity + self.error, PATCH))


def test_errors_count_between_the_lips() -> None:
    images, masks = mouths().select(torch.arange(12))

    def loss(error: Tensor) -> float:
        oracle = Oracle(2 * images - 1, error)
        level = torch.arange(100, 1000, 75)
        generator = torch.Generator().manual_seed(0)
        return velocity_loss(oracle, noise_schedule(), images, masks, generator, level).item()

    assert loss(torch.zeros(())) == pytest.approx(0, abs=1e-6)
    assert loss(torch.full((), 0.3)) == pytest.approx(0.09, rel=1e-3)
    share = masks.mean().item()
    ratio = loss(0.3 * masks) / loss(0.3 * (1 - masks))
    assert ratio == pytest.approx(21 * share / (1 - share), rel=1e-3)


def test_a_new_network_fits_the_patches() -> None:
    images, masks = mouths().select(torch.arange(1))
    network = new_mouth_painter().eval()
    assert fill(network, 2 * images - 1, masks, steps=1).shape == images.shape
    assert 3.4 < network.num_parameters() / 1e6 < 3.6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], float]:
    """Folder, lines and loss of a run that nobody stopped; don't change it."""
    out = tmp_path_factory.mktemp("mouth") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mouth, "new_mouth_painter", tiny_painter)
        return out, *run(out)


def test_a_run_leaves_what_is_needed(finished: tuple[Path, list[str], float]) -> None:
    out, said, score = finished
    names = {path.name for path in out.iterdir()}
    assert names == {"mouth_painter", "state", "mouths.png", "training.json"}
    summary = json.loads((out / "training.json").read_text())
    assert (summary["updates"], summary["mouths"], summary["validation_loss"]) == (6, 11, score)
    assert MouthConfig(**summary["config"]) == QUICK
    [file] = (out / "mouth_painter").glob("*.safetensors")
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}
    with Image.open(out / "mouths.png") as picture:
        assert picture.width > 3 * WIDTH
        assert picture.height > HEIGHT
    assert [line.split(",")[0] for line in said] == ["update 2", "update 4", "update 6"]
    assert f"validation loss {score:.4f}" in said[-1]


class Stop(Exception):
    pass


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    finished: tuple[Path, list[str], float], tmp_path: Path
) -> None:
    """The update since the last report is done again."""
    advance = Progress.advance

    def stop(progress: Progress) -> None:
        advance(progress)
        if progress.update == 3:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", stop)
        with pytest.raises(Stop):
            run(tmp_path)
    torch.manual_seed(1234)  # the global generator has no say
    said, score = run(tmp_path, go_on=True)
    assert said[0] == "resumed at update 2"
    assert score == finished[2]
    expected = weights(finished[0])
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())


def test_training_helps(tmp_path: Path) -> None:
    _, before = run(tmp_path / "a", updates=1)
    longer = {"updates": 20, "report_every": 20, "learning_rate": 1e-2, "ema_decay": 0.5}
    _, after = run(tmp_path / "b", **longer)
    assert after < 0.7 * before


def test_runs_are_neither_replaced_nor_made_up(
    finished: tuple[Path, list[str], float], tmp_path: Path
) -> None:
    before = (finished[0] / "training.json").read_bytes()
    with pytest.raises(UnknownOptionError, match=r"`out` must be new, got .+ --resume goes on"):
        run(finished[0])
    assert (finished[0] / "training.json").read_bytes() == before
    with pytest.raises(UnknownOptionError, match="`out` must hold the state of a run to resume"):
        run(tmp_path, go_on=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ("batch_size updates report_every", 0),
        ("learning_rate minutes", 0.0),
        ("learning_rate", float("nan")),
        ("warmup seed", -1),
        ("weight_decay", -0.1),
        ("cooldown", 1.5),
        ("ema_decay", 1.0),
        ("mixed_precision", "fp16"),
    ],
)
def test_settings_out_of_range(names: str, value: object) -> None:
    for name in names.split():
        with pytest.raises(UnknownOptionError, match=rf"^`{name}` must be [^\n]+, got [^\n]+\.$"):
            replace(QUICK, **{name: value})
