import pytest
from hypothesis import given
from hypothesis import strategies as st

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import MalformedMessage, join, split, split_request, split_response

frames = st.builds(
    pb.Frames,
    first_frame=st.integers(0, 2**64 - 1),
    num_frames=st.integers(0, 2**32 - 1),
    crc32c=st.lists(st.integers(0, 2**32 - 1), max_size=4),
)
headers = st.builds(pb.StreamResponse, frames=frames, latents_until=st.integers(0, 2**64 - 1))


@given(header=headers, payload=st.binary(min_size=1, max_size=300))
def test_join_writes_what_a_generated_stub_writes(header: pb.StreamResponse, payload: bytes) -> None:
    """Byte for byte, so that foreign clients need nothing of ours."""
    whole = pb.StreamResponse()
    whole.CopyFrom(header)
    whole.payload = payload
    assert join(header, [payload[:1], memoryview(payload)[1:]]) == whole.SerializeToString(deterministic=True)


@given(header=headers, payload=st.binary(max_size=300))
def test_split_reads_what_a_generated_stub_writes(header: pb.StreamResponse, payload: bytes) -> None:
    """Header and payload come back, the payload as a view of the message."""
    whole = pb.StreamResponse()
    whole.CopyFrom(header)
    whole.payload = payload
    raw = whole.SerializeToString()
    envelope = split_response(raw)
    assert envelope.header == header
    assert bytes(envelope.payload) == payload
    assert envelope.payload.readonly
    assert not payload or envelope.payload.obj is raw


def test_field_order_unknown_fields_and_repeated_payloads() -> None:
    """Any order is fine, fields of later versions are kept, and of several payloads the last counts."""
    payload = b"\x7a\x02ab"
    unknown = b"\x98\x06\x05" + b"\xa5\x06\x01\x02\x03\x04" + b"\xa9\x06" + bytes(8)
    envelope = split(
        payload + unknown + pb.StreamResponse(latents_until=7).SerializeToString() + b"\x7a\x01c", pb.StreamResponse
    )
    assert envelope.header.latents_until == 7
    assert bytes(envelope.payload) == b"c"


@given(st.binary(max_size=60))
def test_arbitrary_bytes_parse_as_protobuf_does_or_are_refused(raw: bytes) -> None:
    """The codec accepts nothing that a generated stub refuses; groups, which proto3 has not, are refused too."""
    try:
        envelope = split_request(raw)
    except MalformedMessage:
        return
    whole = pb.StreamRequest.FromString(raw)
    assert bytes(envelope.payload) == whole.latents
    whole.ClearField("latents")
    assert envelope.header == whole


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x7a\x05ab", "ends at 7: the message has 4 bytes"),
        (b"\x7a", "cut off at byte 1"),
        (b"\x80" * 11, "longer than 10 bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x02\xff\xff", "not a StreamRequest"),
        (b"\x05\x00", "ends at"),
    ],
)
def test_malformed_bytes_say_what_is_wrong(raw: bytes, message: str) -> None:
    """So that the writer of a foreign client finds it."""
    with pytest.raises(MalformedMessage, match=message):
        split_request(raw)


def test_an_envelope_counts_the_whole_message_that_it_keeps() -> None:
    """A payload that another one replaced is kept as well."""
    raw = join(pb.StreamRequest(num_latents=1), (bytes(500),)) + join(pb.StreamRequest(), (b"x",))
    assert split_request(raw).num_bytes == len(raw)
    assert split_request(pb.StreamRequest(cancel=True).SerializeToString()).num_bytes == 2
