"""What the worker needs of a device: streams of work, events between them, and memory both sides reach.

The launch thread puts work on three streams and never waits for it. CUDA runs it later; `--device cpu` runs it at
once; the simulated device in the tests runs it late and in jumps, to show that every wait that is needed is there.
For the worker process alone: imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from framehaul_pipeline.rings.ring import Ring


class Event(Protocol):
    """A point in a stream's work."""

    def synchronize(self) -> None:
        """Block the calling thread until the work before this point is done, without holding the GIL."""

    def query(self) -> bool:
        """Whether the work before this point is done; doesn't block."""

    def ns_after(self, earlier: Event) -> int:
        """Nanoseconds from `earlier`, of the same device, to here by the device's own clock; both timed and done."""


class Stream(Protocol):
    """Work that runs in order."""

    def run(self, work: Callable[[], None]) -> None:
        """Put `work` on the stream; it may run at once, or after this returns."""

    def record(self, *, timed: bool = False) -> Event:
        """Mark the end of the work put here so far; `timed`: for `ns_after` as well."""

    def wait(self, event: Event) -> None:
        """Let later work here wait for `event`; doesn't block the caller."""


class Device(Protocol):
    """A processor that decodes."""

    torch_device: torch.device
    name: str
    memory_bytes: int
    long_chunk_bytes: int | None
    """A chunk that needs more memory to decode gains nothing by being long; None: it always may."""

    def stream(self) -> Stream:
        """Make a new stream."""

    def attach(self, ring: Ring) -> torch.Tensor:
        """Make a ring's memory reachable for asynchronous copies.

        Returns:
            The whole ring, `[num_bytes] uint8`, on the host; dead after `detach`.
        """

    def detach(self, ring: Ring) -> None:
        """Undo `attach`."""

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """Make host memory for asynchronous copies, `[num_bytes] uint8`.

        Raises:
            RuntimeError: the host has no such memory left.
        """

    def free_bytes(self) -> int | None:
        """Device memory that could be allocated now; None: nobody can say."""

    def release_cached(self) -> None:
        """Give memory that the allocator keeps for later back to the device, so that it can be cut anew."""

    def models_loaded(self) -> None:
        """Give the host back what loading took: what this process holds now is what it needs without sessions."""

    def hold_host_memory(self, session_bytes: int) -> None:
        """Give the host's memory back that open sessions, which may use so much, don't account for."""

    def healthy(self) -> bool:
        """Whether the device still works after an error."""
