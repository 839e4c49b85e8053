"""Hundreds of sessions that wait: a few KiB each, in the server and in the worker, with a connection or without."""

import logging

import pytest
from bench.idle import MANY, WARM_UP, IdleSessions, bytes_each, settled

from framehaul import wire
from tests.integration.conftest import StartServer
from tests.support.call import stream
from tests.support.server_process import ServerProcess

_log = logging.getLogger(__name__)

MOST_BYTES = 64 << 10


async def warm(server: ServerProcess) -> tuple[int, int]:
    """Have what is allocated once allocated; gives the processes."""
    idle = IdleSessions(server.target, 10)
    await idle.open(WARM_UP)
    await idle.cancel()
    server.expect_idle()
    return server.process.pid, server.worker().pid


async def expect_within_bound(what: str, server: ServerProcess, before: tuple[int, ...]) -> None:
    assert server.load().sessions == MANY
    held = await settled(server.process.pid, server.worker().pid)
    grown = [now - first for now, first in zip(held, before, strict=True)]
    _log.info("%s: server and worker have grown by %s bytes", what, grown)
    assert max(grown) < MANY * MOST_BYTES


@pytest.mark.asyncio
async def test_sessions_that_wait_cost_less_than_64_kib_each(start_server: StartServer) -> None:
    """On ten connections, all of them and each one more."""
    server = start_server("--max-sessions", str(MANY))
    pids = await warm(server)
    before = await settled(*pids)
    idle = IdleSessions(server.target, 10)
    each = await bytes_each(idle.open, *pids)
    _log.info("bytes each, in server and worker: %s", each)
    assert max(each) < MOST_BYTES
    await expect_within_bound("ten connections", server, before)
    await idle.cancel()
    server.expect_idle()


@pytest.mark.asyncio
async def test_sessions_without_a_connection_cost_no_more(start_server: StartServer) -> None:
    """As many on one, and then without it; and each can be taken up again."""
    server = start_server("--max-sessions", str(MANY), "--resume-window", "600")
    before = await settled(*await warm(server))
    idle = IdleSessions(server.target, 1)
    await idle.open(MANY, step=1)
    await expect_within_bound("one connection", server, before)
    await idle.leave()
    await expect_within_bound("no connection", server, before)
    with server.channel() as channel:
        call = stream(channel, [idle.resumption()])
        assert wire.split_response(next(call)).header.opened.next_latent == 1
        call.cancel()
