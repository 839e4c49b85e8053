import asyncio

import pytest

from framehaul_client.errors import ConnectionLost, ServerUnavailable
from framehaul_client.transport.patience import Patience, answer_within
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
LIMIT_S = 0.05


async def test_silence_is_a_lost_connection_while_it_is_the_servers_turn() -> None:
    """Not while nobody waits for frames, nor while the caller's own latents are waited for."""
    turns: list[str] = []

    async def work(patience: Patience) -> None:
        async with patience.watch():
            await asyncio.sleep(3 * LIMIT_S)
            turns.append("nobody waits")
            with patience.awaiting_frames():
                with patience.owing_latents():
                    await asyncio.sleep(3 * LIMIT_S)
                turns.append("latents were made")
                await asyncio.Event().wait()

    with pytest.raises(ConnectionLost, match=r"for 0\.05 s \(--stall-timeout\)"):
        await work(Patience(LIMIT_S))
    assert turns == ["nobody waits", "latents were made"]


async def test_news_begins_the_time_anew() -> None:
    """And does nothing where no call runs."""
    patience = Patience(60.0)
    patience.news()
    async with patience.watch():
        timeout = patience._timeout
        assert timeout is not None
        with patience.awaiting_frames():
            due_s = timeout.when()
            assert due_s is not None
            await eventually(lambda: asyncio.get_running_loop().time() > due_s - 60.0, lambda: "a later moment")
            patience.news()
            later_s = timeout.when()
            assert later_s is not None
            assert later_s > due_s
        assert timeout.when() is None
    patience.news()


async def test_anothers_timeout_is_let_through() -> None:
    """The caller's iterator may raise it."""
    for limit in (Patience(60.0).watch(), answer_within(60.0)):
        with pytest.raises(TimeoutError):
            async with limit:
                raise TimeoutError


async def test_an_answer_that_does_not_come() -> None:
    with pytest.raises(ServerUnavailable, match=r"the server was silent for 0\.05 s"):
        async with answer_within(LIMIT_S):
            await asyncio.Event().wait()
