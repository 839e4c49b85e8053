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
