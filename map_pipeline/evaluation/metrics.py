"""How alike a protected photo and its source are, pixel by pixel."""

import numpy as np
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from map_pipeline.errors import InvalidImageError
from map_pipeline.images import to_tensor


def pair_quality(source: np.ndarray, result: np.ndarray) -> tuple[float, float]:
    """PSNR in dB (`inf` for equal photos) and SSIM in [-1,1] of two photos `uint8 [H,W,3]`.

    SSIM with a Gaussian window (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).

    Raises:
        InvalidImageError: the photos differ in size.
    """
    if source.shape != result.shape:
        raise InvalidImageError(
            f"`result` must be of the size of `source` {list(source.shape)}, "
            f"got {list(result.shape)}."
        )
    first, second = to_tensor(source), to_tensor(result)
    psnr = peak_signal_noise_ratio(second, first, data_range=1.0)
    return float(psnr), float(structural_similarity_index_measure(second, first, data_range=1.0))
