"""A decoder of clips that are cold again and again, behind the decoder contract. For the worker process alone.

Some generators make a video block by block and decode each with a cold decoder. Their clip is the blocks' frames one
after the other, so a session that decoded on would give other frames, and more of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.spec import Geometry


class RestartingDecoder:
    """Another decoder, opened anew before each latent whose index is a multiple of `every_latents`.

    The last tensor of the state has as many elements as latents were decoded since.
    """

    def __init__(self, decoder: Decoder, every_latents: int, device: torch.device) -> None:
        """Wrap a decoder without lookahead, which is on `device`."""
        self.spec = decoder.spec.restarting(every_latents)
        self.dtype = decoder.dtype
        self._decoder = decoder
        self._every = every_latents
        self._device = device

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """State at `first_latent`, which may lie in the middle."""
        del num_latents
        within = first_latent % self._every
        state = self._decoder.open(geometry, self._every - within, first_latent=within)
        return [*state, self._mark(within)]

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """The other decoder's rule, up to the next cold start."""
        within = index % self._every
        left = self._every - within
        ended = ended or available >= left
        return self._decoder.next_chunk(within, min(available, left), min(wanted, left), ended=ended)

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode a chunk."""
        *inner, mark = state
        within = mark.numel()
        if within == self._every:
            _, channels, height, width = latents.shape
            inner = self._decoder.open(Geometry(channels=channels, height=height, width=width), self._every)
            within = 0
        frames, inner = self._decoder.step(latents, inner)
        return frames, [*inner, self._mark(within + len(latents))]

    def flush(self, state: State) -> Tensor | None:
        """Nothing is held back."""
        del state
        return None

    def state_bytes(self, geometry: Geometry) -> int:
        """The other decoder's of so long a clip, and the mark."""
        itemsize_bytes: int = self.dtype.itemsize
        more_bytes = self._decoder.spec.more_state_bytes(geometry, self._every, itemsize_bytes)
        return self._decoder.state_bytes(geometry) + more_bytes + self._every * itemsize_bytes

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """The other decoder's."""
        return self._decoder.workspace_bytes(geometry, num_latents)

    def _mark(self, within: int) -> Tensor:
        return torch.zeros(within, dtype=self.dtype, device=self._device)
