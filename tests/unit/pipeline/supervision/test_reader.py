"""A film's reader as its process, without a film."""

import os
import sys

import pytest

from framehaul_pipeline.highlight.messages import Probe, ReaderSetup
from framehaul_pipeline.supervision import reader
from framehaul_pipeline.supervision.reader import ReaderLost, ReaderProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_a_slot_for_a_reader_that_is_gone_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked for one, and died while it waited."""
    monkeypatch.setattr(reader, "_MODULE", "keyword")  # ends at once
    film = os.open(sys.executable, os.O_RDONLY)
    limits = dict.fromkeys(("num_slots", "slot_bytes", "side", "batch_frames", "max_pixels"), 1)
    setup = ReaderSetup(
        connection_fd=0, ring_fd=film, film_fd=film, pictures_fd=film, max_seconds=1.0, processor_seconds=1,
        memory_bytes=1, **limits,
    )  # fmt: skip
    process = ReaderProcess(setup)
    os.close(film)
    await eventually(lambda: process._pidfd < 0, lambda: process.pid)
    freed: list[int] = []
    process.lend(3, lambda: freed.append(3))
    assert freed == [3]
    with pytest.raises(ReaderLost):
        await process.send(Probe())
    process.close()
    assert freed == [3]
