"""A worker that dies once, in mid-chunk: its session goes on with the standby."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framehaul_client import FrameClient
from framehaul_pipeline.models import TINY_SPEC
from tests.faults.faulty_worker import Harm
from tests.faults.worker_loss import NUM_LATENTS, clip_with, fragile_app, harming, lose_worker, replay_differs


@pytest.mark.asyncio
async def test_a_session_goes_on_with_the_standby(tmp_path: Path, recovered: Callable[[str, float], None]) -> None:
    """Every frame once, bit for bit."""
    async with fragile_app("cpu", tmp_path / "once") as app:
        took_s = await lose_worker(app, Harm.KILL_COPYING, tmp_path / "once")
    recovered("worker killed in mid-chunk -> next frame (standby)", took_s)


@pytest.mark.asyncio
async def test_a_replay_that_differs_costs_a_new_session(tmp_path: Path) -> None:
    """The client goes on at the first frame that it lacks."""
    async with fragile_app("cpu", tmp_path / "once") as app:
        clip = clip_with(Harm.KILL_COPYING)
        with replay_differs(), harming(tmp_path / "once"):
            async with FrameClient(app.target) as client, client.session(clip, window_frames=16) as session:
                frames = [frame.copy() async for frame in session]
                assert session.statistics.num_reconnects == 1
        assert len(frames) == TINY_SPEC.num_frames(NUM_LATENTS)
        async with FrameClient(app.target) as client, client.session(clip) as session:
            whole = [frame.copy() async for frame in session]
        assert np.abs(np.stack(frames).astype(int) - np.stack(whole)).max() <= 1  # in other chunks
