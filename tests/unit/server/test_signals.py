import asyncio
import os
import signal

import pytest

from framehaul_server.signals import stop_signals


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_asks_and_the_second_exits(number: signal.Signals) -> None:
    exits: asyncio.Queue[int] = asyncio.Queue()
    with stop_signals(exits.put_nowait) as requested:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(requested.wait(), 60)
        assert exits.empty()
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(exits.get(), 60) == 128 + number


@pytest.mark.asyncio
async def test_a_terminal_that_closes_asks_and_no_more() -> None:
    """Shell and kernel both send SIGHUP then: the second one changes nothing."""
    exits: asyncio.Queue[int] = asyncio.Queue()
    with stop_signals(exits.put_nowait) as requested:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(requested.wait(), 60)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(exits.get(), 60) == 128 + signal.SIGTERM


@pytest.mark.asyncio
async def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as requested:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert not requested.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
