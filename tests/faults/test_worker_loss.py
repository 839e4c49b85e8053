"""A worker that dies once, in mid-chunk: its session goes on with the standby."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.faulty_worker import Harm
from tests.faults.worker_loss import fragile_app, lose_worker


@pytest.mark.asyncio
async def test_a_session_goes_on_with_the_standby(tmp_path: Path, recovered: Callable[[str, float], None]) -> None:
    """Every frame once, bit for bit."""
    async with fragile_app("cpu", tmp_path / "once") as app:
        took_s = await lose_worker(app, Harm.KILL_COPYING, tmp_path / "once")
    recovered("worker killed in mid-chunk -> next frame (standby)", took_s)
