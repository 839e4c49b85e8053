"""Sessions that ended are gone, not only small: their memory would not tell of a few KiB each."""

import pytest
from bench.idle import IdleSessions

from tests.support.running_app import running_app, session_objects

COUNT = 100


@pytest.mark.asyncio
async def test_nothing_is_left_of_hundreds_of_sessions_that_waited() -> None:
    """Whether their clients cancel them, or leave and don't come back in time; meanwhile all of them are there."""
    async with running_app("--max-sessions", str(COUNT), "--resume-window", "0.5") as app:
        before = session_objects()["Session"]
        idle = IdleSessions(app.target, 4)
        await idle.open(COUNT)
        assert session_objects()["Session"] == before + COUNT
        await idle.cancel()
        await app.expect_idle()
        await idle.open_and_leave(COUNT)
        await app.expect_idle()
        for _ in range(10):
            await app.serves()
        await app.expect_idle()
