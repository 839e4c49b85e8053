"""The contract between a decoder and the worker that runs it.

Imports torch: for the worker process alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framehaul_pipeline.spec import DecoderSpec, Geometry

State = list[Tensor]
"""A session's temporal state: a flat list of tensors, whose meaning and shapes the decoder alone knows."""


@runtime_checkable
class Preparing(Protocol):
    """A decoder that runs some shapes faster when it may get ready for them, which takes memory."""

    def preparing(self) -> AbstractContextManager[None]:
        """Within it, `step` takes time to find the fastest kernels for its chunks, and keeps them for later ones."""

    def forget(self) -> None:
        """Give the memory back that is kept for later chunks; which kernels are the fastest stays known."""


class Decoder(Protocol):
    """A video VAE decoder whose temporal state is a value, not a part of the module.

    Many sessions share one decoder's weights. What makes or takes a state runs on the launch thread, inside the compute
    stream; the others answer any thread at once, from numbers alone.
    """

    spec: DecoderSpec
    dtype: torch.dtype
    """What `step` takes latents in, and computes in."""

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        """State of a new session, on the decoder's device.

        Args:
            geometry: size of the session's latents.
            num_latents: how many latents will come, None when not known: where the spec says that the state grows,
                `UNTOLD_LATENTS` at most then.
            first_latent: index in its clip of the first of them; 0 unless the spec says `starts_anywhere`. A decode
                that starts in the middle gives `temporal_factor` frames a latent from there on, and after
                `history_latents` of them the clip's own.
        """

    def next_chunk(self, index: int, available: int, wanted: int, *, ended: bool) -> int:
        """How many latents to decode next: the decoder's own partition rule, 0 to wait for more.

        With `wanted` 1, as reproducible sessions have it, a chunk's length follows from `index` and the clip's end
        alone: however many latents are here, it is that or 0.

        Args:
            index: latents decoded so far.
            available: latents that are here and not decoded.
            wanted: the most the scheduler would like.
            ended: no latents will come after the available ones.
        """

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode a chunk.

        Args:
            latents: `[T, C, h, w]` in the decoder's own scale and dtype, on its device.
            state: what `open` or the last step returned. It may be changed in place: once it was given here, only the
                returned one may be used.

        Returns:
            Frames `[F, 3, H, W]`, floating point in about `[-1, 1]`, which the next step may overwrite, and the new
            state.
        """

    def flush(self, state: State) -> Tensor | None:
        """Frames `[F, 3, H, W]` still held back by lookahead after the last latent, or None."""

    def state_bytes(self, geometry: Geometry) -> int:
        """Device memory of one session's state: never less than its tensors hold, and at most 10 % more.

        Where the spec says that it grows, of a clip of `UNTOLD_LATENTS`.
        """

    def workspace_bytes(self, geometry: Geometry, num_latents: int) -> int:
        """Device memory that a step of `num_latents` needs at its peak, beyond weights and state."""


@runtime_checkable
class Draining(Protocol):
    """What a decoder has too whose spec says that it `drains`."""

    def drain(self, num_blanks: int, state: State) -> tuple[Tensor, State]:
        """Decode so many of the blanks behind the last latent: what is held back comes with them.

        Args:
            num_blanks: 1 or more; no more are left.
            state: see `Decoder.step`, whose frames of the same chunk stay as they are.
        """
