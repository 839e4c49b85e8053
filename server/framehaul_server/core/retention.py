"""The frames side of the resume rule: what was sent and not acknowledged can be sent again.

Pure. The acknowledged position never goes back, and neither does what a resuming client said it has. Memory is bounded
by the session's window, which counts from the acknowledged position as well.
"""

from __future__ import annotations

from collections import deque

from framehaul_pipeline.errors import InvalidInput
from framehaul_server.core.packing import Outgoing, without_first


class Retention:
    """Responses of one session that were handed to a connection, from the first frame its client may ask for again."""

    def __init__(self, first_frame: int) -> None:
        """Start with nothing sent; `first_frame` goes first."""
        self._kept: deque[Outgoing] = deque()
        self._floor = first_frame
        """The client has every frame below this one."""
        self.num_sent = first_frame
        """The frame that is sent next on this connection."""
        self.done_sent = False

    @property
    def complete(self) -> bool:
        """The client has told that it has every frame, and there are no more."""
        return self.done_sent and self._floor == self.num_sent

    @property
    def newest(self) -> Outgoing | None:
        """The last response with frames that is kept."""
        return next((outgoing for outgoing in reversed(self._kept) if outgoing.num_frames), None)

    def sent(self, outgoing: Outgoing, *, keep: bool) -> None:
        """Count a response that is about to be written, and `keep` it if it may be asked for again."""
        self.num_sent += outgoing.num_frames
        self.done_sent = self.done_sent or outgoing.last
        if keep and (outgoing.num_frames or outgoing.last):
            self._kept.append(outgoing)

    def acknowledge(self, next_frame: int) -> None:
        """Let go of frames below `next_frame`, which is not beyond what was sent."""
        self._floor = max(self._floor, next_frame)
        while self._kept and self._kept[0].num_frames and _end(self._kept[0]) <= next_frame:
            self._kept.popleft()

    def check(self, next_frame: int) -> None:
        """Refuse what `rewind` would refuse.

        Raises:
            InvalidInput: the client said before that it has more, or was never sent that much.
        """
        if not self._floor <= next_frame <= self.num_sent:
            raise InvalidInput(
                "open.resume.next_frame",
                next_frame,
                f"{self._floor}..{self.num_sent}: no less than was acknowledged, no more than was sent",
            )

    def rewind(self, next_frame: int) -> list[Outgoing]:
        """Start over for a client that has every frame below `next_frame` and nothing else.

        Returns:
            What must be sent again, in order; it is no longer kept.

        Raises:
            InvalidInput: see `check`.
        """
        self.check(next_frame)
        self.acknowledge(next_frame)
        again = list(self._kept)
        if again and again[0].num_frames and again[0].first_frame < next_frame:
            again[0] = without_first(again[0], next_frame)
        self._kept.clear()
        self.num_sent = next_frame
        self.done_sent = False
        return again

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()


def _end(outgoing: Outgoing) -> int:
    return outgoing.first_frame + outgoing.num_frames
