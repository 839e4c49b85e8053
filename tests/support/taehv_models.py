"""Small decoders of the TAEHV family with random weights, layer by layer as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

BASE_WIDTHS: Final = (10, 8, 6, 5)
SUPER_WIDTHS: Final = (8, 6, 4, 4)


class Published(NamedTuple):
    """What sets a file apart from the family's others."""

    latent_channels: int
    time_factors: tuple[int, int, int] = (1, 2, 2)
    patch_size: int = 1


PUBLISHED: Final = {
    "taehv": Published(16),
    "taew2_1": Published(16),
    "taew2_2": Published(48, patch_size=2),
    "taehv1_5": Published(32, patch_size=2),
    "taeh3": Published(24, patch_size=2),
    "taeltx2_3": Published(128, (2, 2, 2), 4),
    "taew2_2_super": Published(48, patch_size=2),
}


class _Grow(nn.Module):
    def __init__(self, channels: int, time_factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * time_factor, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        grown: Tensor = self.conv(frames)
        return grown.reshape(-1, frames.shape[1], *frames.shape[2:])


class _Block(nn.Module):
    """Sees each frame with the one before it, zeros before the first."""

    def __init__(self, channels: int, *, larger: bool) -> None:
        super().__init__()
        self.larger = larger
        self.conv = (
            nn.Sequential(
                nn.Conv2d(2 * channels, 2 * channels, 7, padding=3, groups=2 * channels, bias=False),
                nn.Conv2d(2 * channels, 4 * channels, 1),
                nn.ReLU(),
                nn.Conv2d(4 * channels, channels, 1, bias=False),
            )
            if larger
            else nn.Sequential(
                nn.Conv2d(2 * channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
        )

    def forward(self, frames: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]])
        y: Tensor = self.conv(torch.cat([frames, before], 1)) + frames
        return y if self.larger else functional.relu(y)


class _Bend(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return 3 * torch.tanh(latents / 3)


def _layers(name: str) -> list[nn.Module]:
    channels, time_factors, patch_size = PUBLISHED[name]
    larger = name.endswith("_super")
    widths = SUPER_WIDTHS if larger else BASE_WIDTHS
    layers: list[nn.Module] = (
        [nn.Conv2d(channels, widths[0], 1, bias=False)]
        if larger
        else [_Bend(), nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU()]
    )
    for stage, time_factor in enumerate(time_factors):
        width, following = widths[stage : stage + 2]
        layers += [_Block(width, larger=larger) for _ in range(3)]
        if larger:
            layers += [nn.Conv2d(width, 4 * following, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2)]
            layers += [_Grow(following, time_factor)]
        else:
            layers += [nn.Upsample(scale_factor=2), _Grow(width, time_factor)]
            layers += [nn.Conv2d(width, following, 3, padding=1, bias=False)]
    if not larger:
        layers.append(nn.ReLU())
    return [*layers, nn.Conv2d(widths[-1], 3 * patch_size**2, 3, padding=1)]


class PublishedDecoder(nn.Module):
    """A whole clip at once, as the family's own code decodes it; colours in 0..1, not clamped."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*_layers(name))
        self._published = PUBLISHED[name]
        self._is_h3 = name == "taeh3"
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
        self.requires_grad_(False).eval()

    def forward(self, latents: Tensor) -> Tensor:
        """`[T, C, h, w]` as a diffusion model makes them to frames `[F, 3, H, W]`."""
        frames = functional.pixel_shuffle(self.decoder(latents), self._published.patch_size)
        first, second, third = self._published.time_factors
        if self._is_h3:
            # Of each 5 latents' 20 frames the first 3 are none; of 5 n + 2 latents', the rest of the last 5's too.
            num_frames = 17 * -(-len(latents) // 5) - 12
            parts: Tensor = functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, -len(frames) % 20)).unflatten(0, (-1, 20))
            return parts[:, 3:].flatten(0, 1)[:num_frames]
        return frames[first * second * third - 1 :]


def save(name: str, path: Path) -> PublishedDecoder:
    """Write a file under `path`; an encoder's tensor lies beside the decoder's, as in the published ones."""
    net = PublishedDecoder(name)
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file({**tensors, "encoder.0.weight": torch.zeros(2, 3, 3, 3)}, path)
    return net
