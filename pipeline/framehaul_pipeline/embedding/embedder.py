"""Features of frames and pictures, and how alike they are. Runs on the worker's launch thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.config import MAX_BATCH_FRAMES
from framehaul_pipeline.decoders.cuda_graphs import CudaGraphs
from framehaul_pipeline.embedding import efficientnet_lite
from framehaul_pipeline.models.embedding import EmbeddingModel

_CENTRE_FRAMES: Final = 512
"""So many frames of a film say what all of them share; the features of no more are kept."""


class Embedder:
    """A network on a device."""

    def __init__(self, model: EmbeddingModel, device: torch.device) -> None:
        """Load it.

        Raises:
            PipelineError: its weights are not what they should be.
        """
        self.model = model
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._network = efficientnet_lite.load(Path(model.path)).eval().to(device, self._dtype)
        self._network.to(memory_format=torch.channels_last)
        self._graphs = CudaGraphs(device) if device.type == "cuda" else None
        if self._graphs is not None:
            # Its kernels are so short that launching them takes longer, for which chunks would wait.
            frames = torch.zeros((MAX_BATCH_FRAMES, model.side, model.side, 3), dtype=torch.uint8, device=device)
            self._cells([frames])
            self._graphs.record(frames.shape, [frames], self._cells)

    def cells(self, frames: Tensor) -> Tensor:
        """Features `[N, C, D]` of overlapping parts of frames `[N, H, W, 3] uint8`, each of length 1.

        Valid until the next call.
        """
        if self._graphs is not None and frames.shape in self._graphs:
            return self._graphs.run(frames.shape, [frames])[0]
        return self._cells([frames])[0]

    @torch.inference_mode()
    def _cells(self, frames: Sequence[Tensor]) -> Sequence[Tensor]:
        maps = functional.avg_pool2d(self._maps(frames[0]), 3, 1)
        return [functional.normalize(maps.flatten(2).transpose(1, 2).float(), dim=2)]

    @torch.inference_mode()
    def picture(self, picture: Tensor) -> Tensor:
        """Features `[D]` of one picture `[H, W, 3] uint8`, of length 1."""
        return functional.normalize(self._maps(picture[None]).float().mean((0, 2, 3)), dim=0)

    def _maps(self, frames: Tensor) -> Tensor:
        values = frames.permute(0, 3, 1, 2).to(self._dtype, memory_format=torch.channels_last)
        maps: Tensor = self._network(values)
        return maps


class Query:
    """What a film is searched for, and what is known of the film: the same formulas as `highlight.rank` has."""

    def __init__(self, pictures: Tensor) -> None:
        """Search for `pictures`: features `[I, S, D]` of each in several sizes."""
        self._pictures = pictures
        self._kept: list[Tensor] = []
        self._centre = pictures.new_zeros(pictures.shape[-1])
        self._num_frames = 0

    @torch.inference_mode()
    def compare(self, cells: Tensor) -> tuple[int, Tensor]:
        """How alike the next frames are to the pictures, and where: the first one told of, and `[3, N]` from there on.

        The first row is how alike; the others are the most alike cell's middle from the left and from the top, in 0..1.
        While what all frames share isn't settled, all of them are told anew.
        """
        first = self._num_frames
        self._num_frames += len(cells)
        if first >= _CENTRE_FRAMES:
            return first, self._alike(cells)
        self._kept.append(cells.half())
        every = torch.cat(self._kept).float()
        self._centre = every.mean((0, 1))
        if self._num_frames >= _CENTRE_FRAMES:
            self._kept.clear()
        return 0, self._alike(every)

    def _alike(self, cells: Tensor) -> Tensor:
        frames = functional.normalize(cells - self._centre, dim=2)
        wanted = functional.normalize(self._pictures - self._centre, dim=2)
        alike = torch.einsum("ncd,isd->nics", frames, wanted).amax(3)
        best = alike.mean(1).argmax(1)
        across = math.isqrt(cells.shape[1])
        # A cell is the mean of 3x3 of the network's places.
        left, top = ((each + 1.5) / (across + 2) for each in (best % across, best // across))
        return torch.stack([alike.amax(2).mean(1), left, top])
