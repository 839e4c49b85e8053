import asyncio

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.core import packing
from framehaul_server.core.open_request import check_open
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.responses import done, drain, opened
from framehaul_server.core.window import WindowLimits
from framehaul_server.errors import ClientLeft
from framehaul_server.session.frames_out import FramesOut, Outbox
from framehaul_server.session.time_keeper import TimeKeeper
from tests.support.driven_service import settle
from tests.support.fakes import FRAME_BYTES, FakeConnection, frame, opening, published, record, rules

LIMITS = WindowLimits(min_frames=4, max_frames=12)


def outgoing(name: str, num_frames: int = 0) -> Outgoing:
    return Outgoing(message=name.encode(), num_frames=num_frames)


@pytest.mark.asyncio
async def test_urgent_responses_pass_the_others_and_each_lane_keeps_its_order() -> None:
    outbox = Outbox()
    outbox.put(outgoing("frames 0", 4))
    outbox.put(outgoing("opened"), urgent=True)
    outbox.put(outgoing("frames 1", 2))
    outbox.put(outgoing("drain"), urgent=True)
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
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.get(), 0.01)


class Delivering:
    """A delivery that runs beside the test, and how often its window moved."""

    def __init__(self, mode: pb.Mode.ValueType, **changes: object) -> None:
        request = check_open(opening(mode=mode, **changes), rules().opening)
        self.moved: list[int] = []
        self.recorder = Recorder(0)
        self.frames_out = FramesOut(
            request, LIMITS, record(), TimeKeeper(self.recorder, lambda: None, reports=True), window_moved=self.note
        )
        self.frames_out.put(
            opened(request, LIMITS, session_id=b"id", request_id="", next_latent=0, latents_until=0), urgent=True
        )
        self.connection = FakeConnection()
        self.connection.headers_sent = True
        self.task = asyncio.ensure_future(self.frames_out.run(self.connection))

    def note(self) -> None:
        self.moved.append(self.frames_out.window.frames_until)

    def publish(self, first: int, count: int) -> None:
        frames = b"".join(frame(index) for index in range(first, first + count))
        self.frames_out.publish(published(first, count), memoryview(frames), latents_until=0)


@pytest.mark.asyncio
async def test_frames_that_wait_for_others_share_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come no later so; the first ones go in small messages, since nothing holds them up."""
    monkeypatch.setattr(packing, "_GOOD_MESSAGE_BYTES", packing.message_bytes(FRAME_BYTES, 1))
    monkeypatch.setattr(packing, "_MOST_WAITING_BYTES", packing.message_bytes(FRAME_BYTES, 2))
    run = Delivering(pb.MODE_AUTO)
    run.publish(0, 4)
    run.publish(4, 4)
    run.frames_out.put(done(8, 2, {}), last=True)
    await run.task
    counts = [each.header.frames.num_frames for each in run.connection.responses]
    assert [count for count in counts if count] == [1, 1, 1, 1, 2, 2]
    assert run.connection.frames() == [frame(index) for index in range(8)]


@pytest.mark.asyncio
async def test_auto_frames_move_the_window_once_they_are_written() -> None:
    run = Delivering(pb.MODE_AUTO)
    run.publish(0, 8)
    run.frames_out.put(done(8, 2, {}), last=True)
    assert run.moved == []
    await run.task
    assert run.moved == [20]
    assert run.connection.frames() == [frame(index) for index in range(8)]


@pytest.mark.asyncio
async def test_explicit_frames_move_the_window_when_they_are_acknowledged() -> None:
    run = Delivering(pb.MODE_EXPLICIT)
    run.publish(0, 4)
    await run.connection.responded(2)
    assert run.moved == []
    run.frames_out.acknowledge(pb.Ack(next_frame=4, window_frames=6))
    assert run.moved == [12]
    run.frames_out.acknowledge(pb.Ack(next_frame=4, window_frames=10))
    assert run.moved == [12, 14]
    with pytest.raises(InvalidInput, match=r"ack.next_frame=5"):
        run.frames_out.acknowledge(pb.Ack(next_frame=5))
    run.frames_out.put(done(4, 1, {}), last=True)
    await run.task


@pytest.mark.asyncio
async def test_leaving_before_done_is_a_cancel_and_after_it_an_end() -> None:
    run = Delivering(pb.MODE_EXPLICIT)
    run.publish(0, 4)
    with pytest.raises(ClientLeft):
        run.frames_out.hear_end()
    run.frames_out.put(done(4, 1, {}), last=True)
    await run.connection.responded(3)
    assert not run.task.done()
    run.frames_out.hear_end()
    await run.task


@pytest.mark.asyncio
async def test_frames_count_when_they_are_handed_over_whatever_comes_of_the_write() -> None:
    """The client may have them all the same; those that are handed over again are told apart."""
    run = Delivering(pb.MODE_EXPLICIT, resume=pb.Resume())
    run.publish(0, 4)
    await run.connection.responded(2)
    run.connection.write_error = ConnectionError()
    run.publish(4, 4)
    with pytest.raises(ConnectionError):
        await run.task
    totals = run.recorder.totals
    assert (totals.num_frames, totals.num_replayed) == (8, 0)
    assert run.frames_out.record.num_frames == 8
    run.frames_out.rewind(6)
    run.connection.write_error = None
    run.publish(8, 4)
    run.frames_out.put(done(12, 3, {}), last=True)
    again = asyncio.ensure_future(run.frames_out.run(run.connection))
    await run.connection.responded(5)
    run.frames_out.acknowledge(pb.Ack(next_frame=12))
    await again
    assert (totals.num_frames, totals.num_replayed) == (14, 2)


@pytest.mark.asyncio
async def test_a_closed_delivery_has_nothing_left_to_send() -> None:
    run = Delivering(pb.MODE_AUTO)
    await run.connection.responded(1)
    run.publish(0, 4)
    run.frames_out.put(drain(1.0), urgent=True)
    run.frames_out.close()
    run.frames_out.close()
    run.frames_out.put(done(0, 0, {}), last=True)
    await run.task
    assert [each.header.HasField("done") for each in run.connection.responses] == [False, True]


@pytest.mark.asyncio
async def test_an_operator_is_shown_the_newest_frames_that_wait_or_are_kept_or_else_the_next_ones() -> None:
    """Until it says that it took some, and nothing is held for it."""
    run = Delivering(pb.MODE_AUTO)
    seen: list[int] = []

    def look(outgoing: Outgoing) -> bool:
        seen.append(outgoing.first_frame)
        return outgoing.first_frame >= 4

    run.frames_out.show(look)
    assert seen == []
    run.publish(0, 4)
    run.publish(4, 4)
    run.publish(8, 4)
    assert seen == [0, 4]
    run.frames_out.show(look)
    assert seen == [0, 4, 8], "it waits for the connection"
    await settle()
    run.frames_out.show(look)
    assert seen == [0, 4, 8], "it is gone, as AUTO frames are once they are sent"
    run.task.cancel()


@pytest.mark.asyncio
async def test_an_operator_is_shown_what_a_client_has_not_acknowledged() -> None:
    run = Delivering(pb.MODE_EXPLICIT, resume=pb.Resume())
    run.publish(0, 4)
    await settle()
    seen: list[int] = []

    def look(outgoing: Outgoing) -> bool:
        seen.append(outgoing.first_frame)
        return True

    run.frames_out.show(look)
    assert seen == [0]
    run.task.cancel()
