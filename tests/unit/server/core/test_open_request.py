from dataclasses import replace

import msgspec
import pytest

from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, NotFound, OutOfOrder
from framehaul_server.core.open_request import (
    MAX_LATENTS,
    OpenRules,
    check_open,
    find_model,
    read_open,
)
from framehaul_server.errors import SessionCancelled
from tests.support.fakes import FRAME_BYTES, GEOMETRY, SPEC, opening

RULES = OpenRules(specs=(SPEC,), max_pixels=1 << 10, allow_synthetic=True)
OTHER = msgspec.structs.replace(SPEC, name="other")
ONE_FRAME_BYTES = FRAME_BYTES + 68


def geometry(channels: int, height: int, width: int) -> pb.LatentGeometry:
    return pb.LatentGeometry(channels=channels, height=height, width=width)


def test_a_plain_open_takes_the_defaults() -> None:
    request = check_open(opening(model=""), RULES)
    assert request.spec is SPEC
    assert request.opening.geometry == GEOMETRY
    assert request.opening.dtype is LatentDtype.FLOAT16
    assert request.opening.num_latents is None
    assert request.opening.pixel_format is PixelFormat.RGB24
    assert request.max_message_bytes == 4 << 20
    assert (request.explicit, request.opening.normalized) == (False, False)
    assert request.window_frames is None
    assert (request.latent_bytes, request.frame_bytes) == (96, 288)


@pytest.mark.parametrize(("age_ms", "counted_ms"), [(0, 0), (1, 1), (3_600_000, 3_600_000), (1 << 32 - 1, 3_600_000)])
def test_a_session_has_the_age_that_it_says_up_to_an_hour(age_ms: int, counted_ms: int) -> None:
    """Also on a machine that hasn't run for as long."""
    request = check_open(opening(age_ms=age_ms), RULES, now_ns=1000)
    assert request.opening.asked_ns == 1000 - counted_ms * 1_000_000


