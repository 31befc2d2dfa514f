"""How much of the face itself changes: people look there, and a whole photo's PSNR hides it.

Source and result are compared as aligned crops. The motion between them is undone first, by their
68 landmarks and then by optical flow: a mouth that moved by two pixels is an expression and no
noise. What is left is what was painted.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from skimage.registration import optical_flow_tvl1
from torch import Tensor

from map_pipeline.evaluation.metrics import pair_quality
from map_pipeline.expression.classifiers import to_grey
from map_pipeline.expression.drawing import polygon_mask, smooth
from map_pipeline.expression.warp import deform_crop, displacement
from map_pipeline.faces.landmarks import EYES, MOUTH
from map_pipeline.images import to_array, to_pil
from map_pipeline.pipeline import MAPPipeline

PATCH_SIGMA = 1 / 16  # of the crop's side: finer changes are texture, not patches
PATCH_CONTRAST = 0.04  # of 1; a broad change of light from which on skin looks patchy
JAW, BROWS = slice(0, 17), slice(17, 27)


class FaceQuality(NamedTuple):
    """PSNR in dB and SSIM in [-1,1] of the aligned face, and the share of patchy skin in [0,1]."""

    psnr: float
    ssim: float
    patches: float


@torch.no_grad()
def face_quality(pipe: MAPPipeline, source: np.ndarray, result: np.ndarray) -> FaceQuality | None:
    """Compare the largest face of a photo before and after; None if it isn't found.

    Args:
        source, result: `uint8 [H,W,3]` of one size.
    """
    faces = pipe.face_detector.detect(source)
    if not faces:
        return None
    stages = pipe.stages
    alignment = stages.align(faces[0])
    (before, shape), (after, moved) = (
        stages.aligned_crop(photo, alignment) for photo in (source, result)
    )
    if shape is None:
        return None
    views = [after]
    if moved is not None:
        views.append(deform_crop(after, displacement(moved, shape, alignment.size)[0]))
    # Neither is exact: where nothing moved, undoing a difference would only do harm.
    views += [deform_crop(view, dense_flow(before, view)) for view in views]
    return max(_compare(before, view, shape) for view in views)


def dense_flow(before: Tensor, after: Tensor) -> Tensor:
    """The flow `[1,2,2s,2s]` (see `expression.warp`) that undoes the motion between two crops.

    TV-L1 (Zach et al. 2007, https://doi.org/10.1007/978-3-540-74936-3_22), smooth but at edges.

    Args:
        before, after: `[1,3,s,s]` in [0,1].
    """
    grey = [to_grey(crop)[0, 0].cpu().numpy() for crop in (before, after)]
    rows, columns = optical_flow_tvl1(*grey)
    flow = torch.from_numpy(np.stack([columns, rows])).float()[None]
    return F.pad(flow, [before.shape[-1] // 2] * 4)


def _compare(before: Tensor, after: Tensor, shape: Tensor) -> FaceQuality:
    psnr, ssim = pair_quality(*(to_array(to_pil(crop)) for crop in (before, after)))
    return FaceQuality(psnr, ssim, patchy_share(before, after, shape))


def patchy_share(before: Tensor, after: Tensor, shape: Tensor) -> float:
    """Share of the skin whose light changed broadly, in [0,1].

    Args:
        before, after: `[1,3,s,s]` in [0,1], aligned.
        shape: `[68,2]` crop px.
    """
    size = before.shape[-1]
    change = smooth(to_grey(after - before), size * PATCH_SIGMA)
    face = polygon_mask(torch.cat([shape[JAW], shape[BROWS].flip(0)]), size)
    for part in (MOUTH, *EYES):
        face = face * (1 - polygon_mask(shape[part], size))
    return float(((change.abs() > PATCH_CONTRAST) * face).sum() / face.sum().clamp(min=1))
