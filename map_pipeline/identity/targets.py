"""Target identities: the bundled synthetic composites, and the choice among them.

A composite is the landmark-aligned average of several faces, made by
`map-protect train composites`; it shows nobody real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor

from map_pipeline.errors import UnknownOptionError
from map_pipeline.identity.recognisers import FaceRecogniser
from map_pipeline.images import to_pil


@dataclass(frozen=True)
class Target:
    """A target identity.

    Attributes:
        name: of a composite, or "own image".
        embeddings: recogniser name -> embedding `[1,D]`.
        notes: what is odd about a user's own picture, a phrase each.
    """

    name: str
    embeddings: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class TargetBank(ModelMixin, ConfigMixin):
    """Pictures, names and embeddings of the built-in targets, saved like any other component.

    Args:
        names: unique short names, e.g. "woman-young-light".
        descriptions: what a user reads under the picture, same order.
        image_size: side of the pictures, px.
        embedding_dims: recogniser name -> length of its embedding.

    Buffers:
        images: `uint8 [N,3,S,S]` RGB, aligned to the checkpoint's template.
        embedding_<recogniser>: `[N,D]`, L2-normalised.
    """

    __module__ = "map_pipeline"  # what a saved model_index.json names, wherever this file moves

    @register_to_config
    def __init__(
        self,
        names: Sequence[str],
        descriptions: Sequence[str],
        image_size: int,
        embedding_dims: Mapping[str, int],
    ) -> None:
        super().__init__()
        if len(names) != len(descriptions) or len(set(names)) != len(names):
            raise ValueError(f"`names` must be unique and have one description each, got {names}.")
        shape = (len(names), 3, image_size, image_size)
        self.register_buffer("images", torch.zeros(shape, dtype=torch.uint8))
        for recogniser, dim in embedding_dims.items():
            self.register_buffer(f"embedding_{recogniser}", torch.zeros(len(names), dim))

    @property
    def names(self) -> list[str]:
        """Names in gallery order."""
        return list(self.config.names)

    def index(self, name: str) -> int:
        """Position of `name`.

        Raises:
            UnknownOptionError: there is no such target.
        """
        if name not in self.names:
            raise UnknownOptionError(
                f"`target` must be 'auto', an image or one of {', '.join(self.names)}; "
                f"got {name!r}."
            )
        return self.names.index(name)

    def picture(self, name: str) -> Image.Image:
        """The composite as a PIL image, already aligned."""
        return to_pil(self.images[self.index(name)].permute(1, 2, 0).cpu().numpy())

    def embeddings(self, recogniser: str) -> Tensor | None:
        """`[N,D]` as stored for a recogniser, or None if it was unknown when the bank was made."""
        return getattr(self, f"embedding_{recogniser}", None)

    def embed_with(
        self, recogniser: str, net: FaceRecogniser, template: Tensor, device: torch.device
    ) -> Tensor:
        """`[N,D]` of a recogniser: as stored, or computed for one added later.

        Args:
            recogniser: its name.
            template: `[5,2]`, where the pictures have eyes, nose and mouth corners, in units of
                their side.
        """
        stored = self.embeddings(recogniser)
        if stored is not None:
            return stored.to(device).float()
        images = self.images.to(device).float() / 255  # [N,3,S,S]
        landmarks = (template[None] * self.config.image_size).expand(len(images), -1, -1)
        return net(images, landmarks.to(images)).float()


def choose_target(
    source: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    thresholds: Mapping[str, float],
    ranker: str,
) -> int:
    """Index of the target that resembles the source most without being matched to it.

    A composite of people of the same age, gender and skin tone lies nearest in a good recogniser's
    embedding, so its similarity stands for all three. Whoever already counts as the same person by
    any recogniser is left out, unless that leaves nobody.

    Args:
        source: recogniser name -> `[1,D]` of the face to protect.
        targets: recogniser name -> `[N,D]`.
        thresholds: recogniser name -> cosine similarity that counts as a match; only these
            recognisers can leave a target out.
        ranker: name of the recogniser whose similarity decides among the rest.
    """
    similarity = (targets[ranker] @ source[ranker][0]).float()  # [N]
    if not thresholds:
        return int(similarity.argmax())
    excess = torch.stack(
        [(targets[name] @ source[name][0]).float() - limit for name, limit in thresholds.items()]
    )  # [R,N]
    matched = (excess >= 0).any(0)
    if matched.all():
        return int(excess.max(0).values.argmin())
    return int(similarity.masked_fill(matched, -torch.inf).argmax())
