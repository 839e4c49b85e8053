"""The right to read one published chunk of frames. Runs on the server's event loop."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from framehaul_pipeline.link.messages import Published


class FrameLease:
    """A published chunk's frames, readable until `release`; use it as a context manager or release it by hand."""

    def __init__(self, published: Published, view: memoryview, give_back: Callable[[], None]) -> None:
        """Wrap `view`, the slot's frames; `give_back` is called once, on release."""
        self.first_frame = published.first_frame
        self.num_frames = len(published.crc32c)
        self.frame_bytes = published.frame_bytes
        self.crc32c = published.crc32c
        self.num_latents = published.num_latents
        self.chunks = published.chunks
        self.view = view
        """Frame after frame, read-only; dead once released."""
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give the slot back to the worker; twice is fine."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            self.view.release()
            give_back()

    def __enter__(self) -> FrameLease:
        """Hold the lease."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lease."""
        self.release()
