"""One session by hand, through all of its connections, as docs/protocol.md lets a client be: also a careless one.

What comes is checked when it comes, against the protocol and against the same clip's frames from a run that nothing
disturbed: every frame once and in order, with those bytes.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import numpy as np
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.resume.hand_connection import WAIT_S, HandConnection
from tests.support.clips import CHANNELS, FRAMES_OF_A_LATENT, opening
from tests.support.proxy import FaultProxy
from tests.support.server_process import ServerProcess

HISTORY_LATENTS = 4
_DTYPES: Final[dict[pb.DataType.ValueType, type[np.floating[Any]]]] = {
    pb.DATA_TYPE_FLOAT16: np.float16,
    pb.DATA_TYPE_FLOAT32: np.float32,
}


@dataclass
class KnownClip:
    """Latents, how they are to be decoded, and what comes of it."""

    name: str
    num_latents: int
    size: tuple[int, int]
    dtype: pb.DataType.ValueType
    pixel_format: pb.PixelFormat.ValueType
    frame_bytes: int
    frames: list[bytes] = field(default_factory=list)
    """Empty until a run that nothing disturbed has filled it."""

    def __post_init__(self) -> None:
        noise = np.random.default_rng(self.num_latents).standard_normal((self.num_latents, CHANNELS, *self.size))
        self.latents = [latent.tobytes() for latent in noise.astype(_DTYPES[self.dtype])]

    @property
    def num_frames(self) -> int:
        return FRAMES_OF_A_LATENT * self.num_latents

    def levels(self, pixels: bytes) -> "np.ndarray[Any, np.dtype[np.int32]]":
        wide = self.pixel_format == pb.PIXEL_FORMAT_YUV420P10LE
        return np.frombuffer(pixels, np.uint16 if wide else np.uint8).astype(np.int32)

    def open(self, window_frames: int, start_frame: int) -> pb.Open:
        """Responses hold three frames, so that chunks are cut into messages that a client may have parts of."""
        height, width = self.size
        return opening(
            geometry=pb.LatentGeometry(channels=CHANNELS, height=height, width=width),
            dtype=self.dtype,
            pixel_format=self.pixel_format,
            mode=pb.MODE_EXPLICIT,
            window_frames=window_frames,
            max_message_bytes=64 + 3 * (self.frame_bytes + 4),
            start_frame=start_frame,
            resume=pb.Resume(),
        )


@dataclass(frozen=True)
class Incarnation:
    """A server, from its start to its death."""

    process: ServerProcess
    levels_off: int
    """How far frames may be from those of the undisturbed run: 0 where chunks can't be cut differently."""

    @property
    def lives(self) -> bool:
        return self.process.process.poll() is None

    @property
    def num_deaths(self) -> int:
        """Workers that died, as its log has them."""
        return self.process.log.count("worker state=restarting")


