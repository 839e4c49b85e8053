import asyncio

import pytest

from framehaul_server.session.outbox import Outbox, Outgoing


def outgoing(name: str, num_frames: int = 0) -> Outgoing:
    return Outgoing(message=name.encode(), num_frames=num_frames)


@pytest.mark.asyncio
async def test_urgent_responses_pass_the_others_and_each_lane_keeps_its_order() -> None:
    outbox = Outbox()
    outbox.put(outgoing("frames 0", 4))
    outbox.put(outgoing("opened"), urgent=True)
    outbox.put(outgoing("frames 1", 2))
    outbox.put(outgoing("drain"), urgent=True)
    assert outbox.num_frames == 6
    assert [(await outbox.get()).message for _ in range(4)] == [b"opened", b"drain", b"frames 0", b"frames 1"]


@pytest.mark.asyncio
async def test_get_waits_for_a_response() -> None:
    outbox = Outbox()
    getting = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    assert not getting.done()
    outbox.put(outgoing("late"))
    assert (await getting).message == b"late"


@pytest.mark.asyncio
async def test_a_cancelled_get_takes_nothing() -> None:
    outbox = Outbox()
    getting = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    outbox.put(outgoing("kept"))
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert (await outbox.get()).message == b"kept"


@pytest.mark.asyncio
async def test_clear_drops_both_lanes() -> None:
    outbox = Outbox()
    outbox.put(outgoing("frames", 4))
    outbox.put(outgoing("drain"), urgent=True)
    outbox.clear()
    assert outbox.num_frames == 0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.get(), 0.01)
