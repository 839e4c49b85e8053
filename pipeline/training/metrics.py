"""PSNR and SSIM of frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """PSNR of each frame, `[N]`, over all of RGB; both `[N, 3, H, W]` in [0, 1]."""
    squared_error = ((reference - decoded) ** 2).mean((1, 2, 3))
    return -10 * torch.log10(squared_error.clamp(min=1e-10))


def ssim(reference: Tensor, decoded: Tensor) -> Tensor:
    """SSIM of each frame, `[N]`: Gaussian window of 11, mean over RGB, no padding (Wang et al. 2004)."""
    axis = torch.arange(SSIM_WINDOW, device=reference.device) - SSIM_WINDOW // 2
    gauss = torch.exp(-(axis.float() ** 2) / (2 * SSIM_SIGMA**2))
    gauss = gauss / gauss.sum()

    def blur(values: Tensor) -> Tensor:
        planes = functional.conv2d(values.flatten(0, 1)[:, None], gauss.view(1, 1, 1, -1))
        blurred: Tensor = functional.conv2d(planes, gauss.view(1, 1, -1, 1)).unflatten(0, values.shape[:2])[:, :, 0]
        return blurred

    # TF32 would lose the small differences of squares in `_score`.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        chunks = zip(reference.split(8), decoded.split(8), strict=True)
        return torch.cat([_score(a, b, blur) for a, b in chunks])


def _score(a: Tensor, b: Tensor, blur: Callable[[Tensor], Tensor]) -> Tensor:
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    score: Tensor = numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    return score.mean((1, 2, 3))
