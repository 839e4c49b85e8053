import asyncio
import itertools

import pytest

from framehaul_server.session.stall_timer import StallTimer


class Looks:
    """Gives positions in turn, and says when it was asked."""

    def __init__(self, *positions: int) -> None:
        self.num = 0
        self.asked = asyncio.Event()
        self.positions = itertools.chain(positions, itertools.repeat(positions[-1]))

    def __call__(self) -> object:
        self.num += 1
        self.asked.set()
        return next(self.positions)

    async def times(self, count: int) -> None:
        while self.num < count:
            self.asked.clear()
            await self.asked.wait()


@pytest.mark.asyncio
async def test_what_does_not_move_is_stalled_once() -> None:
    stalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    looks = Looks(1)
    timer = StallTimer(0.04, position=looks, stalled=lambda: stalled.set_result(None))
    timer.start()
    await asyncio.wait_for(stalled, 10)
    assert looks.num == 5
    timer.stop()


@pytest.mark.asyncio
async def test_what_moves_now_and_then_is_not() -> None:
    stalled: list[None] = []
    looks = Looks(1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4)
    timer = StallTimer(0.04, position=looks, stalled=lambda: stalled.append(None))
    timer.start()
    await asyncio.wait_for(looks.times(13), 10)
    assert not stalled
    timer.stop()
    timer.stop()
