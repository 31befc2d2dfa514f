"""Teeth and the dark of the mouth between lips that part, painted by a small diffusion network.

It sees the lips, and fills what lies between them. It works on a patch around the mouth that is
turned and scaled so that the corners of the mouth always lie at the same places.
"""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import polygon_mask, smooth
from map_pipeline.faces.align import apply_affine, invert_affine, similarity_transform, warp_affine

# Of the patch, px: its size, and the distance of the corners of the mouth.
WIDTH, HEIGHT, MOUTH_WIDTH = 72, 48, 54
PATCH = 2  # the network works on patches of so many pixels
STEPS = 4
SOFT_EDGE = 0.7  # standard deviation of the edge's blur, px of the patch
# What colours may scatter about a photo's tone, of 1: grey and sepia ones, also noisy scans, stay
# below 0.008, colour photos lie above 0.018.
TONED = 0.012
CORNERS, MIDDLE, INNER_MOUTH = (48, 54), (62, 66), slice(60, 68)  # of the 68 landmarks
OUTER_MOUTH = slice(48, 60)
# Teeth are lighter than lips and less red: how much the logarithm of red over green weighs beside
# that of the brightness, and by how much what lies between the lips must exceed them. Closed lips
# stay below 0.25, teeth lie above 0.35; of both the lightest fifth is compared.
REDNESS, TOOTHLIKE, LIGHTEST = 1.5, 0.28, 0.8
DARKEST = 0.01  # of 1, so that a logarithm stays finite


def noise_schedule() -> DDIMScheduler:
    """The schedule of training and painting."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def new_mouth_painter() -> UNet2DModel:
    """A network to be trained, see `training.mouth`; 3.5 M parameters."""
    return UNet2DModel(
        sample_size=(HEIGHT // PATCH, WIDTH // PATCH),
        in_channels=7 * PATCH**2,
        out_channels=3 * PATCH**2,
        layers_per_block=1,
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
    )


def patch_affine(corners: Tensor, middle: Tensor) -> Tensor:
    """Affine `[2,3]` from px of the patch to px of the picture.

    Args:
        corners: `[2,2]` px of the picture, the corners of the mouth.
        middle: `[2,2]` px, the middle of the inner upper and lower lip.
    """
    half = MOUTH_WIDTH / 2
    level = torch.tensor([[-half, 0.0], [half, 0.0]])
    affine = similarity_transform(level[None], corners[None])[0]
    centre = torch.cat([corners, middle]).mean(0)
    linear = affine[:, :2]
    own = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    return torch.cat([linear, (centre - linear @ own)[:, None]], 1)


def network_input(noisy: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """What the network sees, `[B,28,24,36]`: noise, the picture without its mouth, and the mask.

    Args:
        noisy: `[B,3,48,72]`; picture: the same, in [-1,1]; mask: `[B,1,48,72]`, 1 between the lips.
    """
    return F.pixel_unshuffle(torch.cat([noisy, picture * (1 - mask), 2 * mask - 1], 1), PATCH)


@torch.no_grad()
def fill(network: UNet2DModel, picture: Tensor, mask: Tensor, steps: int = STEPS) -> Tensor:
    """Patches `[B,3,48,72]` in [-1,1] whose mouths are painted; the same for the same input.

    Args:
        picture: `[B,3,48,72]` in [-1,1]; mask: `[B,1,48,72]`, 1 between the lips.
    """
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 3, HEIGHT, WIDTH, generator=source).to(picture).expand_as(picture)
    for timestep in schedule.timesteps:
        answer = network(network_input(latents, picture, mask).to(network.dtype), timestep).sample
        velocity = F.pixel_shuffle(answer.float(), PATCH)
        latents = schedule.step(velocity, timestep, latents).prev_sample
    return picture * (1 - mask) + latents.clamp(-1, 1) * mask


def in_tone(painted: Tensor, before: Tensor) -> Tensor:
    """A painted picture in the tone of a grey or toned one; as it is if that has colours.

    Args:
        painted: `[1,3,H,W]` in [0,1]; before: the same picture before, also `[1,3,H,W]`.
    """
    luma, wanted = to_grey(before.float()), to_grey(painted.float())
    line = lambda grey: torch.stack([grey.flatten(), torch.ones(grey.numel()).to(grey)], 1)  # noqa: E731
    colours = (before.float() - luma)[0].flatten(1).T  # [H*W,3]
    tone = torch.linalg.lstsq(line(luma), colours).solution  # [2,3]
    if float((colours - line(luma) @ tone).square().mean().sqrt()) > TONED:
        return painted
    return (wanted + (line(wanted) @ tone).T.view_as(painted)).clamp(0, 1)


def shows_teeth(image: Tensor, landmarks68: Tensor) -> bool:
    """Whether teeth are seen between the lips of a picture `[1,3,H,W]` in [0,1].

    Landmarks can't tell: on full lips they see a gap where there is none.

    Args:
        landmarks68: `[68,2]` px.
    """
    points = landmarks68.float().cpu()
    to_image = patch_affine(points[list(CORNERS)], points[list(MIDDLE)])
    patch = warp_affine(image.float(), to_image[None], (HEIGHT, WIDTH), "border")[0].cpu()
    in_patch = apply_affine(invert_affine(to_image), points)
    inside, mouth = (
        polygon_mask(in_patch[part], WIDTH)[0, 0, :HEIGHT] for part in (INNER_MOUTH, OUTER_MOUTH)
    )
    between = inside > 0.2
    lips = (mouth > 0.5) & ~between
    if not (between.any() and lips.any()):
        return False
    colours = patch.clamp(min=DARKEST).log()
    light = colours.mean(0) - REDNESS * (colours[0] - colours[1])
    return bool(light[between].quantile(LIGHTEST) - light[lips].quantile(LIGHTEST) > TOOTHLIKE)


def paint_mouth(network: UNet2DModel, image: Tensor, landmarks68: Tensor, opacity: float) -> Tensor:
    """The picture `[1,3,H,W]` in [0,1] with a mouth that is painted between the lips.

    Args:
        landmarks68: `[68,2]` px, where the lips are.
        opacity: of the painting, in [0,1].
    """
    if opacity == 0:
        return image
    points = landmarks68.float().cpu()
    to_image = patch_affine(points[list(CORNERS)], points[list(MIDDLE)])
    to_patch = invert_affine(to_image)
    patch = warp_affine(image.float(), to_image[None], (HEIGHT, WIDTH), "border")
    inside = polygon_mask(apply_affine(to_patch, points[INNER_MOUTH]), WIDTH)[..., :HEIGHT, :]
    mask = (inside > 0.5).to(patch)
    if not mask.any():
        return image
    painted = (fill(network, 2 * patch - 1, mask) + 1) / 2
    alpha = opacity * smooth(inside, SOFT_EDGE).to(patch)
    change = (painted - patch) * alpha
    size = (image.shape[-2], image.shape[-1])
    result = (image + warp_affine(change, to_patch[None], size, mode="bicubic")).clamp(0, 1)
    return in_tone(result, image)
