"""One session by hand, through all of its connections, as docs/protocol.md lets a client be: also a careless one.

What comes is checked when it comes: every frame once and in order, with the bytes of a run that nothing disturbed.
"""

import asyncio

import grpc
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.resume.clips import FRAMES_OF_A_LATENT, Incarnation
from tests.integration.resume.hand_account import HandAccount
from tests.integration.resume.hand_connection import WAIT_S, HandConnection
from tests.support.proxy import FaultProxy


class HandSession(HandAccount):
    """Opens it, goes on with it, loses it, takes it up again."""

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
        """Ask for a session that should be there, in a way that can't be right."""
        frame = {"too low": self.known_frame - 1, "too high": self.promised + 1}.get(wrong, self.said_frame)
        if not self.session_id or self.finished or frame < 0:
            return
        asked, expected = self._resuming(frame), grpc.StatusCode.INVALID_ARGUMENT
        if wrong == "other values":
            asked.priority, expected = -1, grpc.StatusCode.FAILED_PRECONDITION
        elif wrong == "other id":
            asked.resume.session_id, expected = self.session_id[::-1], grpc.StatusCode.NOT_FOUND
        if wrong != "other id":
            self.part()  # the server ends the old call before it looks further
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
