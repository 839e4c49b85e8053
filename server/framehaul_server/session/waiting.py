"""A call whose session waits for its place: it hears where it stands until the place is there.

Runs on the event loop, in the RPC's own task and one or two children. Memory is bounded: one position at a time is on
its way to the client, and what it sends meanwhile stays in `ReadAhead`, or unread.
"""

from __future__ import annotations

import asyncio
import time

from framehaul_server.admission.places import Place
from framehaul_server.core import responses
from framehaul_server.errors import ClientStalled
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.boundary import leading_error
from framehaul_server.rpc.requests import ReadAhead
from framehaul_server.session.frames_out import WritableContext


class HeadersSent:
    """A context whose headers went out with the session's place in the queue."""

    def __init__(self, context: WritableContext) -> None:
        """Write to `context`."""
        self._context = context

    async def send_initial_metadata(self, initial_metadata: tuple[tuple[str, str], ...]) -> None:
        """Do nothing: they can be sent once."""

    async def write(self, message: bytes) -> None:
        """See `WritableContext.write`."""
        await self._context.write(message)


async def wait_for_place(
    place: Place, context: WritableContext, record: SessionRecord, ahead: ReadAhead | None, *, stall_timeout_s: float
) -> None:
    """Tell the client its position, and each new one, until `place` is held.

    Args:
        place: claimed, and queued.
        context: of the call; nothing was sent on it.
        record: of the call.
        ahead: reads what the client sends meanwhile; None leaves it unread.
        stall_timeout_s: how long a client that doesn't read its position may keep others from the place.

    Cancellation: the place in the queue is left at once.

    Raises:
        Unavailable: the server drains.
        ClientStalled: the client doesn't read.
        ServerError: what the client sent ends the session.
        grpc.aio.BaseError: the client is gone.
    """
    started_s = time.monotonic()
    try:
        # See `Session`: not left to the first write.
        await context.send_initial_metadata(())
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(place, context, record))
            watching = tasks.create_task(ahead.watch()) if ahead is not None else None
            try:
                await place.settled()
            finally:
                place.withdraw()  # here, so that nobody waits for the children
            if watching is not None:
                watching.cancel()
            async with asyncio.timeout(stall_timeout_s):
                await telling
    except BaseExceptionGroup as group:
        error = leading_error(group)
        if isinstance(error, TimeoutError):
            error = ClientStalled(f"the session's place in the queue was not read for {stall_timeout_s:g} s")
        raise error from None
    finally:
        place.withdraw()
        record.queued_s = time.monotonic() - started_s


async def _tell(place: Place, context: WritableContext, record: SessionRecord) -> None:
    told: int | None = None
    while (position := place.position) is not None:
        place.moved.clear()
        if position == told:
            await place.moved.wait()
        else:
            message = responses.queued(position).SerializeToString()
            await context.write(message)
            record.sent(len(message), 0)
            told = position
