"""What a client knows of its session, and may expect: see `hand_session`, which acts on it.

Held against the protocol, and against the same clip's frames from a run that nothing disturbed.
"""

import grpc
import numpy as np
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.resume.clips import FRAMES_OF_A_LATENT, HISTORY_LATENTS, Clip, Incarnation
from tests.integration.resume.hand_connection import HandConnection


class HandAccount:
    """Kept through all of a session's connections."""

    def __init__(self, clip: Clip, window_frames: int) -> None:
        self.clip = clip
        self.window_frames = window_frames
        self.frames: list[bytes] = []
        """Received; those before `num_read` were handed to the application, the others may yet be lost."""
        self.num_read = 0
        self.connection: HandConnection | None = None
        self.old: list[HandConnection] = []
        self.finished = False
        self._begin(0, None)

    def _begin(self, start_frame: int, server: Incarnation | None) -> None:
        """Of the session on the present server."""
        self.server = server
        self.levels_off = 0 if server is None else server.levels_off
        self._seen: dict[int, bytes] = {}
        """Every frame that ever came, also those that were lost again."""
        self.session_id = b""
        self.open = self.clip.open(self.window_frames, start_frame)
        self.ready = False
        """The present connection's `Opened` has come."""
        self.next_latent = 0
        self.until = 0
        self.end_sent = False
        self.done = False
        self.cancel_sent = False
        self.proven = False
        """The server has shown that it knows that we know the session's id."""
        self.said_frame = start_frame
        """The most that was said to be here, in any message that may have arrived."""
        self.known_frame = start_frame
        """The server surely knows that all before it are here."""
        self.promised = start_frame + self.window_frames
        """Frames below this one may come."""
        self.allowed = self.promised
        """Below this one they surely may: the server knows it."""
        self.due_until = self.allowed
        """Likewise, unless the present connection breaks."""
        self._acks: list[tuple[int, int]] = []
        self._deaths_before: list[int] = []
        """For each frame from `_first_frame` on: workers that had died when it became possible."""
        self._first_frame = start_frame
        self._num_deaths = 0
        """Workers that had died, at least, when the last new frame was made."""

    def __str__(self) -> str:
        state = "open" if self.ready and self.alive else "away"
        return (
            f"{self.clip.name} {state}, {self.num_read} read of {len(self.frames)} frames, {self.next_latent} latents "
            f"sent below {self.until}, window to {self.promised}, end_sent={self.end_sent} done={self.done}"
        )

    @property
    def alive(self) -> bool:
        """It is served by a connection that isn't known to be lost."""
        return self.ready and self.connection is not None and self.connection.alive and not self.connection.frozen

    # Ends have reasons

    def expect_reason(self, connection: HandConnection) -> None:
        """A call that has ended was cut, or parted with, or its server was killed, or it had no worker too often."""
        connection.check()
        if connection.alive:
            return
        told = f"{connection.code}: {connection.details!r}, {self}"
        if connection.code is grpc.StatusCode.OK:
            assert self.done, told
            self.finished = True
            return
        # grpc/grpc#36066: what a write that crosses the end makes of its status, OK included.
        crossed = connection.details == "Internal error from Core"
        if crossed and self.done and self.told_all:
            return
        deaths = self._deaths() if "worker" in connection.details else 0
        killed_two = connection.code is grpc.StatusCode.ABORTED and deaths >= 2
        ended = connection.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert crossed or killed_two or ended, told
        assert connection.cut or connection.parted or not self._server_lives() or deaths > 0, f"for no reason: {told}"

    def _expect_lost(self, *, told_all: bool) -> None:
        """The server doesn't know the session any more: never without a reason."""
        assert told_all or self.cancel_sent or not self.proven or not self._server_lives() or self._deaths() >= 2, (
            f"lost: {self}"
        )

    def _server_lives(self) -> bool:
        return self.server is not None and self.server.lives

    def _deaths(self) -> int:
        """Workers that died since the last new frame came."""
        return self.server.num_deaths - self._num_deaths if self.server is not None else 0

    @property
    def complete(self) -> bool:
        """Every frame is here, and the server knows that there are no more."""
        return self.end_sent and len(self.frames) == self.clip.num_frames

    @property
    def told_all(self) -> bool:
        """And it may know that they are."""
        return self.complete and self.said_frame == self.clip.num_frames

    # What comes

    def _take(self, connection: HandConnection, envelope: wire.Envelope[pb.StreamResponse]) -> None:
        if connection is not self.connection:
            return  # under way when another one took its place
        header = envelope.header
        if header.HasField("opened"):
            self._opened(header.opened)
        assert self.ready, "the first response is Opened"
        self.until = max(self.until, header.latents_until)
        if header.HasField("frames"):
            self._receive(header.frames, bytes(envelope.payload))
        if header.HasField("done"):
            assert self.end_sent
            assert header.done.num_latents == self.clip.num_latents
            assert header.done.num_frames == len(self.frames) == self.clip.num_frames
            self.done = True

    def _opened(self, opened: pb.Opened) -> None:
        assert not self.ready, "one Opened for each connection"
        assert opened.frame_bytes == self.clip.frame_bytes
        assert opened.history_latents == HISTORY_LATENTS
        if self.session_id:
            assert opened.session_id == self.session_id
            made = len(self.frames) > self.open.start_frame
            assert not made or len(self.frames) <= FRAMES_OF_A_LATENT * opened.next_latent
            assert opened.next_latent <= self.next_latent
        else:
            first = self.open.start_frame // FRAMES_OF_A_LATENT
            assert opened.next_latent == max(0, first - HISTORY_LATENTS)
            assert self.server is not None
            self._num_deaths = self.server.num_deaths
        if opened.next_latent < self.clip.num_latents:
            self.end_sent = False  # it was lost with latents that were sent before it
        self.session_id = opened.session_id
        self.next_latent = opened.next_latent
        self.ready = True

    def _receive(self, frames: pb.Frames, payload: bytes) -> None:
        assert frames.first_frame == len(self.frames), "every frame once, in order"
        step = self.clip.frame_bytes
        assert len(payload) == step * frames.num_frames
        for number, checksum in enumerate(frames.crc32c):
            pixels = payload[step * number : step * (number + 1)]
            assert crc32c(pixels) == checksum
            index = frames.first_frame + number
            self._compare(index, pixels)
            self.frames.append(pixels)
        assert len(self.frames) <= self.promised, "within the window"
        self.proven = True
        self._num_deaths = max(self._num_deaths, self._deaths_before[len(self.frames) - 1 - self._first_frame])
        # Frames that an acknowledgement made room for show that it arrived, or a later one.
        while self._acks and len(self.frames) > self.allowed:
            known_frame, self.allowed = self._acks.pop(0)
            self.known_frame = max(self.known_frame, known_frame)

    def _compare(self, index: int, pixels: bytes) -> None:
        """With what was sent before, and with what comes undisturbed."""
        assert self._seen.setdefault(index, pixels) == pixels, f"frame {index} is another one than before: {self}"
        if self.clip.frames and pixels != self.clip.frames[index]:
            off = self.clip.levels(pixels) - self.clip.levels(self.clip.frames[index])
            most = int(np.abs(off).max())
            assert most <= self.levels_off, f"frame {index} is off by {most} levels: {self}"
