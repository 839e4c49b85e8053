"""A call whose session waits for its place: it hears where it stands until the place is there.

Runs on the event loop, in the RPC's own task and one or two children. Memory is bounded: one position at a time is on
its way to the client, and what it sends meanwhile is kept up to a limit, or stays unread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from framehaul_server.admission.places import Admission, Claim
from framehaul_server.core import responses
from framehaul_server.errors import ClientLeft, ClientStalled, GrantExceeded, SessionCancelled
from framehaul_server.logs import SessionRecord
from framehaul_server.session.connection import Connection, Request, leading_error

_MOST_AHEAD_BYTES: Final = 64 << 10
_TOLD_AGAIN_S: Final = 15.0
"""How long a client may wait without a word from a server that lives."""
_MESSAGE_BYTES: Final = 256
"""What a message takes beside its own bytes."""


async def wait_for_place(
    admission: Admission,
    claim: Claim,
    connection: Connection,
    record: SessionRecord,
    ahead: deque[Request] | None,
    *,
    stall_timeout_s: float,
) -> None:
    """Tell the client its position, each new one, and the same again every 15 s, until `claim` is held.

    Args:
        admission: where `claim` was asked for.
        claim: that is queued.
        connection: of the call; nothing was sent on it.
        record: of the call.
        ahead: gets what the client sends meanwhile; None leaves it unread.
        stall_timeout_s: how long a client that doesn't read its position may keep others from the place.

    Cancellation: the place in the queue is left at once.

    Raises:
        Unavailable: the server drains.
        ClientStalled: the client doesn't read.
        ServerError: what the client sent ends the session, or it is gone.
    """
    record.queued_from_s = time.monotonic()
    try:
        await connection.send_headers()
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(claim, connection, record))
            reading = tasks.create_task(_read_ahead(connection, ahead)) if ahead is not None else None
            await admission.wait(claim)
            if reading is not None:
                reading.cancel()
            async with asyncio.timeout(stall_timeout_s):
                await telling
    except BaseExceptionGroup as group:
        error = leading_error(group)
        if isinstance(error, TimeoutError):
            error = ClientStalled(f"the session's place in the queue was not read for {stall_timeout_s:g} s")
        raise error from None
    finally:
        record.queued_s = time.monotonic() - record.queued_from_s


async def _tell(claim: Claim, connection: Connection, record: SessionRecord) -> None:
    told: int | None = None
    while (position := claim.position) is not None:
        claim.moved.clear()
        if position == told:
            try:
                async with asyncio.timeout(_TOLD_AGAIN_S):
                    await claim.moved.wait()
            except TimeoutError:
                told = None
        else:
            message = responses.queued(position).SerializeToString()
            await connection.write(message)
            record.sent(len(message), 0)
            told = position


async def _read_ahead(connection: Connection, ahead: deque[Request]) -> None:
    """Keep what the session is to see, so that its client's end is seen.

    That is small: latents are not granted yet.
    """
    num_bytes = 0
    while (request := await connection.read()) is not None:
        num_bytes += _MESSAGE_BYTES + request.num_bytes
        if request.header.cancel:
            raise SessionCancelled("cancelled by the client")
        if request.payload or num_bytes > _MOST_AHEAD_BYTES:
            raise GrantExceeded("the session is queued: no latents are granted before it is opened")
        ahead.append(request)
    raise ClientLeft("an EXPLICIT session's request stream ended while it was queued: half-closed, or left")