def test_every_field_is_taken_over() -> None:
    request = check_open(
        opening(
            dtype=pb.DATA_TYPE_BFLOAT16,
            num_latents=0,
            normalized=True,
            pixel_format=pb.PIXEL_FORMAT_YUV420P,
            max_message_bytes=1000,
            priority=-100,
            mode=pb.MODE_EXPLICIT,
            window_frames=9,
        ),
        RULES,
    )
    assert request.opening.dtype is LatentDtype.BFLOAT16
    assert request.opening.num_latents == 0
    assert request.opening.normalized
    assert request.opening.pixel_format is PixelFormat.YUV420P
    assert request.max_message_bytes == 1000
    assert request.opening.priority == -100
    assert request.explicit
    assert request.window_frames == 9


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"geometry": None}, "open.geometry=unset"),
        ({"geometry": geometry(3, 4, 6)}, "geometry.channels=3: must be 2"),
        ({"geometry": geometry(2, 0, 6)}, "geometry.height=0"),
        ({"geometry": geometry(2, 4, 1 << 31)}, "geometry.width=2147483648"),
        ({"geometry": geometry(2, 40, 40)}, "geometry=80x80: must be at most 1024 pixels"),
        ({"dtype": pb.DATA_TYPE_UNSPECIFIED}, r"open.dtype=0: must be one of DATA_TYPE_FLOAT16 \(1\)"),
        ({"dtype": 77}, "open.dtype=77"),
        ({"pixel_format": 5}, r"open.pixel_format=5: .*GBRPF16LE \(4\)"),
        ({"mode": 9}, "open.mode=9"),
        ({"priority": 101}, r"open.priority=101: must be -100\.\.100"),
        ({"priority": -101}, "open.priority=-101"),
        ({"num_latents": MAX_LATENTS + 1}, "open.num_latents=16777217"),
        (
            {"max_message_bytes": ONE_FRAME_BYTES - 1},
            f"open.max_message_bytes={ONE_FRAME_BYTES - 1}: .* {ONE_FRAME_BYTES}",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_value(changes: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        check_open(opening(**changes), RULES)


@pytest.mark.parametrize("by_default", [False, True])
def test_the_server_decides_of_sessions_that_dont_say_whether_they_are_reproducible(by_default: bool) -> None:
    """The others get what they asked for."""
    rules = replace(RULES, reproducible=by_default)
    found = [
        check_open(opening(**said), rules).opening.reproducible
        for said in ({}, {"reproducible": False}, {"reproducible": True})
    ]
    assert found == [by_default, False, True]


def test_a_window_means_nothing_in_auto_mode() -> None:
    assert check_open(opening(window_frames=9), RULES).window_frames is None


def test_the_smallest_message_size_that_holds_a_frame_is_allowed() -> None:
    assert check_open(opening(max_message_bytes=ONE_FRAME_BYTES), RULES).max_message_bytes == ONE_FRAME_BYTES


def test_messages_grow_beyond_four_mebibytes_for_a_larger_frame_only() -> None:
    big = OpenRules(specs=(SPEC,), max_pixels=1 << 24, allow_synthetic=True)
    large = opening(geometry=geometry(2, 500, 800), max_message_bytes=64 << 20)
    assert check_open(large, big).max_message_bytes == 1000 * 1600 * 3 + 68
    assert check_open(opening(max_message_bytes=64 << 20), RULES).max_message_bytes == 4 << 20


def test_subsampled_chroma_needs_even_frames() -> None:
    odd = OpenRules(specs=(msgspec.structs.replace(SPEC, spatial_factor=1),), max_pixels=1 << 10, allow_synthetic=True)
    for odd_size in (geometry(2, 3, 4), geometry(2, 4, 3)):
        for pixel_format in (pb.PIXEL_FORMAT_YUV420P, pb.PIXEL_FORMAT_YUV420P10LE):
            with pytest.raises(
                InvalidInput, match=r"=yuv420p\w*: must be one of rgb24, gbrpf16le for frames of \dx\d pix"
            ):
                check_open(opening(geometry=odd_size, pixel_format=pixel_format), odd)


@pytest.mark.parametrize(
    ("number", "frame_bytes"),
    [
        (pb.PIXEL_FORMAT_RGB24, 288),
        (pb.PIXEL_FORMAT_YUV420P, 144),
        (pb.PIXEL_FORMAT_YUV420P10LE, 288),
        (pb.PIXEL_FORMAT_GBRPF16LE, 576),
    ],
)
def test_every_format_has_its_bytes(number: pb.PixelFormat, frame_bytes: int) -> None:
    assert check_open(opening(pixel_format=number), RULES).frame_bytes == frame_bytes


def test_a_format_that_slots_are_too_small_for_is_refused_with_those_that_fit() -> None:
    """Slots have 3 bytes for each pixel of the largest frame, so half-float frames may have half as many."""
    half_float = {"pixel_format": pb.PIXEL_FORMAT_GBRPF16LE}
    assert check_open(opening(geometry=geometry(2, 8, 16), **half_float), RULES).frame_size == (16, 32)
    text = (
        "open.pixel_format=gbrpf16le: must be one of rgb24, yuv420p, yuv420p10le for frames of 18x32 pixels; "
        r"of this one the server has room for 512 pixels a frame \(a larger --max-size makes more\)"
    )
    with pytest.raises(InvalidInput, match=text):
        check_open(opening(geometry=geometry(2, 9, 16), **half_float), RULES)


def test_an_explicit_session_of_the_clients_own_latents_may_be_resumable() -> None:
    explicit = opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume())
    assert check_open(explicit, RULES).resumable
    assert not check_open(opening(mode=pb.MODE_EXPLICIT), RULES).resumable
    with pytest.raises(InvalidInput, match=r"open\.resume=set: must be unset, but in EXPLICIT mode"):
        check_open(opening(resume=pb.Resume()), RULES)
    with pytest.raises(InvalidInput, match=r"open\.resume\.next_frame=4: must be 0 for a new session"):
        check_open(opening(mode=pb.MODE_EXPLICIT, resume=pb.Resume(next_frame=4)), RULES)


def test_a_clip_may_start_at_any_of_its_frames() -> None:
    finite = msgspec.structs.replace(SPEC, receptive_latents=3)
    rules = OpenRules(specs=(finite,), max_pixels=1 << 10, allow_synthetic=True)
    started = check_open(opening(start_frame=23, num_latents=6), rules)
    assert (started.start_frame, started.first_latent) == (23, 3)
    assert check_open(opening(start_frame=23), RULES).first_latent == 0
    with pytest.raises(InvalidInput, match=r"open\.start_frame=24: must be 0\.\.23 in a clip of 6 latents"):
        check_open(opening(start_frame=24, num_latents=6), rules)


def test_models_are_found_by_name_and_the_first_is_the_default() -> None:
    assert find_model("", (OTHER, SPEC), field="model") is OTHER
    assert find_model("toy", (OTHER, SPEC), field="model") is SPEC
    with pytest.raises(NotFound, match=r"open\.model='wan': this server has other, toy"):
        find_model("wan", (OTHER, SPEC), field="open.model")


def test_a_session_begins_with_open() -> None:
    message, request = read_open(pb.StreamRequest(open=opening()), RULES)
    assert message == opening()
    assert request == check_open(opening(), RULES)
    with pytest.raises(OutOfOrder, match="the first request must hold open"):
        read_open(pb.StreamRequest(ack=pb.Ack()), RULES)


def test_a_session_may_be_cancelled_with_its_first_request() -> None:
    with pytest.raises(SessionCancelled):
        read_open(pb.StreamRequest(open=opening(), cancel=True), RULES)


def test_a_session_may_want_the_decoder_cold_again() -> None:
    request = check_open(opening(restart_latents=3), RULES)
    assert (request.opening.restart_latents, request.spec.period_latents) == (3, 3)
    assert check_open(opening(), RULES).spec.period_latents == SPEC.period_latents


@pytest.mark.parametrize(
    ("every", "changes", "text"),
    [
        (4097, {}, r"open\.restart_latents=4097: must be 0\.\.4096"),
        (9, {"lookahead_latents": 1}, "open.restart_latents=9: must be 0 for .*, whose frames wait for later latents"),
        (9, {"period_latents": 5}, "open.restart_latents=9: must be 0 for"),
    ],
)
def test_cold_starts_that_can_not_be_are_refused(every: int, changes: dict[str, int], text: str) -> None:
    rules = replace(RULES, specs=(msgspec.structs.replace(SPEC, **changes),))
    with pytest.raises(InvalidInput, match=text):
        check_open(opening(restart_latents=every), rules)