class HandSession:
    """Opens it, goes on with it, loses it, takes it up again; and knows what it may expect."""

    def __init__(self, clip: KnownClip, window_frames: int) -> None:
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
        if header.HasField("queued"):
            assert not self.ready, "it is queued before it is opened"
            return  # there is no worker at the moment
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

    # Coming and going

    async def connect(self, server: Incarnation, road: FaultProxy, part: float) -> bool:
        """Open the session, take it up again, or go on from the middle; False when it can't be done now.

        Of the frames that are here and were not read, `part` (0..1) counts as having arrived.
        """
        assert not self.finished
        first = max(self.num_read, self.said_frame)
        claim = first + round(part * max(0, len(self.frames) - first))
        told_all = self.told_all
        if self.session_id:
            asked = self._resuming(claim)
            self.said_frame = claim
        else:
            claim = round(self.num_read + part * (len(self.frames) - self.num_read))
            self._begin(claim, server)
            asked = self.open
        del self.frames[claim:]
        return await self._ask(asked, road, told_all=told_all)

    async def _ask(self, asked: pb.Open, road: FaultProxy, *, told_all: bool) -> bool:
        self.part()
        self.ready = self.done = False
        resuming = bool(asked.resume.session_id)
        connection = self.connection = HandConnection(road, lambda envelope: self._take(connection, envelope))
        await connection.send(open=asked)
        await connection.wait(lambda: self.ready, lambda: f"Opened, or a refusal: {self}")
        if self.ready:
            if resuming:
                self.known_frame, self.proven = asked.resume.next_frame, True
                self.allowed = max(self.allowed, len(self.frames))
            self.due_until = self.allowed
            await self._expect_old_ones_ended()
        elif resuming and connection.code is grpc.StatusCode.NOT_FOUND:
            self._expect_lost(told_all=told_all)
            self.session_id = b""
            self.finished = told_all
            self.connection = None
            await connection.aclose()
        else:
            self.expect_reason(connection)
        return self.ready

    async def cancel(self, server: Incarnation, road: FaultProxy) -> None:
        """End it on purpose, however often it takes to be heard; then the server doesn't know it any more."""
        known = self._resuming(self.said_frame)
        while True:
            if self.connection is not None and self.alive:
                self.cancel_sent = True
                await self.connection.send(cancel=True)
                await self.connection.ended()
                self.connection.parted = True
                if "cancelled by the client" in self.connection.details:
                    break
            elif not await self.connect(server, road, 1.0) and not self.session_id:
                break
        self.part()
        while await self._refused(known, road) is not grpc.StatusCode.NOT_FOUND:
            pass

    async def ask_wrongly(self, road: FaultProxy, wrong: str) -> None:
        """Ask for a session that should be there, in a way that can't be right: the call that serves it goes on."""
        frame = {"too low": self.known_frame - 1, "too high": self.promised + 1}.get(wrong, self.said_frame)
        if not self.session_id or self.finished or frame < 0:
            return
        asked, expected = self._resuming(frame), grpc.StatusCode.INVALID_ARGUMENT
        if wrong == "other values":
            asked.priority, expected = -1, grpc.StatusCode.FAILED_PRECONDITION
        elif wrong == "other id":
            asked.resume.session_id, expected = self.session_id[::-1], grpc.StatusCode.NOT_FOUND
        code = await self._refused(asked, road)
        if code is grpc.StatusCode.NOT_FOUND and expected is not code:
            self._expect_lost(told_all=self.told_all)
        elif code is not grpc.StatusCode.UNAVAILABLE:
            assert code is expected, f"{wrong}: {code}, {self}"

    async def _refused(self, asked: pb.Open, road: FaultProxy) -> grpc.StatusCode | None:
        """How the server refuses; UNAVAILABLE if the link broke."""

        def opened(envelope: wire.Envelope[pb.StreamResponse]) -> None:
            raise AssertionError(f"not refused: {asked.resume}: {envelope.header}, {self}")

        connection = HandConnection(road, opened)
        await connection.send(open=asked)
        await connection.ended()
        assert connection.code is not grpc.StatusCode.UNAVAILABLE or connection.cut, connection.details
        await connection.aclose()
        return connection.code

    def _resuming(self, next_frame: int) -> pb.Open:
        asked = pb.Open()
        asked.CopyFrom(self.open)
        asked.resume.session_id, asked.resume.next_frame = self.session_id, next_frame
        return asked

    def part(self) -> None:
        """Stop listening to the present connection, without telling anybody."""
        if self.connection is not None:
            self.expect_reason(self.connection)
            self.connection.parted = True
            self.old.append(self.connection)
            self.connection = None

    async def _expect_old_ones_ended(self) -> None:
        """Fenced: the server has ended them, with the status that says so, unless something else has."""
        for old in self.old:
            if not old.frozen and not old.cut:
                await old.ended()
                assert old.code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE), (old.code, old.details)
        await self.aclose_old()

    async def aclose(self) -> None:
        self.part()
        await self.aclose_old()

    async def aclose_old(self) -> None:
        old, self.old = self.old, []
        for connection in old:
            await connection.aclose()

    # What goes

    def _made_possible(self) -> None:
        """Note who has died before the frames that what is sent now makes possible."""
        assert self.server is not None
        possible = FRAMES_OF_A_LATENT * min(self.next_latent, self.promised // FRAMES_OF_A_LATENT)
        more = max(0, possible - self._first_frame - len(self._deaths_before))
        self._deaths_before += [self.server.num_deaths] * more

    async def send_latents(self, count: int) -> int:
        count = min(count, self.until - self.next_latent, self.clip.num_latents - self.next_latent)
        if not self.alive or count <= 0 or self.end_sent:
            return 0
        assert self.connection is not None
        payload = b"".join(self.clip.latents[self.next_latent : self.next_latent + count])
        first, self.next_latent = self.next_latent, self.next_latent + count
        self._made_possible()
        await self.connection.send(payload, index=first, num_latents=count, crc32c=crc32c(payload))
        return count

    async def end_latents(self) -> None:
        """May be said again, as after a resume."""
        if self.alive and self.next_latent == self.clip.num_latents:
            assert self.connection is not None
            self.end_sent = True
            await self.connection.send(end_of_latents=True)

    async def acknowledge(self) -> None:
        """All that was read."""
        if not self.alive or self.num_read < self.said_frame:
            return
        assert self.connection is not None
        self.said_frame = self.num_read
        self.promised = max(self.promised, self.num_read + self.window_frames)
        self._made_possible()
        self.due_until = self.promised
        self._acks.append((self.num_read, self.promised))
        await self.connection.send(ack=pb.Ack(next_frame=self.num_read, window_frames=self.window_frames))

    async def read(self, count: int) -> None:
        """Hand frames to the application; waits for those that must come."""
        until = min(self.num_read + count, self.due)
        if self.alive and until > len(self.frames):
            assert self.connection is not None
            await self.connection.wait(lambda: len(self.frames) >= until, lambda: f"frames to {until}: {self}")
            self.expect_reason(self.connection)
        self.num_read = max(self.num_read, min(self.num_read + count, len(self.frames)))

    @property
    def due(self) -> int:
        """Frames below this one must come if nothing breaks: there are latents for them and they fit the window."""
        return FRAMES_OF_A_LATENT * min(self.next_latent, self.due_until // FRAMES_OF_A_LATENT) if self.alive else 0

    async def finish(self, server: Incarnation, road: FaultProxy) -> None:
        """Go on to the end, now that nothing breaks any more; every frame has come then."""
        end_s = asyncio.get_running_loop().time() + 2 * WAIT_S
        while not self.finished:
            assert asyncio.get_running_loop().time() < end_s, f"not finished: {self}"
            if not self.alive and not await self.connect(server, road, 1.0):
                await asyncio.sleep(0.05)
                continue
            assert self.connection is not None
            before = (self.next_latent, len(self.frames), self.until)
            await self.send_latents(self.clip.num_latents)
            await self.end_latents()
            await self.read(self.clip.num_frames)
            await self.acknowledge()
            if self.complete:
                await self.connection.ended()
                self.expect_reason(self.connection)
            elif before == (self.next_latent, len(self.frames), self.until):
                changed = (len(self.frames), self.until)
                await self.connection.wait(
                    lambda changed=changed: changed != (len(self.frames), self.until),  # type: ignore[misc]
                    lambda: f"anything: {self}",
                )
        self.num_read = len(self.frames)
        assert self.num_read == self.clip.num_frames
