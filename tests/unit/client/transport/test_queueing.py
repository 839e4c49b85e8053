from collections import deque

import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import ConnectionLost, ProtocolError
from framehaul_client.transport.queueing import QueuePosition, receive_opened

LOST = ConnectionLost("the link is down")


async def nowhere() -> None:
    """There is no place elsewhere."""


class Answers:
    """A stream that gives these, and then ends or fails."""

    def __init__(self, *responses: pb.StreamResponse, error: Exception | None = None) -> None:
        self._responses = deque(responses)
        self._error = error

    async def receive(self) -> wire.Envelope[pb.StreamResponse] | None:
        if self._responses:
            return wire.Envelope(self._responses.popleft(), memoryview(b""))
        if self._error is not None:
            raise self._error
        return None


def queued(position: int) -> pb.StreamResponse:
    return pb.StreamResponse(queued=pb.Queued(position=position))


OPENED = pb.StreamResponse(opened=pb.Opened(model="tiny"))


@pytest.mark.asyncio
async def test_positions_are_told_in_order_and_the_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first position to the answer; one that stays is told once."""
    now_s = 10.0
    monkeypatch.setattr("framehaul_client.transport.queueing.time.perf_counter", lambda: now_s)
    told: list[int | None] = []

    def note(position: int) -> None:
        nonlocal now_s
        told.append(position)
        assert queue.position == position
        now_s += 1.5

    statistics = SessionStatistics(queued_s=1.0)
    queue = QueuePosition(statistics, note)
    answer = await receive_opened(Answers(queued(3), queued(3), queued(1), OPENED), queue, 60.0, nowhere)
    assert answer.header == OPENED
    assert told == [3, 1]
    assert (queue.position, statistics.queued_s) == (None, 4.0)


@pytest.mark.asyncio
async def test_a_session_that_does_not_wait_has_no_position() -> None:
    statistics = SessionStatistics()
    queue = QueuePosition(statistics, None)
    await receive_opened(Answers(OPENED), queue, 60.0, nowhere)
    assert (queue.position, statistics.queued_s) == (None, 0.0)


@pytest.mark.asyncio
async def test_a_call_that_fails_in_the_queue_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is counted up to its last word: a silent server's is no time in a queue."""
    now_s = 10.0
    monkeypatch.setattr("framehaul_client.transport.queueing.time.perf_counter", lambda: now_s)

    class Silent(Answers):
        async def receive(self) -> wire.Envelope[pb.StreamResponse] | None:
            nonlocal now_s
            now_s += 2.0
            return await super().receive()

    statistics = SessionStatistics()
    queue = QueuePosition(statistics, None)
    with pytest.raises(ConnectionLost):
        await receive_opened(Silent(queued(2), queued(2), error=LOST), queue, 60.0, nowhere)
    assert queue.position is None
    assert statistics.queued_s == 2.0


@pytest.mark.asyncio
@pytest.mark.parametrize("answers", [(), (queued(1),), (queued(1), pb.StreamResponse(latents_until=3))])
async def test_anything_else_than_opened_is_no_answer(answers: tuple[pb.StreamResponse, ...]) -> None:
    with pytest.raises(ProtocolError, match="isn't Opened"):
        await receive_opened(Answers(*answers), QueuePosition(SessionStatistics(), None), 60.0, nowhere)


@pytest.mark.asyncio
async def test_a_place_elsewhere_is_looked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a word of the queue's, and not after each one; what is found ends the wait."""
    now_s = 10.0
    monkeypatch.setattr("framehaul_client.transport.queueing.time.perf_counter", lambda: now_s)
    looked: list[int | None] = []

    def pass_time(_position: int) -> None:
        nonlocal now_s
        now_s += 2.0

    async def look() -> None:
        looked.append(queue.position)
        if len(looked) == 2:
            raise LookupError

    queue = QueuePosition(SessionStatistics(), pass_time)
    with pytest.raises(LookupError):
        await receive_opened(Answers(*map(queued, range(9, 0, -1)), OPENED), queue, 60.0, look)
    assert (looked, queue.position) == ([7, 4], None)
