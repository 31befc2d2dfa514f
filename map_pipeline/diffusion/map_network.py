"""The MAP network: what fine-tuning on many faces changes in the prior, given face and target.

`map-protect train map` fine-tunes the score network's deep layers once. The change is kept as
matrices of low rank (LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685), for two reasons: the
prior stays what it is, bit for bit, for inversion; and a network takes 2 to 3 MB.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Self, cast

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils import parametrize

from map_pipeline.diffusion.conditioner import embedding_width, mlp
from map_pipeline.diffusion.unet import deep_layers
from map_pipeline.errors import CheckpointError

MARGIN_UNIT = 2.0  # scales margins to about 1


class MAPNetwork(ModelMixin, ConfigMixin):
    """A change of a score network's deep layers, and an encoder of the face and its target.

    Args:
        layers: name of a layer of the U-Net -> (outputs, inputs times kernel area) of its weight.
        target_dims: recogniser name -> length of its embedding. These recognisers were looked at in
            training, so none of them can judge the network.
        width: of the vector that conditions the U-Net, see `embedding_width`.
        rank: of the change of each layer, >= 1.
        hidden: width of the hidden layers.
        families: of all recognisers that taught it, beside those of `target_dims`.
        motion_count: K, how many motions of the features it decides on; see `expression.motion`.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(
        self,
        layers: Mapping[str, Sequence[int]],
        target_dims: Mapping[str, int],
        width: int,
        rank: int = 16,
        hidden: int = 128,
        families: Sequence[str] = (),  # noqa: ARG002 (diffusers registers it)
        motion_count: int = 0,
    ) -> None:
        super().__init__()
        shapes = [layers[name] for name in sorted(layers)]
        self.down = nn.ParameterList([torch.randn(rank, n) / sqrt(n) for _, n in shapes])
        self.up = nn.ParameterList([torch.zeros(n, rank) for n, _ in shapes])
        self.source_in, self.target_in = (
            nn.ModuleDict({k: nn.Linear(n, hidden, bias=False) for k, n in target_dims.items()})
            for _ in range(2)
        )
        self.margin_in = nn.Linear(1, hidden, bias=False)
        self.condition_out = mlp(hidden, hidden, width)
        self.motion_out = mlp(hidden, hidden, motion_count) if motion_count else None
        for head in (self.condition_out, self.motion_out):
            for parameter in head[-1].parameters() if head else ():
                nn.init.zeros_(parameter)

    @classmethod
    def for_unet(
        cls,
        unet: UNet2DModel,
        target_dims: Mapping[str, int],
        rank: int = 16,
        hidden: int = 128,
        families: Sequence[str] = (),
        motion_count: int = 0,
    ) -> Self:
        """A network that changes nothing yet."""
        layers = {
            name: [layer.weight.shape[0], layer.weight[0].numel()]
            for name, layer in deep_layers(unet).items()
        }
        width = embedding_width(unet)
        return cls(layers, dict(target_dims), width, rank, hidden, list(families), motion_count)

    @property
    def surrogates(self) -> list[str]:
        """Names of the recognisers it was trained on."""
        return list(self.config.target_dims)

    def encode(
        self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor], margin: float | Tensor
    ) -> Tensor:
        """`[B,width]` to be added to what `FaceConditioner` says of the faces.

        Args:
            sources: recogniser name -> L2-normalised embedding `[B,D]` of the unprotected face, for
                all of `surrogates`; others are ignored.
            targets: the same of the target; empty for none.
            margin: how sure the protection shall be, see `MAPConfig.margin`; one for all or `[B]`.
        """
        return self.condition_out(self._describe(sources, targets, margin))

    def motion(
        self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor], margin: float | Tensor
    ) -> Tensor:
        """`[B,K]` in the units of `expression.motion.FaceMotions`; arguments as for `encode`."""
        described = self._describe(sources, targets, margin)
        return described[:, :0] if self.motion_out is None else self.motion_out(described)

    def _describe(
        self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor], margin: float | Tensor
    ) -> Tensor:
        """Face, target and margin as one vector each `[B,hidden]`."""
        parts = []
        for layers, embeddings in ((self.source_in, sources), (self.target_in, targets)):
            for name, layer in layers.items() if embeddings else ():
                # A unit vector of D numbers, scaled so that each is about 1.
                scale = sqrt(self.config.target_dims[name])
                parts.append(layer(embeddings[name].to(self.dtype) * scale))
        described = torch.stack(parts).sum(0) / len(self.source_in)
        margins = torch.as_tensor(margin).to(described).expand(len(described))
        return described + self.margin_in(margins[:, None] / MARGIN_UNIT)

    @torch.no_grad()
    def start_from(self, other: Self) -> None:
        """Take over the weights of a network; motions that it doesn't know start at 0.

        Raises:
            CheckpointError: it has other layers, recognisers or sizes.
        """
        own, theirs = self.state_dict(), other.state_dict()
        known = other.config.motion_count
        for name in own.keys() | theirs.keys():
            mine, taken = own.get(name), theirs.get(name)
            if name in ("motion_out.2.weight", "motion_out.2.bias") and mine is not None:
                mine = mine[:known]
            if mine is None or taken is None or mine.shape != taken.shape:
                shapes = (list(v.shape) if v is not None else "none" for v in (mine, taken))
                raise CheckpointError(
                    f"`start` must have {name} of {next(shapes)}, got {next(shapes)}."
                )
            mine.copy_(taken)

    def attach(self, unet: UNet2DModel) -> None:
        """Let `unet` compute with the change, and gradients reach it; the base stays frozen.

        Raises:
            CheckpointError: it was trained for a U-Net of other layers; so does `merge_into`.
        """
        unet.requires_grad_(False)
        for layer, down, up in self._changes(unet):
            parametrize.register_parametrization(layer, "weight", LowRankChange(down, up))

    @torch.no_grad()
    def merge_into(self, unet: UNet2DModel) -> None:
        """Add the change to the weights of `unet` for good."""
        for layer, down, up in self._changes(unet):
            weight = cast(Tensor, layer.weight)
            weight += (up @ down).view_as(weight).to(weight)

    def _changes(self, unet: UNet2DModel) -> Iterator[tuple[nn.Module, nn.Parameter, nn.Parameter]]:
        modules = dict(unet.named_modules())
        names = sorted(self.config.layers)  # JSON doesn't keep their order
        for name, down, up in zip(names, self.down, self.up, strict=True):
            weight = getattr(modules.get(name), "weight", None)
            if weight is None or weight.flatten(1).shape != (len(up), down.shape[1]):
                raise CheckpointError(
                    f"`map_network` must be trained for this U-Net: it changes {name} by "
                    f"{len(up)} x {down.shape[1]} numbers, got "
                    f"{'no such layer' if weight is None else list(weight.shape)}."
                )
            yield modules[name], down, up


class LowRankChange(nn.Module):
    """Adds `up @ down` to a weight; see `torch.nn.utils.parametrize`."""

    def __init__(self, down: nn.Parameter, up: nn.Parameter) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + (self.up @ self.down).view_as(weight)
