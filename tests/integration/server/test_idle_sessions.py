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


@pytest.mark.asyncio
async def test_sessions_that_wait_cost_less_than_64_kib_each(start_server: StartServer) -> None:
    """On ten connections; then, when all have ended, as many on one, and without it, get along with the same memory."""
    server = start_server("--max-sessions", str(MANY), "--resume-window", "600")
    pids = await warm(server)
    before = await settled(*pids)

    async def expect_within_bound(what: str) -> None:
        assert server.load().sessions == MANY
        grown = [held - first for held, first in zip(await settled(*pids), before, strict=True)]
        _log.info("%s: server and worker have grown by %s bytes", what, grown)
        assert max(grown) < MANY * MOST_BYTES

    idle = IdleSessions(server.target, 10)
    each = await bytes_each(idle.open, *pids)
    _log.info("bytes each, in server and worker: %s", each)
    assert max(each) < MOST_BYTES
    await expect_within_bound("ten connections")
    await idle.cancel()
    server.expect_idle()

    idle = IdleSessions(server.target, 1)
    await idle.open(MANY, step=1)
    await expect_within_bound("one connection")
    await idle.leave()
    await expect_within_bound("no connection")
    with server.channel() as channel:
        call = stream(channel, [idle.resumption()])
        assert wire.split_response(next(call)).header.opened.next_latent == 1
        call.cancel()
