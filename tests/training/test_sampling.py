from dataclasses import replace

import pytest
import torch
from made_up import QUICK, faces

from map_pipeline.training.sampling import FaceSampler, as_batch, emotion_weights

CPU = torch.device("cpu")
SHARES = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.01])


def labelled() -> torch.Tensor:
    """100 faces, rare emotions among them."""
    counts = (SHARES * 100).round().long()
    return torch.eye(7).repeat_interleave(counts, 0)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_evens_out_how_often_emotions_are_drawn(balance: float) -> None:
    expected = SHARES ** (1 - balance)
    found = emotion_weights(labelled(), balance) @ labelled()
    torch.testing.assert_close(found, 100 * expected / expected.sum())


def test_mixed_opinions_count_in_part() -> None:
    emotions = labelled()
    emotions[0] = (emotions[0] + emotions[-1]) / 2
    weights = emotion_weights(emotions, 1.0)
    assert weights[1] < weights[0] < weights[-1]


def test_unknown_faces_are_drawn_as_often_as_the_others_on_average() -> None:
    emotions = torch.cat([labelled(), torch.zeros(50, 7)])
    weights = emotion_weights(emotions, 0.7)
    assert weights[100:].tolist() == [1.0] * 50
    torch.testing.assert_close(weights[:100], emotion_weights(labelled(), 0.7))
    assert weights.mean().item() == pytest.approx(1)
    assert torch.equal(emotion_weights(torch.zeros(4, 7), 0.7), torch.ones(4))


def test_draws_follow_the_weights() -> None:
    known = faces(100)
    known.emotions[:] = labelled()
    draw = FaceSampler(known, replace(QUICK, batch_size=7000, balance=1.0), CPU, 0)
    counts = draw().emotions.sum(0)
    assert counts.sum() == 7000
    torch.testing.assert_close(counts, torch.full((7,), 1000.0), atol=150, rtol=0)


def test_a_drawn_face_keeps_its_labels() -> None:
    known = faces()
    batch = FaceSampler(known, replace(QUICK, batch_size=100), CPU, 0)()
    everything = as_batch(known, CPU)
    for row in range(100):
        index = (everything.images == batch.images[row]).all(1).all(1).all(1).nonzero().item()
        for name in ("emotions", "landmarks68", "has_landmarks", "grey"):
            assert torch.equal(getattr(batch, name)[row], getattr(everything, name)[index])
    assert 0 <= batch.images.min() < batch.images.max() <= 1


def test_an_update_draws_the_same_whatever_came_before() -> None:
    first, second = (FaceSampler(faces(), QUICK, CPU, seed=3) for _ in range(2))
    other = FaceSampler(faces(), QUICK, CPU, seed=4)
    for _ in range(5):
        first()
    drawn = []
    for draw in (first, second, other):
        draw.seek(7)
        drawn.append((draw().images, torch.rand(4, generator=draw.generator)))
    for one, two in zip(drawn[0], drawn[1], strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(drawn[0][1], drawn[2][1])
    second.seek(8)
    second()
    assert not torch.equal(drawn[0][1], torch.rand(4, generator=second.generator))
