"""Copies sessions' state between the device and host memory, while other sessions decode.

Runs on the worker's launch thread, which doesn't wait for the copies: they run on a stream of their own, and their
events tell when they are done. `memory` decides who moves where. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.device.streams import Device, Event, Stream
from framehaul_pipeline.link.messages import Opening


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor without its memory. One on torch's meta device would do, but its first use imports for seconds."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(slots=True, eq=False)
class Place:
    """A session's place on the device. Streams change it, so that the launch thread sees a late state."""

    decoder: Decoder
    opening: Opening
    state: State = field(default_factory=list)
    """Empty until the session is opened, and while it is parked."""
    scale: tuple[Tensor, Tensor] | None = None
    """Standard deviation and mean, each `[1, C, 1, 1]`, that undo the latents' normalisation; None: nothing to undo."""
    layouts: tuple[Layout, ...] = ()
    """Of a parked state."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame on the wire."""
        return self.opening.pixel_format.frame_bytes(*self.opening.geometry.frame_size(self.decoder.spec))


class Parking:
    """Host memory for parked sessions, and the stream that copies."""

    def __init__(self, device: Device, compute: Stream) -> None:
        """Copy on a new stream beside `compute`, on which all state is made and changed."""
        self._device = device
        self._compute, self._copy = compute, device.stream()
        self._pages: list[Tensor] = []

    def pin(self, num_pages: int, page_bytes: int) -> None:
        """Make host pages; they are kept for the worker's life, and numbered on.

        Raises:
            RuntimeError: the host has no memory for them.
        """
        self._pages.extend(self._device.pinned(num_pages * page_bytes).split(page_bytes))

    def park(self, place: Place, pages: Sequence[int]) -> Event:
        """Copy a session's state into `pages`; when the event is reached, `forget` frees it on the device.

        Raises:
            RuntimeError: the state is larger than the pages: the decoder's `state_bytes` is too small.
        """

        @torch.inference_mode()
        def copy() -> None:
            # A tensor with gaps, a slice of a larger one, is parked without them.
            place.state = [tensor if _is_dense(tensor) else tensor.clone() for tensor in place.state]
            place.layouts = tuple(Layout(tensor.shape, tensor.stride(), tensor.dtype) for tensor in place.state)
            for page, part in self._parts(place, pages):
                page.copy_(part, non_blocking=True)

        self._copy.wait(self._compute.record())
        self._copy.run(copy)
        return self._copy.record()

    def restore(self, place: Place, pages: Sequence[int]) -> Event:
        """Copy a session's state back from `pages`; no chunk of it may be launched before the event is reached.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """

        @torch.inference_mode()
        def allocate() -> None:
            # On the compute stream, as all state: the allocator gives its memory on in that stream's order.
            place.state = [
                torch.empty_strided(each.shape, each.stride, dtype=each.dtype, device=self._device.torch_device)
                for each in place.layouts
            ]

        @torch.inference_mode()
        def copy() -> None:
            for page, part in self._parts(place, pages):
                part.copy_(page, non_blocking=True)

        self._compute.run(allocate)
        # The memory may have been another's, whose last kernels still run.
        self._copy.wait(self._compute.record())
        self._copy.run(copy)
        return self._copy.record()

    def settle(self) -> None:
        """Wait until all copies are done."""
        self._copy.record().synchronize()

    def _parts(self, place: Place, pages: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair stretches of pages with stretches of a state's bytes, in order."""
        numbers = iter(pages)
        page = torch.empty(0, dtype=torch.uint8)
        for tensor in place.state:
            rest = _bytes(tensor)
            while rest.numel():
                if not page.numel():
                    number = next(numbers, None)
                    if number is None:
                        raise RuntimeError(f"a state is larger than {len(pages)} pages: state_bytes is too small")
                    page = self._pages[number]
                length = min(page.numel(), rest.numel())
                yield page[:length], rest[:length]
                page, rest = page[length:], rest[length:]


def forget(place: Place) -> None:
    """Free a parked session's state on the device."""
    place.state = []


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill a stretch of memory, in whatever order."""
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != filled:
                return False
            filled *= size
    return True


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's memory in its own order, `[num_bytes] uint8`."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
