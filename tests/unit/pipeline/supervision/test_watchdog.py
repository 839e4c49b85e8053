import asyncio
from collections.abc import Callable

import pytest

from framehaul.formats import PixelFormat
from framehaul_pipeline.link.messages import Alive, RunningChunk
from framehaul_pipeline.scheduling.chunk_limits import FIRST_SLOWER, BatchShape, ChunkShape
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.supervision.watchdog import Watchdog

TIMEOUT_S = 0.2
SHAPE = ChunkShape("tiny", Geometry(channels=16, height=8, width=8), PixelFormat.RGB24, 4)
IDLE = Alive(oldest=None)


def busy(seconds: float) -> Alive:
    return Alive(oldest=RunningChunk(session=7, num_latents=4, busy_ns=round(seconds * 1e9)))


class Watched:
    """A worker that answers each probe with `answer`, or not at all."""

    def __init__(self, answer: Callable[[], Alive | None]) -> None:
        self.num_probes = 0
        self.probed = asyncio.Event()
        self.hung: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answer = answer
        self.watchdog = Watchdog(TIMEOUT_S, probe=self.probe, hung=self.hung.set_result)

    def probe(self) -> None:
        self.num_probes += 1
        self.probed.set()
        answer = self.answer()
        if answer is not None:
            self.watchdog.answered(answer, SHAPE)

    async def probes(self, count: int) -> None:
        while self.num_probes < count:
            self.probed.clear()
            await self.probed.wait()


@pytest.mark.asyncio
async def test_a_worker_that_does_not_answer_is_given_up_after_it_was_asked_several_times() -> None:
    watched = Watched(lambda: None)
    watched.watchdog.start()
    assert "no answer" in await asyncio.wait_for(watched.hung, 60)
    assert watched.num_probes == 3


@pytest.mark.asyncio
async def test_an_idle_worker_is_never_given_up() -> None:
    """However long: it may rightly wait for latents."""
    watched = Watched(lambda: IDLE)
    watched.watchdog.start()
    await watched.probes(12)
    assert not watched.hung.done()
    watched.watchdog.stop()
    watched.watchdog.stop()


@pytest.mark.asyncio
async def test_a_late_answer_counts() -> None:
    """One of several probes is enough: a server that was stopped itself asks again before it judges."""
    turn = iter(range(100))
    watched = Watched(lambda: IDLE if next(turn) % 3 == 2 else None)
    watched.watchdog.start()
    await watched.probes(9)
    assert not watched.hung.done()
    watched.watchdog.stop()


@pytest.mark.asyncio
async def test_a_chunk_over_its_learnt_limit_is_a_hang() -> None:
    watched = Watched(lambda: None)
    watched.watchdog.start()
    for _ in range(2):
        watched.watchdog.published(SHAPE, 50_000_000)
    watched.watchdog.published(None, 1)
    watched.watchdog.answered(busy(0.9), SHAPE)
    assert not watched.hung.done()
    watched.watchdog.answered(busy(1.1), SHAPE)
    reason = watched.hung.result()
    assert "hangs in a chunk of 4 latents of session 7: 1.1 s, the limit is 1.0 s" in reason
    watched.watchdog.answered(busy(1.2), SHAPE)  # once is enough: a second result would raise


@pytest.mark.asyncio
async def test_a_batch_over_its_learnt_limit_is_a_hang() -> None:
    """Whatever chunks take beside it, and other networks' batches."""
    watched = Watched(lambda: None)
    watched.watchdog.start()
    for _ in range(2):
        watched.watchdog.published(SHAPE, 500_000_000)
        watched.watchdog.published(BatchShape(), 50_000_000)
    mapping = RunningChunk(session=9, num_latents=0, num_samples=32, mapped=True, busy_ns=1_100_000_000)
    watched.watchdog.answered(Alive(oldest=mapping), BatchShape(mapped=True))
    assert not watched.hung.done()
    for busy_ns, hangs in ((900_000_000, False), (1_100_000_000, True)):
        oldest = RunningChunk(session=9, num_latents=0, num_samples=32, busy_ns=busy_ns)
        watched.watchdog.answered(Alive(oldest=oldest), BatchShape())
        assert watched.hung.done() == hangs
    assert "hangs in a batch of 32 samples of query 9: 1.1 s, the limit is 1.0 s" in watched.hung.result()


@pytest.mark.asyncio
async def test_a_chunk_of_an_unknown_shape_may_take_longer() -> None:
    watched = Watched(lambda: None)
    watched.watchdog.start()
    watched.watchdog.answered(busy(TIMEOUT_S * FIRST_SLOWER - 0.1), SHAPE)
    assert not watched.hung.done()
    watched.watchdog.answered(busy(TIMEOUT_S * FIRST_SLOWER + 0.1), SHAPE)
    assert watched.hung.done()
