from dataclasses import replace

import pytest
import torch
from made_up import (
    QUICK,
    batch,
    score_model,
)
from torch import Tensor

from map_pipeline.diffusion.conditioner import Condition
from map_pipeline.diffusion.unet import patchify, predict_noise
from map_pipeline.training.augment import Batch
from map_pipeline.training.config import PriorConfig
from map_pipeline.training.prior import noise_loss
from map_pipeline.training.score_model import new_scheduler

ALPHAS = new_scheduler().alphas_cumprod


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Spy:
    """Answers with the true noise plus an error, and remembers what it was asked."""

    def __init__(self, config: PriorConfig, faces: Batch, error: float = 0.0) -> None:
        self.clean = patchify(faces.images, config.patch)
        self.error = error
        self.asked: list[tuple[Tensor, Condition, Tensor]] = []

    def __call__(self, latents: Tensor, level: Tensor, given: Condition, keep: Tensor) -> Tensor:
        self.asked.append((level, given, keep))
        alpha = ALPHAS.double()[level].view(-1, 1, 1, 1)
        noise = (latents - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return noise + self.error


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_an_oracle_has_no_loss(patch: int) -> None:
    config, known = replace(QUICK, patch=patch), batch()
    loss = noise_loss(Spy(config, known), ALPHAS, known, config, generator())
    assert loss.item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("min_snr", [5.0, 1.0])
def test_a_known_error_is_weighted_by_min_snr(min_snr: float) -> None:
    config, known = replace(QUICK, min_snr=min_snr), batch()
    spy = Spy(config, known, error=0.3)
    loss = noise_loss(spy, ALPHAS, known, config, generator())
    alpha = ALPHAS[spy.asked[0][0]]
    snr = alpha / (1 - alpha)
    weight = torch.minimum(snr, torch.tensor(min_snr)) / snr
    assert weight.min() < 0.5 < weight.max()
    assert loss.item() == pytest.approx(0.09 * weight.mean().item(), rel=1e-3)


def test_levels_come_from_the_asked_range() -> None:
    known = batch()
    for levels, expected in ((1, {0}), (3, {0, 1, 2})):
        config = replace(QUICK, levels=levels)
        spy = Spy(config, known)
        for seed in range(5):
            noise_loss(spy, ALPHAS, known, config, generator(seed))
        assert set(torch.cat([level for level, _, _ in spy.asked]).tolist()) == expected


@pytest.mark.parametrize("setting", ["drop_emotion", "drop_shape", "drop_all"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_parts_of_the_condition_are_left_out_at_random(setting: str, share: float) -> None:
    nothing = {"drop_emotion": 0.0, "drop_shape": 0.0, "drop_all": 0.0}
    config, known = replace(QUICK, **nothing | {setting: share}), batch(1000, 8)
    spy = Spy(config, known)
    noise_loss(spy, ALPHAS, known, config, generator())
    [(_, given, keep)] = spy.asked
    emotional, shaped = known.emotions.sum(1) > 0, known.has_landmarks
    kept = {
        "drop_emotion": given.emotion.sum(1)[emotional].mean(),
        "drop_shape": given.has_shape[shaped].mean(),
        "drop_all": keep.mean(),
    }
    for name, value in kept.items():
        expected = 1 - share if name == setting else 1
        assert value.item() == pytest.approx(expected, abs=0.05 if 0 < share < 1 else 1e-6)
    # What is given is true, and what is unknown stays so.
    assert torch.equal(given.shape, known.landmarks68)
    assert torch.equal(given.grey, known.grey.float())
    assert not given.emotion[~emotional].any()
    assert not given.has_shape[~shaped].any()
    rest = given.emotion.sum(1) > 0
    assert torch.equal(given.emotion[rest], known.emotions[rest])


@torch.no_grad()
def test_nothing_kept_is_the_unconditional_answer() -> None:
    model, known = score_model(), batch(3)
    latents, level = torch.randn(3, 48, 8, 8), torch.tensor([5, 100, 600])
    plain = predict_noise(model.unet, latents, level)
    full = predict_noise(model.unet, latents, level, model.conditioner(known.condition))
    mixed = model(latents, level, known.condition, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(mixed, torch.stack([plain[0], full[1], plain[2]]))
    assert not torch.equal(plain[1], full[1])
