"""How many frames a session may still send, and when to tell it that they were consumed; pure.

The window bounds the client's memory: at most `window_frames` frames wait here, whatever the consumer does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul_client.errors import ProtocolError

_ACKS_PER_WINDOW: Final = 4


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Every frame before `next_frame` is consumed, and `window_frames` more from there are welcome."""

    next_frame: int
    window_frames: int
    busy_us: int = 0
    """How long the consumer has worked on frames, in all."""


class FrameWindow:
    """Counts frames that were received, consumed and acknowledged: `acknowledged <= consumed <= received`."""

    def __init__(self, window_frames: int, start_frame: int = 0) -> None:
        """Start with nothing received, and the server allowed to send `window_frames` from `start_frame` on."""
        self.window_frames = window_frames
        self._received = self._consumed = self._acknowledged = start_frame
        self._until = start_frame + window_frames  # the first frame that may not come yet

    @property
    def room(self) -> int:
        """Frames that may still come."""
        return self._until - self._received

    @property
    def num_waiting(self) -> int:
        """Frames that are here and not yet consumed."""
        return self._received - self._consumed

    def receive(self, num_frames: int) -> None:
        """Count frames that arrived.

        Raises:
            ProtocolError: the server sent more than the window.
        """
        end = self._received + num_frames
        if end > self._until:
            raise ProtocolError(f"frames up to {end} arrived: the window ends at {self._until}")
        self._received = end

    def consume(self, num_frames: int) -> None:
        """Count frames that the consumer is done with.

        Raises:
            ValueError: they haven't arrived.
        """
        if num_frames > self.num_waiting:
            raise ValueError(f"num_frames={num_frames}: only {self.num_waiting} wait")
        self._consumed += num_frames

    def reopen(self, num_frames: int) -> None:
        """Note that a new server may send `num_frames` from here before it hears from us."""
        self._until = max(self._until, self._received + num_frames)

    def repeat(self) -> Acknowledgement:
        """The last acknowledgement again, for a new connection; the old one may have lost it."""
        return Acknowledgement(self._acknowledged, self.window_frames)

    def everything(self) -> Acknowledgement:
        """The acknowledgement of every frame that has come."""
        return Acknowledgement(self._received, self.window_frames)

    def acknowledge(self, *, idle: bool) -> Acknowledgement | None:
        """Return what to tell the server now, or None when that can wait.

        A quarter of the window is worth a message. An `idle` consumer, which waits for frames, acknowledges everything
        it has consumed: the server may need the whole window to go on.
        """
        pending = self._consumed - self._acknowledged
        if pending == 0 or (not idle and pending * _ACKS_PER_WINDOW < self.window_frames):
            return None
        self._acknowledged = self._consumed
        self._until = max(self._until, self._consumed + self.window_frames)
        return Acknowledgement(self._consumed, self.window_frames)


def fit_window(wanted_frames: int, min_frames: int, max_frames: int) -> int:
    """Clamp a window as the server does; 0 means no limit."""
    fitted = max(wanted_frames, min_frames, 1)
    return min(fitted, max_frames) if max_frames else fitted
