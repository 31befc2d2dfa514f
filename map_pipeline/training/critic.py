"""A critic beside the MAP network: it learns to tell edited faces from photos, and says so.

Structural similarity knows how much of a face was changed, not whether it still looks like a photo:
grey beside a nose or a streak on a cheek costs as little as a shadow that might be there. What a
photo looks like is learned instead, by an adversary (Goodfellow et al. 2014,
https://arxiv.org/abs/1406.2661) that judges overlapping parts of the face (Isola et al. 2017,
https://arxiv.org/abs/1611.07004) with the hinge loss and spectral normalisation (Miyato et al.
2018, https://arxiv.org/abs/1802.05957). It isn't part of the checkpoint.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from map_pipeline.identity.objectives import Objective, RefineState, RefineTarget
from map_pipeline.training.map_step import Look

CHANNELS = (48, 96, 192, 256)
SLOPE = 0.2  # of the leaky ReLU
# Variations of what the critic sees, so that it doesn't learn the training faces by heart.
MAX_SHIFT, MAX_SCALE, CONTRAST = 0.03, 0.03, 0.15
RATE, BETAS = 4e-4, (0.0, 0.9)
# The weight of its opinion is measured every so many updates, and its changes are smoothed.
MEASURED_EVERY, SMOOTHING, HEAVIEST = 8, 0.8, 100.0


class Critic(nn.Module):
    """Says of each part of aligned faces how much it looks like a photo."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        layers.append(spectral_norm(nn.Conv2d(CHANNELS[-1], 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, crops: Tensor) -> Tensor:
        """`[B,3,s,s]` in [0,1] -> `[B,1,s/16,s/16]`; above 0 is a photo."""
        return self.layers(crops * 2 - 1)


class Realism:
    """The critic, its own updates, and the weight of what it says to the network.

    Args:
        share: length of its gradient in the picture, relative to the identity gradient's, >= 0.
    """

    def __init__(self, share: float, device: torch.device) -> None:
        self.critic = Critic().to(device)
        self._optimizer = torch.optim.Adam(self.critic.parameters(), RATE, betas=BETAS)
        self._share = share
        self._weight = torch.zeros((), device=device)
        self._update = 0

    @property
    def objective(self) -> Objective:
        """The critic's opinion as a loss, not yet weighed."""
        return Objective("realism", "-", "prior", 1.0, self._opinion)

    def _opinion(self, state: RefineState, _target: RefineTarget) -> Tensor:
        return -self.critic(varied(state.crop)).mean()

    def weigh(self, identity: Tensor, look: Look) -> Tensor:
        """The opinion with its weight, a scalar.

        Args:
            identity: the weighted losses of identity, a scalar.
            look: what the critic was shown; the two gradients are compared at its residual.
        """
        opinion = look.values["realism"]
        if self._update % MEASURED_EVERY == 0:
            lengths = [_length(value, look.residual) for value in (identity, opinion)]
            weight = (self._share * lengths[0] / lengths[1].clamp(min=1e-8)).clamp(max=HEAVIEST)
            kept = SMOOTHING if self._update else 0.0
            self._weight = kept * self._weight + (1 - kept) * weight
        return self._weight * opinion

    def learn(self, photos: Tensor, edited: Tensor) -> Tensor:
        """One update of the critic; returns the share of faces that it classifies correctly.

        Args:
            photos, edited: `[B,3,s,s]` in [0,1].
        """
        self._update += 1
        with torch.enable_grad():
            real, fake = self.critic(varied(photos)), self.critic(varied(edited.detach()))
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        scores = torch.cat([real, -fake]).detach().mean((1, 2, 3))
        return (scores > 0).float().mean()

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoints."""
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "weight": self._weight,
            "update": self._update,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.critic.load_state_dict(state["critic"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._weight = state["weight"].to(self._weight)
        self._update = state["update"]


def _length(value: Tensor, at: Tensor) -> Tensor:
    """Length of a scalar's gradient."""
    [gradient] = torch.autograd.grad(
        value, at, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient.norm()


def varied(crops: Tensor) -> Tensor:
    """Crops `[B,3,s,s]`, each a little moved, scaled, brighter or darker, some mirrored.

    The resampling also hides that edited faces were resampled and photos weren't.
    """
    count, device = len(crops), crops.device
    draw = lambda reach: (2 * torch.rand(count, device=device) - 1) * reach  # noqa: E731
    mirrored = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    scale = 1 + draw(MAX_SCALE)
    zero = torch.zeros_like(scale)
    affine = torch.stack(
        [
            torch.stack([scale * mirrored, zero, draw(2 * MAX_SHIFT)], -1),
            torch.stack([zero, scale, draw(2 * MAX_SHIFT)], -1),
        ],
        1,
    )  # [B,2,3]
    grid = F.affine_grid(affine, list(crops.shape), align_corners=False)
    moved = F.grid_sample(
        crops.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    contrast, light = 1 + draw(CONTRAST)[:, None, None, None], draw(CONTRAST)[:, None, None, None]
    return ((moved - 0.5) * contrast + 0.5 + light / 2).clamp(0, 1)
