import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput
from framehaul_server.core.packing import Outgoing, pack
from framehaul_server.core.retention import Retention
from tests.support.fakes import FRAME_BYTES, frame, published

DONE = Outgoing(message=b"done", last=True)


def frames(first: int, count: int) -> Outgoing:
    payload = b"".join(frame(index) for index in range(first, first + count))
    (outgoing,) = pack(published(first, count), memoryview(payload), count, 7)
    return outgoing


def sent(*outgoing: Outgoing, first_frame: int = 0) -> Retention:
    retention = Retention(first_frame)
    for each in outgoing:
        retention.sent(each, keep=True)
    return retention


def test_what_is_not_acknowledged_is_sent_again_as_it_was() -> None:
    first, second, third = frames(0, 4), frames(4, 4), frames(8, 2)
    retention = sent(first, second, third)
    retention.acknowledge(4)
    assert retention.rewind(4) == [second, third]
    assert retention.num_sent == 4
    assert retention.rewind(4) == []


def test_done_is_sent_again_until_everything_is_acknowledged() -> None:
    retention = sent(frames(0, 4), DONE)
    assert not retention.complete
    retention.acknowledge(4)
    assert bool(retention.complete)
    assert retention.rewind(4) == [DONE]
    assert not retention.complete


def test_a_client_has_more_than_it_acknowledged() -> None:
    retention = sent(frames(0, 4), frames(4, 4))
    assert retention.rewind(8) == []
    with pytest.raises(InvalidInput, match=r"open\.resume\.next_frame=4: must be 8\.\.8"):
        retention.rewind(4)


@pytest.mark.parametrize("next_frame", [3, 9])
def test_a_client_that_forgot_or_foresees_frames_is_refused(next_frame: int) -> None:
    retention = sent(frames(0, 4), frames(4, 4))
    retention.acknowledge(4)
    with pytest.raises(InvalidInput, match=rf"next_frame={next_frame}: must be 4\.\.8"):
        retention.rewind(next_frame)
    assert retention.rewind(4) != []


def test_a_message_is_cut_where_its_client_has_part_of_it() -> None:
    (again,) = sent(frames(4, 4), first_frame=4).rewind(6)
    assert (again.first_frame, again.num_frames) == (6, 2)
    parsed = wire.split_response(again.message)
    assert parsed.header == pb.StreamResponse(frames=pb.Frames(first_frame=6, num_frames=2, crc32c=[102, 103]))
    assert parsed.payload == frame(6) + frame(7)
    assert len(parsed.payload) == 2 * FRAME_BYTES


def test_grants_are_not_kept_and_nothing_is_when_nobody_may_resume() -> None:
    retention = sent(Outgoing(message=b"grant"))
    retention.sent(frames(0, 4), keep=False)
    assert retention.num_sent == 4
    assert retention.rewind(4) == []


def test_clearing_drops_what_is_kept() -> None:
    retention = sent(frames(0, 4))
    retention.clear()
    assert retention.rewind(0) == []


def test_the_newest_frames_that_are_kept_can_be_looked_at() -> None:
    """`Done` has none."""
    retention = sent(frames(0, 4), frames(4, 4), DONE)
    assert retention.newest == frames(4, 4)
    retention.acknowledge(8)
    assert retention.newest is None
