"""Open mouths to train on, cut out of aligned faces and of photos of people, and their variations.

A patch lies as `expression.mouth` paints it; its mask is 1 between the lips of the face mesh.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from map_pipeline.diffusion.conditioner import POINTS
from map_pipeline.errors import InvalidImageError
from map_pipeline.expression.drawing import polygon_mask
from map_pipeline.expression.mouth import HEIGHT, WIDTH, patch_affine
from map_pipeline.expression.people import PeoplePhotos
from map_pipeline.faces.align import affine_scale, apply_affine, invert_affine, warp_affine
from map_pipeline.faces.detect import FaceDetector
from map_pipeline.faces.mesh import INNER_LIPS, LIPS_MIDDLE, MOUTH_CORNERS, FaceMesh
from map_pipeline.images import to_tensor
from map_pipeline.training.expression_space import read_samples
from map_pipeline.training.faces import decode, is_picture, read_files

OPEN = 0.09  # least distance of the inner lips, of the mouth's width
# Picture px a patch px: below, there is no detail to learn; above, the picture is reduced first.
SMALLEST, LARGEST = 0.8, 1.6
VALIDATION = 50  # one mouth of so many is kept out


@dataclass(frozen=True, eq=False)
class Mouths:
    """Patches around open mouths.

    Attributes:
        images: `uint8 [N,3,48,72]`; masks: `uint8 [N,1,48,72]`, 255 between the lips.
    """

    images: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and masks of some mouths `[M]`, in [0,1]."""
        return self.images[indices].float() / 255, self.masks[indices].float() / 255

    def split(self) -> tuple["Mouths", "Mouths"]:
        """Mouths to train on and to validate with."""
        kept = torch.arange(len(self)) % VALIDATION == 0
        first, second = (Mouths(self.images[rows], self.masks[rows]) for rows in (~kept, kept))
        return first, second


def cut_mouths(
    faces: Sequence[Path],
    people: PeoplePhotos,
    detector: FaceDetector,
    mesh: FaceMesh,
    template: Tensor,
) -> Mouths:
    """The open mouths of aligned faces and of people's photos.

    Args:
        faces: zips or folders of faces, pictures in folders below too.
        template: `[5,2]`, where eyes, nose and mouth corners of `faces` lie, of the side.

    Raises:
        InvalidImageError: a picture can't be read or isn't square, or there are not two mouths.
    """
    samples = read_samples(people, detector, mesh)
    found = [cut(sample.region[None], sample.shape[POINTS:]) for sample in samples]
    for image, points in find_meshes(faces, mesh, template):
        found.append(cut(image, points))
    patches = [one for one in found if one is not None]
    if len(patches) < 2:
        raise InvalidImageError(
            "`faces` and `people` must show two open mouths at least, one to train on and one to "
            f"validate with, got {len(patches)}."
        )
    return Mouths(*(torch.cat(parts) for parts in zip(*patches, strict=True)))


def find_meshes(
    sources: Sequence[Path], mesh: FaceMesh, template: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Aligned faces `[1,3,S,S]` in [0,1] with their mesh `[468,2]` px."""
    files = (file for source in sources for file in read_files(source, is_picture, deep=True))
    for file in tqdm(files, unit="face"):
        image = to_tensor(decode(file))
        height, width = image.shape[-2:]
        if height != width:
            raise InvalidImageError(
                f"`faces` must hold square pictures, got {width} x {height} px in {file[0]}."
            )
        yield image, mesh.find(image, (template * width)[None])[0]


def cut(image: Tensor, mesh: Tensor) -> tuple[Tensor, Tensor] | None:
    """Patch and mask as in `Mouths`, N = 1; None if the mouth is closed or has too few pixels.

    Args:
        image: `[1,3,H,W]` in [0,1]; mesh: `[468,2]` px.
    """
    corners, middle = mesh[list(MOUTH_CORNERS)], mesh[list(LIPS_MIDDLE)]
    gap = (middle[1] - middle[0]).norm() / (corners[1] - corners[0]).norm()
    to_image = patch_affine(corners, middle)
    scale = float(affine_scale(to_image))
    if gap <= OPEN or scale <= SMALLEST:
        return None
    inside = polygon_mask(apply_affine(invert_affine(to_image), mesh[list(INNER_LIPS)]), WIDTH)
    if scale > LARGEST:
        factor = round(scale)
        image = F.avg_pool2d(image, factor)
        to_image = to_image / factor
        to_image[:, 2] += 0.5 / factor - 0.5
    patch = warp_affine(image, to_image[None], (HEIGHT, WIDTH), "border").clamp(0, 1)
    return (255 * patch).round().byte(), (255 * inside[..., :HEIGHT, :]).round().byte()


def vary(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mouths in other light and colours, mirrored, between lips that are found less exactly.

    Args:
        images: `[B,3,48,72]` in [0,1]; masks: `[B,1,48,72]` in [0,1].
        generator: on their device.

    Returns:
        the same; masks are 0 or 1.
    """
    count, device = len(images), images.device

    def normal(channels: int, deviation: float) -> Tensor:
        shape = (count, channels, 1, 1)
        return deviation * torch.randn(shape, generator=generator, device=device)

    def chance(share: float) -> Tensor:
        return torch.rand((count, 1, 1, 1), generator=generator, device=device) < share

    mirror = chance(0.5)
    images = torch.where(mirror, images.flip(-1), images)
    masks = torch.where(mirror, masks.flip(-1), masks)
    images = images.clamp(min=1e-3) ** normal(1, 0.25).exp()
    images = images * (normal(3, 0.06) + normal(1, 0.12)).exp()
    images = torch.where(chance(0.06), images.mean(1, keepdim=True), images)
    reach = int(torch.randint(3, (1,), generator=generator, device=device))
    masks = F.max_pool2d(masks, 2 * reach + 1, 1, reach)
    masks = F.avg_pool2d(F.pad(masks, [1, 1, 1, 1], mode="replicate"), 3, 1)
    return images.clamp(0, 1), (masks > 0.5).float()
