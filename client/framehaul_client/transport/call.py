"""One call of a session: three tasks share it until it ends or is lost.

One reads, one sends latents as far as the server's grant reaches, one sends acknowledgements. `exchange` owns what
outlives a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import crc32c
import numpy as np

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.events import Event, OnEvent
from framehaul_client.core.grant import LatentGrant
from framehaul_client.core.latents import LatentArray
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.core.window import Acknowledgement, FrameWindow
from framehaul_client.errors import FramehaulError, InvalidLatents
from framehaul_client.source.history import LatentHistory
from framehaul_client.transport.patience import Patience
from framehaul_client.transport.rpc import Rpc, RpcEnded

_LEAVE_TIMEOUT_S: Final = 1.0
_MESSAGE_BYTES: Final = 1 << 20  # latents in one message, unless a single one is larger


class Call:
    """Owner of an RPC on which a session was opened or resumed."""

    def __init__(
        self,
        rpc: Rpc,
        receive: Callable[[wire.Envelope[pb.StreamResponse] | None, Call], bool],
        window: FrameWindow,
        history: LatentHistory,
        statistics: SessionStatistics,
        patience: Patience,
        *,
        num_latents: int | None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Prepare to send latents from the position of `history`, once they are granted.

        Args:
            rpc: belongs to this object from now on.
            receive: takes each message, or None when the server ended the call well; True after the session's last.
            window: of the session; says what to acknowledge last.
            history: the latents.
            statistics: kept up to date.
            patience: hears what is the server's turn, and what is news.
            num_latents: how many were announced to the server.
            on_event: hears of latents and acknowledgements that were sent.
        """
        self._rpc = rpc
        self._receive = receive
        self._window = window
        self._history = history
        self._statistics = statistics
        self._patience = patience
        self._announced = num_latents
        self._on_event = on_event
        self._grant = LatentGrant(history.position)
        self._extended = asyncio.Event()  # the grant has grown
        self._acknowledgement: Acknowledgement | None = None  # the newest; it covers older ones
        self._acknowledge = asyncio.Event()
        self._latents_ended = False
        self._reader: asyncio.Task[None] | None = None
        self._over = False  # the server has ended the call
        self._left = False

    @property
    def num_latents(self) -> int | None:
        """How many latents the clip has; None before all were sent."""
        return self._grant.next_latent if self._latents_ended else None

    @property
    def next_latent(self) -> int:
        """Index of the latent that is sent next."""
        return self._grant.next_latent

    def grant(self, latents_until: int) -> None:
        """Take note of the grant in a message."""
        if self._grant.extend(latents_until):
            self._extended.set()

    def post(self, acknowledgement: Acknowledgement) -> None:
        """Send an acknowledgement, unless a newer one replaces it first."""
        self._acknowledgement = acknowledgement
        self._acknowledge.set()

    async def run(self) -> None:
        """Exchange latents and frames until the session's last message.

        Raises:
            FramehaulError: the call failed.
            Exception: what the latents' iterator raises.

        Cancellation: stops the tasks and cancels the call.
        """
        works: tuple[tuple[str, Coroutine[Any, Any, None]], ...] = (
            ("reader", self._read()),
            ("latents", _until_ended(self._send_latents())),
            ("acknowledgements", _until_ended(self._send_acknowledgements())),
        )
        self._reader, *senders = [asyncio.create_task(work, name=f"framehaul {name}") for name, work in works]
        reader = self._reader
        try:
            pending = {reader, *senders}
            while not reader.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for sender in done - {reader}:
                    sender.result()
            reader.result()
        except Exception:
            await self.leave()
            raise
        finally:
            for task in (reader, *senders):
                task.cancel()
            await asyncio.gather(reader, *senders, return_exceptions=True)

    async def leave(self) -> None:
        """Tell the server that nobody wants the rest; a call that is only cancelled looks like a lost connection.

        Cancellation: the server is not told.
        """
        if self._over or self._left:
            return
        self._left = True
        with contextlib.suppress(TimeoutError, RpcEnded, FramehaulError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._rpc.send(pb.StreamRequest(cancel=True))
                if self._reader is not None and not self._reader.done():
                    await asyncio.wait([self._reader])
                else:
                    while await self._rpc.receive() is not None:
                        pass

    async def aclose(self) -> None:
        """Release the call, whether it is over or not.

        Cancellation: the call is cancelled all the same.
        """
        await self._rpc.aclose()

    async def _read(self) -> None:
        while not self._receive(await self._next_message(), self):
            pass
        # The session is complete whatever comes now; this gives the server a clean end.
        with contextlib.suppress(FramehaulError, RpcEnded):
            await self._rpc.send(_ack(self._window.everything()))
            await self._rpc.finish()
            await self._rpc.receive()

    async def _next_message(self) -> wire.Envelope[pb.StreamResponse] | None:
        try:
            message = await self._rpc.receive()
        except FramehaulError:
            self._over = True
            raise
        self._over = message is None
        return message

    async def _send_latents(self) -> None:
        while self._grant.next_latent != self._announced:
            await self._wait_room()
            started_s = time.perf_counter()
            with self._patience.owing_latents():
                block = await self._history.next()
            self._statistics.produce_s += time.perf_counter() - started_s
            if block is None:
                break
            await self._send_block(block)
        if self._announced is not None and self._grant.next_latent < self._announced:
            raise InvalidLatents(f"the latents ended after {self._grant.next_latent}: num_latents={self._announced}")
        self._latents_ended = True
        await self._rpc.send(pb.StreamRequest(end_of_latents=True))

    async def _send_block(self, block: LatentArray) -> None:
        end = self._grant.next_latent + len(block)
        if self._announced is not None and end > self._announced:
            raise InvalidLatents(f"{end} latents: num_latents={self._announced}")
        most = max(1, _MESSAGE_BYTES // block[0].nbytes)
        while len(block):
            await self._wait_room()
            index = self._grant.next_latent
            num_latents = self._grant.take(len(block), most)
            header, payload = latents_message(index, block[:num_latents])
            started_s, start_ns = time.perf_counter(), time.monotonic_ns()
            await self._rpc.send(header, [payload])
            self._patience.news()
            self._tell("latents", start_ns, index, num_latents)
            statistics = self._statistics
            statistics.send_s += time.perf_counter() - started_s
            statistics.num_latents = max(statistics.num_latents, index + num_latents)
            statistics.latent_bytes += len(payload)
            block = block[num_latents:]

    async def _wait_room(self) -> None:
        started_s = time.perf_counter()
        while not self._grant.room:
            self._extended.clear()
            await self._extended.wait()
        self._statistics.wait_room_s += time.perf_counter() - started_s

    async def _send_acknowledgements(self) -> None:
        while True:
            await self._acknowledge.wait()
            self._acknowledge.clear()
            assert self._acknowledgement is not None, "set before the event"
            acknowledgement, start_ns = self._acknowledgement, time.monotonic_ns()
            await self._rpc.send(_ack(acknowledgement))
            self._tell("acknowledged", start_ns, acknowledgement.next_frame)

    def _tell(self, name: str, start_ns: int, first: int, count: int = 0) -> None:
        if self._on_event is not None:
            self._on_event(Event(name, start_ns, time.monotonic_ns(), first, count))


def latents_message(index: int, block: LatentArray) -> tuple[pb.StreamRequest, memoryview]:
    """A request with the latents `[T, C, h, w]` from `index` on, and its payload."""
    payload = block.reshape(-1).view(np.uint8).data
    return pb.StreamRequest(index=index, num_latents=len(block), crc32c=crc32c.crc32c(payload)), payload


async def _until_ended(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(RpcEnded):  # the reader learns why
        await work


def _ack(acknowledgement: Acknowledgement) -> pb.StreamRequest:
    ack = pb.Ack(
        next_frame=acknowledgement.next_frame,
        window_frames=acknowledgement.window_frames,
        busy_us=acknowledgement.busy_us,
    )
    return pb.StreamRequest(ack=ack)
