"""What training minimises."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.decoders.base import State
from framehaul_pipeline.decoders.tiny import TinyDecoderNet
from framehaul_pipeline.encode.tiny_encoder import TinyEncoderNet

COARSE_WEIGHT: Final = 0.5
EDGE_WEIGHT: Final = 0.4
MOTION_WEIGHT: Final = 0.2
SSIM_WEIGHT: Final = 0.1
LATENT_WEIGHT: Final = 0.02


def reconstruction_loss(
    decoder: TinyDecoderNet,
    encoder: TinyEncoderNet,
    frames: Tensor,
    decoder_state: State,
    encoder_state: State,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Encode, add noise to the latents, decode and compare.

    Args:
        decoder: network under training.
        encoder: network under training.
        frames: `[4 * T * B, 3, S, S]` in `[-1, 1]`, time-major.
        decoder_state: zeros for a batch of B.
        encoder_state: zeros for a batch of B.
        noise: `[T * B, C, S / 8, S / 8]`, so that the decoder takes latents that are a little off: rounded to half
            precision, or made by another network.

    Returns:
        The loss and the mean squared error, scalars.
    """
    batch = decoder_state[0].shape[0]
    latents, _ = encoder(frames, encoder_state)
    decoded, _ = decoder(latents + noise, decoder_state)
    error = decoded.float() - frames
    charbonnier = (error * error + 4e-4).sqrt().mean()
    coarse = functional.avg_pool2d(error, 4).abs().mean()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    motion = (error[batch:] - error[:-batch]).abs().mean()
    dissimilarity = 1 - _box_ssim(frames, frames + error)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    scale = (mean**2).mean() + ((std - 1) ** 2).mean()
    loss = charbonnier + COARSE_WEIGHT * coarse + EDGE_WEIGHT * edges + MOTION_WEIGHT * motion
    return loss + SSIM_WEIGHT * dissimilarity + LATENT_WEIGHT * scale, (error * error).mean()


def _box_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM of luma in 7x7 boxes, every second position (Wang et al. 2004, with a box for the Gaussian)."""
    lumas = []
    for picture in (x, y):
        red, green, blue = picture.unbind(1)
        lumas.append((red * 0.299 + green * 0.587 + blue * 0.114)[:, None] * 0.5 + 0.5)
    a, b = lumas

    def box(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, 7, 2)

    mean_a, mean_b = box(a), box(b)
    var_a, var_b = box(a * a) - mean_a * mean_a, box(b * b) - mean_b * mean_b
    covariance = box(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    score = numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    return score.mean()


def loss_and_gradients(
    decoder: TinyDecoderNet,
    encoder: TinyEncoderNet,
    parameters: list[torch.nn.Parameter],
    inputs: tuple[Tensor, State, State, Tensor],
    loss_function: object,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run the loss in bfloat16 autocast and return it, the squared error, and the gradient of each parameter."""
    assert callable(loss_function)
    frames, decoder_state, encoder_state, noise = inputs
    # The weights' half copies may not be cached: a CUDA graph would replay the first step's.
    with torch.autocast(frames.device.type, torch.bfloat16, cache_enabled=False):
        loss, squared_error = loss_function(decoder, encoder, frames, decoder_state, encoder_state, noise)
    return loss.detach().float(), squared_error.detach().float(), list(torch.autograd.grad(loss, parameters))
