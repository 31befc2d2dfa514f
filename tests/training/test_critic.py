import copy
from types import SimpleNamespace

import torch
from torch import Tensor

from map_pipeline.training.critic import Critic, Realism, varied

CPU = torch.device("cpu")


def smooth(count: int, seed: int) -> Tensor:
    """Soft pictures: what stands for photos here."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def streaked(count: int, seed: int) -> Tensor:
    """The same kind of pictures with a grid on them."""
    lines = 0.15 * torch.sign(torch.sin(torch.arange(32) * 1.6))
    return (smooth(count, seed) + lines).clamp(0, 1)


def test_each_part_of_a_face_is_judged() -> None:
    assert Critic()(smooth(2, 0)).shape == (2, 1, 2, 2)


def test_the_critic_learns_to_tell_edits_from_photos() -> None:
    torch.manual_seed(0)
    realism = Realism(1.0, CPU)
    for seed in range(60):
        right = realism.learn(smooth(8, seed), streaked(8, 1000 + seed))
    assert right > 0.9
    with torch.no_grad():
        photo, edit = (realism.critic(part).mean() for part in (smooth(8, 5000), streaked(8, 5000)))
    assert photo > edit


def test_its_gradient_is_a_share_of_that_of_identity() -> None:
    torch.manual_seed(0)
    realism = Realism(0.5, CPU)
    residual = torch.zeros(4, 3, 32, 32, requires_grad=True)
    crop = smooth(4, 0) + residual
    identity = 1e-3 * (residual * torch.randn(4, 3, 32, 32)).sum()
    look = SimpleNamespace(residual=residual)
    look.values = {"realism": realism.objective.loss(SimpleNamespace(crop=crop), None)}
    weighed = realism.weigh(identity, look)
    lengths = [
        torch.autograd.grad(v, residual, retain_graph=True)[0].norm() for v in (weighed, identity)
    ]
    torch.testing.assert_close(lengths[0], 0.5 * lengths[1], rtol=1e-3, atol=0)


def test_variations_stay_pictures_and_differ() -> None:
    crops = smooth(4, 0)
    first, second = varied(crops), varied(crops)
    assert first.shape == crops.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert not torch.equal(first, second)
    assert (first - crops).abs().mean() < 0.3


def test_a_state_goes_on_where_it_was_taken() -> None:
    torch.manual_seed(0)
    one, other = Realism(1.0, CPU), Realism(1.0, CPU)
    one.learn(smooth(4, 0), streaked(4, 1))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for realism in (one, other):
        torch.manual_seed(1)
        realism.learn(smooth(4, 2), streaked(4, 3))
    mine, theirs = one.critic.state_dict(), other.critic.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
