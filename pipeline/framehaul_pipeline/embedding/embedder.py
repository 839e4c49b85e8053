"""Features of frames and pictures, and how alike they are. Runs on the worker's launch thread."""

from __future__ import annotations

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

_ACROSS: Final = 7
"""Places each way of a frame, of which parts have three each way."""
_CENTRE_FRAMES: Final = 512
"""So many frames of a film say what all of them share; the features of no more are kept."""


class Embedder:
    """EfficientNet-lite0 on a device."""

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
        return [parts_of(self._maps(frames[0]))]

    @torch.inference_mode()
    def picture(self, picture: Tensor) -> Tensor:
        """Features `[D]` of one picture `[H, W, 3] uint8`, of length 1."""
        return functional.normalize(self._maps(picture[None]).float().mean((0, 2, 3)), dim=0)

    def _maps(self, frames: Tensor) -> Tensor:
        values = frames.permute(0, 3, 1, 2).to(self._dtype, memory_format=torch.channels_last)
        maps: Tensor = self._network(values)
        return maps


def parts_of(maps: Tensor) -> Tensor:
    """Features `[N, 25, D]` of overlapping parts of what maps `[N, D, H, W]` are of, each of length 1."""
    if maps.shape[2:] != (_ACROSS, _ACROSS):
        maps = functional.adaptive_avg_pool2d(maps, _ACROSS)
    return functional.normalize(functional.avg_pool2d(maps, 3, 1).flatten(2).transpose(1, 2).float(), dim=2)


class Query:
    """What a film is searched for, and what is known of the film: the same formulas as `highlight.rank` has."""

    def __init__(self, pictures: Tensor | None, text: Tensor | None = None) -> None:
        """Search for `pictures`, features `[I, S, D]` of each in several sizes, or for `text`, `[D]`, or for both."""
        assert pictures is not None or text is not None, "something is searched for"
        self._pictures, self._text = pictures, text
        self._kept: list[Tensor] = []
        self._kept_to_text: list[Tensor] = []
        self._centre: Tensor
        """Of the parts of all frames that were kept; there with the first of them."""
        self._num_frames = 0

    @torch.inference_mode()
    def compare(self, cells: Tensor) -> tuple[int, Tensor]:
        """How alike the next frames are, and where: the first one told of, and `[K + 2, N]` from there on.

        The first rows are how alike they are to the pictures and to the text; the others are the most alike part's
        middle from the left and from the top, in 0..1. While what all frames share isn't settled, which pictures are
        measured from, all frames are told anew.

        Args:
            cells: `[N, C, D]`: features of parts of the frames, and last, where texts are read, of the whole frames.
        """
        parts, to_text = cells[:, : (_ACROSS - 2) ** 2], []
        if self._text is not None:
            to_text = [cells[:, -1] @ self._text]
        first = self._num_frames
        self._num_frames += len(cells)
        if self._pictures is None:
            assert self._text is not None, "something is searched for"
            return first, torch.stack([*to_text, *_middles(parts @ self._text)])
        if first < _CENTRE_FRAMES:
            self._kept.append(parts.half())
            self._kept_to_text += to_text
            parts, first = torch.cat(self._kept).float(), 0
            to_text = [torch.cat(self._kept_to_text)] if to_text else []
            self._centre = parts.mean((0, 1))
            if self._num_frames >= _CENTRE_FRAMES:
                self._kept.clear()
        frames = functional.normalize(parts - self._centre, dim=2)
        wanted = functional.normalize(self._pictures - self._centre, dim=2)
        alike = torch.einsum("ncd,isd->nics", frames, wanted).amax(3)
        return first, torch.stack([alike.amax(2).mean(1), *to_text, *_middles(alike.mean(1))])


def _middles(alike: Tensor) -> Tensor:
    """Of each frame, by how alike its parts `[N, C]` are, the best one's middle `[2, N]`, in 0..1."""
    best = alike.argmax(1)
    return (torch.stack([best % (_ACROSS - 2), best // (_ACROSS - 2)]) + 1.5) / _ACROSS
