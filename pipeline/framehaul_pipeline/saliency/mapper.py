"""TASED-Net on a device: runs of frames in, maps of where people look out. Runs on the worker's launch thread."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.models.saliency import MOST_WINDOWS, NAME, WIDTH, WINDOW_FRAMES, SaliencyModel
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.network import Published
from framehaul_pipeline.saliency.weights import load_tased

_SIGMA: Final = 7 / WIDTH
"""By which the network's authors blur their maps, of a map's width."""

_log = logging.getLogger(__name__)


class Mapper:
    """The network, folded; as it was published where the folded form doesn't run."""

    def __init__(self, model: SaliencyModel, device: torch.device) -> None:
        """Load it.

        Raises:
            InvalidInput: the weights are not the network's.
        """
        self._device = device
        self._chooses_kernels = device.type == "cuda"
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.model = model
        self._maps: FoldedTased | Published = FoldedTased(load_tased(Path(self.model.path)), device, self._dtype)
        sigma = _SIGMA * model.width
        self._reach = round(4 * sigma)
        steps = torch.arange(-self._reach, self._reach + 1, dtype=torch.float32, device=device)
        self._blur = torch.softmax(-(steps**2) / (2 * sigma**2), 0)

    def warm_up(self, frames: Tensor) -> None:
        """Choose kernels and record graphs, with windows of `frames` `[WINDOW_FRAMES + MOST_WINDOWS - 1, H, W, 3]`.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        if not self._chooses_kernels:
            return
        try:
            self._several(frames)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            _log.warning("%s runs as it was published, which takes longer: its folded form failed", NAME, exc_info=True)
            self._maps = Published(load_tased(Path(self.model.path)), self._device, self._dtype)
            self._several(frames)

    def _several(self, frames: Tensor) -> None:
        for count in (MOST_WINDOWS, 1):  # large ones first: see `CudaGraphs`
            self.maps(frames[: WINDOW_FRAMES + count - 1], every=1, backwards=False)

    @torch.inference_mode()
    def maps(self, frames: Tensor, *, every: int, backwards: bool) -> Tensor:
        """Where people look, as the network's authors show it: blurred, and 1 where that is most.

        Args:
            frames: `[N, H, W, 3] uint8`, consecutive ones, on the device.
            every: from one window's first frame to the next one's.
            backwards: maps are of the windows' first frames, and not of their last ones.

        Returns:
            `[windows, H, W]` in 0..1.
        """
        windows = frames.unfold(0, WINDOW_FRAMES, every).permute(0, 4, 1, 2, 3)
        if backwards:
            windows = windows.flip(1)
        # Graphs are of the largest batch and of one window; others would take memory each.
        together = MOST_WINDOWS if len(windows) == MOST_WINDOWS else 1
        maps = torch.cat([self._maps(part.contiguous()).float() for part in windows.split(together)])[:, None]
        maps = functional.pad(maps, (self._reach,) * 4, "reflect")
        for kernel in (self._blur[:, None], self._blur[None]):
            maps = functional.conv2d(maps, kernel[None, None])
        return (maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12))[:, 0]
