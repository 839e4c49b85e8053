import msgspec
import numpy as np
import pytest
from crc32c import crc32c

from framehaul.formats import LatentDtype
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import DataLoss, InvalidInput, OutOfOrder
from framehaul_server.core.latents import LatentInput, check_finite, holds_latents
from framehaul_server.core.open_request import MAX_LATENTS, check_open
from framehaul_server.errors import GrantExceeded
from tests.support.fakes import FINITE, LATENT_BYTES, SPEC, latents, opening, rules


def latent_input(**changes: object) -> LatentInput:
    return LatentInput(check_open(opening(**changes), rules().opening))


def accept(given: LatentInput, payload: bytes, *, latents_until: int | None = None, **fields: int) -> list[memoryview]:
    header = pb.StreamRequest(**fields)  # type: ignore[arg-type]
    accepted = given.accept(header, memoryview(payload), latents_until=latents_until)
    given.count(len(accepted))
    return accepted


def test_a_message_is_cut_into_latents_without_copying() -> None:
    payload = bytes(range(LATENT_BYTES)) * 2
    given = latent_input()
    first, second = accept(given, payload)
    assert first.obj is payload
    assert second == payload[LATENT_BYTES:]
    assert (given.num_received, given.num_pending) == (2, 2)


def test_index_count_and_checksum_are_checked_when_given() -> None:
    given = latent_input()
    accept(given, latents(2), index=0, num_latents=2, crc32c=crc32c(latents(2)))
    accept(given, latents(1), index=2)
    assert given.num_received == 3


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_gap_or_a_repeat_is_out_of_order(index: int) -> None:
    given = latent_input()
    accept(given, latents(2))
    with pytest.raises(OutOfOrder, match=f"index={index}: the next latent is 2"):
        accept(given, latents(1), index=index)


@pytest.mark.parametrize("num_bytes", [0, 1, LATENT_BYTES - 1, LATENT_BYTES + 1])
def test_part_of_a_latent_is_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidInput, match=rf"latents={num_bytes} bytes: must be .* 96 bytes, one float16 latent"):
        accept(latent_input(), bytes(num_bytes), index=0)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_latents_than_said_is_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"num_latents={count}: must be 2"):
        accept(latent_input(), latents(2), num_latents=count)


def test_more_latents_than_declared_are_refused() -> None:
    given = latent_input(num_latents=2)
    accept(given, latents(1))
    with pytest.raises(InvalidInput, match="latents=3 latents: must be at most 2"):
        accept(given, latents(2))
    assert given.num_received == 1


def test_an_undeclared_number_is_still_bounded() -> None:
    given = latent_input()
    given.count(MAX_LATENTS)
    with pytest.raises(InvalidInput, match="must be at most 16777216"):
        given.count(1)


def test_a_clip_that_makes_its_state_larger_tells_its_length_or_is_short() -> None:
    """What it isn't told to have, nobody has reckoned with; one that is cold again and again stays as large."""
    growing = rules(spec=msgspec.structs.replace(SPEC, growth_bytes_per_pixel=1.0)).opening
    for told in ({"num_latents": 200}, {"restart_latents": 9}):
        LatentInput(check_open(opening(**told), growing)).count(129)
    given = LatentInput(check_open(opening(), growing))
    given.count(128)
    with pytest.raises(InvalidInput, match="at most 128 in this session: its opening doesn't tell num_latents"):
        given.count(1)
    with pytest.raises(InvalidInput, match=r"open\.start_frame=512: must be 0\.\.511 in a clip of 128 latents"):
        check_open(opening(start_frame=512), growing)


def test_another_checksum_is_data_loss() -> None:
    with pytest.raises(DataLoss, match="crc32c=0x00000007: the latents field has 0x"):
        accept(latent_input(), latents(1), crc32c=7)


def test_more_than_granted_is_refused_up_to_it_is_not() -> None:
    given = latent_input()
    accept(given, latents(2), latents_until=2)
    with pytest.raises(GrantExceeded, match="3 sent, latents_until is 2"):
        accept(given, latents(1), latents_until=2)


def test_nothing_comes_after_the_end() -> None:
    given = latent_input()
    given.end()
    given.end()
    assert given.num_latents == 0
    with pytest.raises(OutOfOrder, match="after end_of_latents"):
        accept(given, latents(1))


def test_fewer_latents_than_declared_are_refused_at_the_end() -> None:
    given = latent_input(num_latents=2)
    assert given.num_latents == 2
    accept(given, latents(1))
    with pytest.raises(InvalidInput, match=r"open\.num_latents=2: must be 1"):
        given.end()


def test_a_clip_that_ends_before_its_first_wanted_frame_is_refused_at_the_end() -> None:
    """One that ends with it has nothing to send, and ends well."""
    request = check_open(opening(start_frame=41), rules(spec=FINITE).opening)
    given = LatentInput(request)
    accept(given, latents(10 - given.num_received))
    with pytest.raises(InvalidInput, match=r"^open.start_frame=41: must be at most 40, the clip's number of frames"):
        given.end()
    given = LatentInput(check_open(opening(start_frame=40), rules(spec=FINITE).opening))
    accept(given, latents(10 - given.num_received))
    given.end()


@pytest.mark.parametrize("fields", [{"crc32c": 0}, {"num_latents": 1}, {"index": 0}])
def test_what_tells_of_latents_needs_latents(fields: dict[str, int]) -> None:
    assert holds_latents(Envelope(pb.StreamRequest(**fields), memoryview(b"")))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^latents=0 bytes: must be a positive multiple"):
        accept(latent_input(), b"", **fields)


def test_the_number_of_latents_is_unknown_until_the_end() -> None:
    given = latent_input()
    accept(given, latents(1))
    assert given.num_latents is None
    given.end()
    assert given.num_latents == 1


@pytest.mark.parametrize("dtype", [LatentDtype.FLOAT16, LatentDtype.FLOAT32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_are_found_and_their_place_is_named(dtype: LatentDtype, value: float) -> None:
    elements = np.zeros(10, dtype=dtype.value)
    elements[7] = value
    with pytest.raises(InvalidInput, match=r"latents=NaN or infinity at element 7 of latent 3: must be finite"):
        check_finite(memoryview(elements.tobytes()), dtype, 3)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFF81])
def test_nan_and_infinities_are_found_in_bfloat16(bits: int) -> None:
    elements = np.array([0, bits], dtype="<u2")
    with pytest.raises(InvalidInput, match="element 1 of latent 0"):
        check_finite(memoryview(elements.tobytes()), LatentDtype.BFLOAT16, 0)


def test_the_largest_and_smallest_values_are_finite() -> None:
    for dtype in (LatentDtype.FLOAT16, LatentDtype.FLOAT32):
        limits = np.finfo(dtype.value)
        elements = np.array(
            [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0, -0.0], dtype=dtype.value
        )
        check_finite(memoryview(elements.tobytes()), dtype, 0)
    check_finite(memoryview(np.array([0x7F7F, 0xFF7F, 1, 0x8000], dtype="<u2").tobytes()), LatentDtype.BFLOAT16, 0)


def test_unaligned_latents_are_read_as_they_lie() -> None:
    elements = np.array([1.5, np.inf], dtype=np.float32)
    with pytest.raises(InvalidInput, match="element 1"):
        check_finite(memoryview(b"x" + elements.tobytes())[1:], LatentDtype.FLOAT32, 0)
