"""One `Stream` call, driven by hand: a task takes what comes, whoever waits for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.support.call import CHANNEL_OPTIONS, async_stream, request
from tests.support.proxy import FaultProxy

WAIT_S = 60.0
"""For what must come: generous, since it only matters when it doesn't."""


class HandConnection:
    """A call with a channel of its own. Other calls may share its link: what breaks that breaks them all."""

    def __init__(self, road: FaultProxy, take: Callable[[wire.Envelope[pb.StreamResponse]], None]) -> None:
        self.road = road
        self._num_cuts = road.num_cuts
        self._take = take
        self._channel = grpc.aio.insecure_channel(road.target, options=CHANNEL_OPTIONS)
        self._call = async_stream(self._channel)
        self.frozen = False
        """Its link is half open: nothing will come, not even an end."""
        self.parted = False
        """This end, or another connection of this client's, has given the server a reason to end it."""
        self.code: grpc.StatusCode | None = None
        """None while it lasts."""
        self.details = ""
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        return self.code is None

    @property
    def cut(self) -> bool:
        """Its road was cut since it began."""
        return self.road.num_cuts > self._num_cuts

    async def send(self, payload: bytes = b"", **fields: object) -> None:
        """Write a request; what becomes of it on a link that breaks, nobody knows."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            async with asyncio.timeout(WAIT_S):
                await self._call.write(request(payload, **fields))

    async def half_close(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()

    async def wait(self, condition: Callable[[], bool], what: Callable[[], object]) -> None:
        """Wait until the condition holds or the call has ended."""
        try:
            async with asyncio.timeout(WAIT_S):
                while self.alive and not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {WAIT_S:g} s: {what()}") from None
        self.check()

    def check(self) -> None:
        """Raise what `take` has raised."""
        if self._error is not None:
            raise self._error

    async def ended(self) -> None:
        """Wait for the call's end, which has a reason."""
        await self.wait(lambda: False, lambda: "the call's end")

    async def aclose(self) -> None:
        self.parted = True
        self._call.cancel()
        await self._reader
        await self._channel.close()
        self.check()

    async def _read(self) -> None:
        try:
            async for raw in self._call:
                self._take(wire.split_response(raw))
                self._changed.set()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        except Exception as error:  # of `take`: for whoever waits next
            self._error = error
            self._call.cancel()
        code = await self._call.code()
        self.details = await self._call.details() or ""
        self.code = code
        self._changed.set()
