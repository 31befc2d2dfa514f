"""The loss terms of MAP as pure functions; each returns one value per picture, lower is better.

Symbols follow the paper: L_A identity, L_E expression, L_S smoothness, L_SM score matching.
Embeddings are L2-normalised, `[B,D]`; pictures are `[B,3,H,W]` RGB in [0,1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601: luma Y of R'G'B'.
_LUMA = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
SCALES = 3  # 128, 64 and 32 px: windows of 7, 14 and 28 px of the crop
SSIM_WINDOW = 7  # px; the uniform window of Wang et al. 2004 as in scikit-image


def impersonation_loss(embedding: Tensor, target: Tensor, goal: float | Tensor) -> Tensor:
    """Shortfall of the similarity to the target identity (part of L_A), `[B]` in [0,2].

    Args:
        embedding: `[B,D]` of the protected picture.
        target: `[D]` or `[B,D]` of the target identity.
        goal: cosine similarity from which on nothing is gained; 1 gives the paper's 1 - cos.
    """
    return F.relu(goal - F.cosine_similarity(embedding, target.expand_as(embedding), dim=-1))


def dodging_loss(embedding: Tensor, source: Tensor, goal: float | Tensor) -> Tensor:
    """Excess of the similarity to the person's own photo (part of L_A), `[B]` in [0,2].

    Args:
        embedding: `[B,D]` of the protected picture.
        source: `[D]` or `[B,D]` of the unprotected picture.
        goal: cosine similarity below which nothing is gained.
    """
    return F.relu(F.cosine_similarity(embedding, source.expand_as(embedding), dim=-1) - goal)


def expression_loss(logits: Tensor, emotion: int | Tensor) -> Tensor:
    """L_E as the cross-entropy of the asked emotion, `[B]` in nats.

    Args:
        logits: `[B,7]`.
        emotion: index of one emotion for all, or `[B]`.
    """
    asked = torch.as_tensor(emotion, device=logits.device).expand(len(logits))
    return F.cross_entropy(logits, asked, reduction="none")


def smoothness_loss(change: Tensor, seen: Tensor | None = None) -> Tensor:
    """L_S: mean absolute Laplacian of the change, summed over `SCALES`, `[B]`, >= 0.

    One scale would see fine lines only: the spots and folds that look painted on are wider.

    Args:
        change: `[B,3,H,W]` in [-1,1].
        seen: `[B,1,H,W]` in [0,1], how plainly a line would be seen where; everywhere if None.
    """
    kernel = change.new_tensor(_LAPLACIAN).expand(3, 1, 3, 3)
    seen = torch.ones_like(change[:, :1]) if seen is None else seen
    total = change.new_zeros(len(change))
    for scale in range(SCALES):
        if scale:
            change, seen = F.avg_pool2d(change, 2), F.avg_pool2d(seen, 2)
        edges = F.conv2d(change, kernel, padding=1, groups=3).abs()
        total = total + (edges * seen).mean(dim=(1, 2, 3))
    return total


def luma_loss(change: Tensor) -> Tensor:
    """Root mean square of the change's luma Y, `[B]` in [0,1].

    Structural similarity is blind to broad changes of light, which recognisers hardly see but
    people do, as patchy skin.
    """
    luma = torch.einsum("c,bchw->bhw", change.new_tensor(_LUMA), change)
    return luma.square().mean(dim=(1, 2)).add(1e-12).sqrt()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of two pictures, `[B]` in [-1,1].

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, uniform 7x7 window without the
    border, sample covariance: the defaults of `skimage.metrics.structural_similarity`.
    """
    mean = lambda x: F.avg_pool2d(x, SSIM_WINDOW, stride=1)  # noqa: E731
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    mu_1, mu_2 = mean(first), mean(second)
    var_1 = unbiased * (mean(first * first) - mu_1 * mu_1)
    var_2 = unbiased * (mean(second * second) - mu_2 * mu_2)
    covariance = unbiased * (mean(first * second) - mu_1 * mu_2)
    c_1, c_2 = 0.01**2, 0.03**2
    score = ((2 * mu_1 * mu_2 + c_1) * (2 * covariance + c_2)) / (
        (mu_1 * mu_1 + mu_2 * mu_2 + c_1) * (var_1 + var_2 + c_2)
    )
    return score.mean(dim=(1, 2, 3))


def multiscale_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean of `ssim` at full size, half size and so on, `[B]`.

    One scale would see fine texture only: blotches wider than its window look to it like a change
    of light. (Unlike MS-SSIM it adds the scales, so that each of them has a say of its own.)
    """
    scores = [ssim(first, second)]
    for _ in range(SCALES - 1):
        first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
        if min(first.shape[-2:]) < SSIM_WINDOW:  # nothing left to compare
            break
        scores.append(ssim(first, second))
    return torch.stack(scores).mean(0)


def visibility_loss(result: Tensor, source: Tensor) -> Tensor:
    """Structural change, `[B]` in [0,2]: 1 - `multiscale_ssim`, charged from its first bit.

    Args:
        result: `[B,3,H,W]` of the protected picture.
        source: `[B,3,H,W]` of the unprotected picture.
    """
    return 1 - multiscale_ssim(result, source)


def score_matching_loss(predicted_noise: Tensor, noise: Tensor) -> Tensor:
    """L_SM: the denoising loss of DDPM (Ho et al. 2020, Eq. 14), `[B]`."""
    return (predicted_noise - noise).square().mean(dim=(1, 2, 3))
