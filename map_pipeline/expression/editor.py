"""An expression that people can see: features are moved by a warp, the rest is painted by a prior.

1. The landmarks' displacement from the person's present expression to the asked one deforms the
   photo at its own resolution (`expression.warp`).
2. The score network, conditioned on emotion and landmarks, repaints the deformed crop where a warp
   has nothing to show: teeth, the dark of an open mouth, folds, lids. Only the difference between
   two generations - asked and plain - is used, so that the network's blur stays out of the photo.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image, ImageDraw
from torch import Tensor

from map_pipeline.config import EMOTIONS
from map_pipeline.diffusion.conditioner import Condition, FaceConditioner, is_grey
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.unet import patch_size, patchify, unpatchify
from map_pipeline.expression.classifiers import GREY_WEIGHTS, to_grey
from map_pipeline.expression.shapes import ExpressionShapes, lip_gap
from map_pipeline.expression.warp import deform_crop, deform_photo, displacement, join_flows
from map_pipeline.faces.align import Alignment
from map_pipeline.faces.paste import paste_residual

MOUTH, INNER_MOUTH = slice(48, 60), slice(60, 68)
EYES = (slice(36, 42), slice(42, 48))
POLYGON_SCALE = 4  # polygons are drawn this many times larger
OPENING = 0.03  # share of the side that lips part until the mouth between them is all dark
# Colour of a mouth's inside in a picture of this mean brightness, RGB in [0,1].
MOUTH_COLOUR, MEAN_BRIGHTNESS = (0.20, 0.09, 0.08), 0.45
FOREHEAD = 0.8  # see `_face_outline`
REDDEST = 0.98  # quantile of a crop's redness that counts as its reddest
WHITE_TINT = 0.3  # how far teeth and the whites of eyes go from grey to the mean colour of the crop


@dataclass(frozen=True)
class EditSettings:
    """How an expression is painted; chosen on twelve faces by a judge and by eye.

    Attributes:
        timestep: noise level of the inversion.
        inversion_steps, generation_steps: of DDIM.
        guidance_scale: how many times the way from the present to the asked condition is gone.
        guided_steps: how many of the generation's steps are guided. The last one paints fine
            texture only, which guidance makes metallic.
        exaggeration: strength of the shape that conditions the score network, relative to the
            asked.
        warp: strength of the warp relative to the asked strength.
        cavity: opacity of the dark painted between lips that part, before the inversion.
        chroma: share of the painting's colour that is kept on the skin; mouth and eyes keep all.
        noise: amplitude of the painting below which it counts as noise of the network, of 1.
        limit: largest change of a pixel on the skin, of 1.
    """

    timestep: int = 400
    inversion_steps: int = 5
    generation_steps: int = 4
    guidance_scale: float = 11.0
    guided_steps: int = 3
    exaggeration: float = 1.0
    warp: float = 0.75
    cavity: float = 0.9
    chroma: float = 0.4
    noise: float = 0.015
    limit: float = 0.5


@dataclass(frozen=True, eq=False)
class ExpressionEdit:
    """Another expression for one aligned face; apply it with `apply_edit`.

    Attributes:
        flow: `[1,2,2s,2s]` crop px, see `faces.warp`.
        painting: `[1,3,s,s]` in [-1,1], what is added to the deformed crop.
    """

    flow: Tensor
    painting: Tensor


@torch.no_grad()
def edit_expression(
    unet: UNet2DModel,
    conditioner: FaceConditioner,
    scheduler: DDIMScheduler,
    shapes: ExpressionShapes,
    crop: Tensor,
    landmarks68: Tensor,
    emotion: int,
    strength: float,
    settings: EditSettings | None = None,
    present: Tensor | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> ExpressionEdit:
    """Give the face of an aligned crop another expression. Nothing in it is random.

    Args:
        crop: `[1,3,s,s]` in [0,1].
        landmarks68: `[68,2]` crop px.
        emotion: index in `EMOTIONS`.
        strength: 0 (no change) to 1.
        present: `[7]` probabilities of the expression that the face has now, which is what the
            score network is led away from; None if unknown.
        autocast_dtype: precision of the score network's passes, or None for its own.
    """
    settings = settings or EditSettings()
    size = crop.shape[-1]
    landmarks68 = landmarks68.cpu().float()
    if strength == 0:
        return no_edit(size)
    unit = landmarks68 / size
    moved = shapes.target(unit, emotion, strength * settings.warp)
    painted_shape = shapes.target(unit, emotion, strength * settings.exaggeration)
    flow, reached = displacement(landmarks68, moved * size, size)
    warped = deform_crop(crop, flow)
    opened = _darken_mouth(warped, landmarks68, reached, settings.cavity)
    grey = is_grey(crop)[0].float()
    wanted = F.one_hot(torch.tensor(emotion), len(EMOTIONS)).float()
    now = torch.zeros_like(wanted) if present is None else present.cpu().float()
    conditions = [
        _condition(conditioner, strength * now, reached / size, grey),
        _condition(conditioner, strength * wanted, painted_shape, grey),
    ]
    with torch.autocast(crop.device.type, autocast_dtype, enabled=autocast_dtype is not None):
        plain, asked = _paint(unet, scheduler, opened, conditions, settings)
    change = asked - plain
    parts = [polygon_mask(reached[part], size) for part in (MOUTH, *EYES)]
    features = smooth(torch.stack(parts).amax(0), size / 100).to(crop)
    change = _clean(change, features, settings)
    change = change * smooth(polygon_mask(_face_outline(reached), size), size / 24).to(crop)
    painted = natural_colours((opened + change).float(), warped.float())
    painting = painted - warped
    if grey:
        painting = to_grey(painting).expand_as(painting)
    return ExpressionEdit(flow, painting.cpu())


def apply_edit(
    photo: np.ndarray, alignment: Alignment, edit: ExpressionEdit, mask: Tensor
) -> np.ndarray:
    """The photo `uint8 [H,W,3]` with another expression, bit for bit itself away from the face.

    Args:
        alignment: where the crop lies in the photo.
        mask: `[1,1,s,s]`, see `faces.paste.feather_mask`.
    """
    deformed = deform_photo(photo, alignment, edit.flow)
    return paste_residual(deformed, edit.painting, alignment, mask, in_place=True)


def no_edit(size: int) -> ExpressionEdit:
    """The edit that changes nothing, of crops of this side."""
    return ExpressionEdit(torch.zeros(1, 2, 2 * size, 2 * size), torch.zeros(1, 3, size, size))


def move_edit(edit: ExpressionEdit, flow: Tensor) -> ExpressionEdit:
    """An edit whose result is deformed once more by a flow `[1,2,2s,2s]`, the painting with it."""
    # The painting is negative in places, and `deform` keeps pictures in [0,1].
    painting = 2 * deform_crop((edit.painting + 1) / 2, flow) - 1
    return ExpressionEdit(join_flows(edit.flow, flow), painting)


def polygon_mask(points: Tensor, size: int) -> Tensor:
    """`[1,1,size,size]` in [0,1]: 1 inside the polygon `[N,2]` px, with smooth edges."""
    picture = Image.new("L", (size * POLYGON_SCALE, size * POLYGON_SCALE))
    corners = [(x, y) for x, y in ((points + 0.5) * POLYGON_SCALE).tolist()]
    ImageDraw.Draw(picture).polygon(corners, fill=255)
    mask = torch.from_numpy(np.array(picture)).float()[None, None] / 255
    return F.avg_pool2d(mask, POLYGON_SCALE)


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `[B,C,H,W]`; `sigma` in px."""
    reach = max(round(3 * sigma), 1)
    line = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = (-(line**2) / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    groups = images.shape[1]
    across = F.conv2d(F.pad(images, [reach, reach, 0, 0], "replicate"), weights, groups=groups)
    upright = weights.transpose(-1, -2)
    return F.conv2d(F.pad(across, [0, 0, reach, reach], "replicate"), upright, groups=groups)


def natural_colours(painted: Tensor, before: Tensor) -> Tensor:
    """Bring a face `[1,3,s,s]` to colours that faces have, of the same luma.

    No bluer and no greener than teeth are in the light of the photo, no redder than the reddest of
    the face as it was (its lips); what was beyond that before may stay.
    """
    luma, luma_before = to_grey(painted), to_grey(before)
    red, _, blue = (painted - luma).unbind(1)
    red_before, _, blue_before = (before - luma_before).unbind(1)
    reddest = red_before.flatten().quantile(REDDEST).clamp(min=0)
    tint = WHITE_TINT * luma[:, 0] / luma_before.mean().clamp(min=1e-3)
    least_red = tint * red_before.mean().clamp(min=0)
    most_blue = tint * blue_before.mean().clamp(max=0)
    red = red.maximum(red_before.minimum(least_red)).minimum(red_before.maximum(reddest))
    blue = blue.minimum(blue_before.maximum(most_blue))
    weight_red, weight_green, weight_blue = GREY_WEIGHTS
    green = -(weight_red * red + weight_blue * blue) / weight_green
    return luma + torch.stack([red, green, blue], 1)


def _paint(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    crop: Tensor,
    conditions: list[Tensor],
    settings: EditSettings,
) -> tuple[Tensor, Tensor]:
    """The crop `[1,3,s,s]` generated again as it is, and as asked, from the same noise."""
    patch = patch_size(unet)
    plain, asked = conditions
    latents = patchify(crop, patch)
    noise = invert(
        unet, scheduler, latents, settings.timestep, settings.inversion_steps, plain
    ).float()
    schedule = (settings.timestep, settings.generation_steps)
    first = generate(unet, scheduler, noise, *schedule, plain)
    guidance = (settings.guidance_scale, settings.guided_steps)
    second = generate(unet, scheduler, noise, *schedule, asked, plain, *guidance)
    first, second = (unpatchify(x.float(), patch).clamp(0, 1) for x in (first, second))
    return first, second


def _condition(
    conditioner: FaceConditioner, emotions: Tensor, shape: Tensor, grey: Tensor
) -> Tensor:
    """The score network's condition `[1,width]` for emotions `[7]` and landmarks `[68,2]`."""
    device = conditioner.mean_shape.device
    parts = (emotions, shape, torch.ones(()), grey)
    return conditioner(Condition(*(part[None].to(device) for part in parts)))


def _darken_mouth(warped: Tensor, before: Tensor, after: Tensor, opacity: float) -> Tensor:
    """Paint the dark of the mouth between lips that part: a warp only stretches the lips' line."""
    size = warped.shape[-1]
    opening = (lip_gap(after) - lip_gap(before)) / size
    share = opacity * (opening / OPENING).clamp(0, 1)
    alpha = smooth(polygon_mask(after[INNER_MOUTH], size), size / 128).to(warped) * share
    dark = warped.new_tensor(MOUTH_COLOUR).view(1, 3, 1, 1) * warped.mean() / MEAN_BRIGHTNESS
    return warped * (1 - alpha) + dark.to(warped) * alpha


def _clean(change: Tensor, features: Tensor, settings: EditSettings) -> Tensor:
    """Keep of a painting `[1,3,s,s]` what is meant; on skin, what is moderate, of little colour."""
    size = change.shape[-1]
    energy = smooth(change.square().mean(1, keepdim=True), size / 64)
    change = change * energy / (energy + settings.noise**2)
    luma = to_grey(change)
    skin = luma + (change - luma) * settings.chroma
    skin = settings.limit * torch.tanh(skin / settings.limit)
    return torch.lerp(skin, change, features)


def _face_outline(shape: Tensor) -> Tensor:
    """Polygon `[N,2]` along the jaw and above the brows of `[68,2]`, in its unit."""
    brows = shape[17:27] - torch.tensor([0.0, 1.0]) * (shape[30, 1] - shape[27, 1]) * FOREHEAD
    return torch.cat([shape[0:17], brows.flip(0)])
