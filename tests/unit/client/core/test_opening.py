import re
from typing import Any

import pytest

from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.latents import LatentFormat
from framehaul_client.core.opening import Opened, aged, frames_wanted, open_message, read_opened, restarted, resumed
from framehaul_client.core.session_config import SessionConfig
from framehaul_client.errors import DataLoss, InvalidLatents, ProtocolError, Unsupported

LATENTS = LatentFormat(LatentDtype.BFLOAT16, (16, 60, 104))


def opened(**changes: Any) -> pb.Opened:
    message = pb.Opened(
        session_id=b"0123456789abcdef01234567", model="tiny", max_message_bytes=64 << 20, height=480, width=832,
        pixel_format=pb.PIXEL_FORMAT_RGB24, frame_bytes=1198080,
        min_window_frames=4, max_window_frames=100, first_frames=1, temporal_factor=4, lookahead_latents=2,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def read(
    message: pb.Opened,
    config: SessionConfig | None = None,
    *,
    start_frame: int = 0,
    latent_height: int = 60,
    latent_width: int = 104,
) -> Opened:
    """Hold an answer against a plain request, from another frame on and for other latents if so told."""
    config = config or SessionConfig()
    asked = open_message(config, LatentFormat(LatentDtype.BFLOAT16, (16, latent_height, latent_width)))
    return read_opened(message, restarted(asked, start_frame, 99, reproducible=False), config)


def test_the_request_says_what_was_asked_for() -> None:
    """Every field of the config has its place in Open; the mode is EXPLICIT."""
    config = SessionConfig(
        model="tiny",
        pixel_format=PixelFormat.YUV420P,
        num_latents=7,
        normalized=True,
        restart_latents=9,
        reproducible=True,
        priority=-3,
        window_frames=9,
        max_message_bytes=5000,
        start_frame=13,
    )
    assert open_message(config, LATENTS) == pb.Open(
        start_frame=13,
        model="tiny",
        geometry=pb.LatentGeometry(channels=16, height=60, width=104),
        dtype=pb.DATA_TYPE_BFLOAT16,
        num_latents=7,
        normalized=True,
        pixel_format=pb.PIXEL_FORMAT_YUV420P,
        max_message_bytes=5000,
        priority=-3,
        mode=pb.MODE_EXPLICIT,
        window_frames=9,
        resume=pb.Resume(),
        restart_latents=9,
        reproducible=True,
    )


def test_a_session_that_is_not_to_be_retried_does_not_ask_to_be_kept() -> None:
    """The server drops it with its connection."""
    assert not open_message(SessionConfig(retry_for_s=0), LATENTS).HasField("resume")


def test_resuming_and_starting_again_repeat_what_was_asked_first() -> None:
    """Only where the session goes on differs; a new one gets no more window than is free here."""
    first = open_message(SessionConfig(num_latents=7, window_frames=9), LATENTS)
    again = resumed(first, b"id", 5)
    assert (again.resume.session_id, again.resume.next_frame) == (b"id", 5)
    again.resume.Clear()
    assert again == first
    new = restarted(resumed(first, b"id", 5), 5, 3, reproducible=True)
    assert (new.start_frame, new.window_frames, new.resume) == (5, 3, pb.Resume())
    assert new.HasField("resume")
    assert restarted(first, 5, 0, reproducible=False).window_frames == 1
    assert restarted(first, 5, 50, reproducible=False).window_frames == 9


@pytest.mark.parametrize(("age_s", "age_ms"), [(0.0, 0), (1.2345, 1234), (1e9, 3_600_000)])
def test_a_later_request_says_how_old_the_first_one_is(age_s: float, age_ms: int) -> None:
    """And is the same otherwise."""
    first = open_message(SessionConfig(num_latents=7, window_frames=9), LATENTS)
    again = aged(first, age_s)
    assert (first.age_ms, again.age_ms) == (0, age_ms)
    again.age_ms = 0
    assert again == first


def test_a_server_that_goes_on_cuts_chunks_as_the_first_one_did() -> None:
    """Whatever each does by default: it is asked to, and one that can't isn't gone on with."""
    first = open_message(SessionConfig(), LATENTS)
    assert not first.HasField("reproducible")
    for agreed in (False, True):
        again = restarted(first, 5, 3, reproducible=agreed)
        assert (again.HasField("reproducible"), again.reproducible) == (True, agreed)
    rules = [read(opened(reproducible=agreed)).clip_rule for agreed in (False, True, True)]
    assert rules[0] != rules[1] == rules[2]


def test_a_server_that_doesnt_know_reproducible_sessions_is_not_taken_for_one_that_does() -> None:
    """An older one passes over the wish; nobody minds who didn't ask."""
    with pytest.raises(Unsupported, match="reproducible=True: this server is older"):
        read(opened(), SessionConfig(reproducible=True))
    for wish in (None, False):
        assert not read(opened(), SessionConfig(reproducible=wish)).reproducible


def test_an_unknown_number_of_latents_is_left_unset() -> None:
    """0 would mean something else."""
    assert not open_message(SessionConfig(), LATENTS).HasField("num_latents")


def test_the_answer_becomes_values() -> None:
    """The window is what was wanted, clamped; the layout is checked."""
    answer = read(opened(), SessionConfig(model="tiny", window_frames=200))
    assert (answer.model, answer.window_frames, answer.layout.shape) == ("tiny", 100, (480, 832, 3))
    assert (answer.num_frames(1), answer.num_frames(10)) == (1, 37)


@pytest.mark.parametrize(("height", "width", "window_frames"), [(480, 832, 56), (16, 16, 87381), (2160, 3840, 16)])
def test_the_window_is_64_mib_of_frames_unless_it_is_given(height: int, width: int, window_frames: int) -> None:
    """Many small frames or a few large ones, but 16 at least."""
    message = opened(height=height, width=width, frame_bytes=height * width * 3, max_window_frames=0)
    answer = read(message, latent_height=height // 8, latent_width=width // 8)
    assert answer.window_frames == window_frames


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_format": pb.PIXEL_FORMAT_YUV420P}, "pixel_format=2: rgb24 was asked for"),
        ({"pixel_format": 77}, "pixel_format=77: rgb24 was asked for"),
        ({"width": 0}, "height, width=480, 0: must be 1..64 times the latents' 60, 104"),
        ({"height": 0}, "height, width=0, 832: must be"),
        ({"width": 840}, "height, width=480, 840: must be"),
        ({"height": 960}, "height, width=960, 832: must be"),
        ({"height": 482}, "height, width=482, 832: must be"),
        ({"height": 60 * 65, "width": 104 * 65}, "height, width=3900, 6760: must be 1..64 times"),
        ({"frame_bytes": 5}, "frame_bytes=5: 832x480 rgb24 has 1198080"),
        ({"first_frames": 0}, "first_frames=0: must be 1..1024"),
        ({"temporal_factor": 0}, "temporal_factor=0: must be 1..1024"),
        ({"temporal_factor": 1025}, "temporal_factor=1025: must be 1..1024"),
        ({"min_window_frames": 101}, "min_window_frames=101: must be 0..100"),
        ({"min_window_frames": 1 << 20, "max_window_frames": 0}, "min_window_frames=1048576: must be 0..896"),
        ({"model": "other"}, "model='other': must be 'tiny', as asked for"),
        ({"model": ""}, "model='': must be 'tiny'"),
        ({"session_id": b""}, "session_id=0 bytes: must be 24 bytes"),
        ({"session_id": bytes(1 << 20)}, "session_id=1048576 bytes: must be 24 bytes"),
        ({"next_latent": 1}, "next_latent=1: must be 0..0"),
        ({"max_message_bytes": 70 << 20}, "max_message_bytes=73400320: must be 0..67108864"),
    ],
)
def test_an_answer_to_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    """Each field that the client goes by is held against what it asked for; the text says what it must be."""
    with pytest.raises(ProtocolError, match=re.escape(message)):
        read(opened(**changes), SessionConfig(model="tiny"))


@pytest.mark.parametrize("name", ["", "\x1b]0;owned\x07", "\u202egnp.exe", "a\nb"])
def test_a_default_model_has_a_name_that_can_be_shown(name: str) -> None:
    """Whoever asks for no model hears which it is; its name goes to terminals and reports."""
    assert read(opened()).model == "tiny"
    with pytest.raises(ProtocolError, match="must be a name") as caught:
        read(opened(model=name))
    assert str(caught.value).isprintable()


def test_a_frame_fits_a_message() -> None:
    """The client said how much it takes at once."""
    with pytest.raises(ProtocolError, match=r"max_message_bytes=67108864: must be 0\.\.1000000, and hold a frame"):
        read(opened(), SessionConfig(max_message_bytes=1_000_000))


def test_an_odd_frame_has_no_shared_chroma() -> None:
    """Sizes that the pixel format can't have are no answer either."""
    message = opened(height=3, width=2, pixel_format=pb.PIXEL_FORMAT_YUV420P, frame_bytes=9)
    with pytest.raises(ProtocolError, match="height=3: must be even with yuv420p"):
        read(message, SessionConfig(pixel_format="yuv420p"), latent_height=3, latent_width=2)


RESUMED = resumed(open_message(SessionConfig(), LATENTS), b"0123456789abcdef01234567", 6)


@pytest.mark.parametrize("next_latent", [2, 5])
def test_a_session_goes_on_at_a_latent_that_can_be(next_latent: int) -> None:
    """No earlier than the frames that came need, and no later than what was sent."""
    message, config = opened(next_latent=next_latent), SessionConfig()
    assert read_opened(message, RESUMED, config, num_sent=5).next_latent == next_latent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_latent": 1}, "next_latent=1: must be 2..5"),
        ({"next_latent": 6}, "next_latent=6: must be 2..5"),
        ({"next_latent": 2, "session_id": b"fedcba987654321001234567"}, "another session_id"),
    ],
)
def test_another_session_or_place_is_refused(changes: dict[str, Any], message: str) -> None:
    """A resumed session is the one that was asked for."""
    with pytest.raises(ProtocolError, match=message) as caught:
        read_opened(opened(**changes), RESUMED, SessionConfig(), num_sent=5)
    assert "fedcba" not in str(caught.value)


def test_a_new_session_starts_where_its_first_frame_needs() -> None:
    """Frame 9 is latent 3's (one frame, then four each); two latents before it are its memory."""
    assert read(opened(history_latents=2, next_latent=1), start_frame=9).next_latent == 1
    with pytest.raises(ProtocolError, match=r"next_latent=3: must be 1\.\.1"):
        read(opened(history_latents=2, next_latent=3), start_frame=9)


@pytest.mark.parametrize(
    "changes", [{"model": "other"}, {"temporal_factor": 8}, {"first_frames": 4}, {"height": 960, "width": 1664}]
)
def test_a_session_keeps_its_decoder(changes: dict[str, Any]) -> None:
    """Its frames would not fit the earlier ones; the session's id is no part of what is said."""
    before = read(opened())
    message = opened(**changes)
    message.frame_bytes = message.height * message.width * 3
    with pytest.raises(DataLoss, match="the server goes on with") as caught:
        read_opened(message, open_message(SessionConfig(), LATENTS), SessionConfig(), before=before)
    assert "0123456789abcdef" not in f"{caught.value}{before!r}"


@pytest.mark.parametrize(
    ("first_frames", "next_frame", "history", "first"),
    [
        *((4, *case) for case in ((0, 4, 0), (3, 4, 0), (19, 4, 0), (20, 4, 1), (23, 4, 1), (24, 4, 2), (7, 0, 1))),
        *((1, *case) for case in ((0, 0, 0), (1, 0, 1), (4, 0, 1), (5, 0, 2), (16, 4, 0), (17, 4, 1), (20, 4, 1))),
        (4, 1000, None, 0),
    ],
)
def test_latents_are_needed_as_far_back_as_the_server_said(
    first_frames: int, next_frame: int, history: int | None, first: int
) -> None:
    """From the one that makes the next frame; all of them where it said nothing."""
    message = opened(first_frames=first_frames)
    if history is not None:
        message.history_latents = history
    assert read(message).first_latent_needed(next_frame) == first


@pytest.mark.parametrize(
    ("num_latents", "num_frames", "expected"), [(None, None, None), (3, None, 9), (3, 9, 9), (3, 6, 6), (1, 1, 1)]
)
def test_the_last_latents_filling_is_left_out(
    num_latents: int | None, num_frames: int | None, expected: int | None
) -> None:
    """A clip has as many frames as was said, if its last latent is needed for them."""
    assert frames_wanted(read(opened()), num_latents, num_frames) == expected


@pytest.mark.parametrize("num_frames", [5, 10, 1])
def test_a_number_of_frames_that_is_not_the_clips_is_refused(num_frames: int) -> None:
    """The text has those that can be."""
    with pytest.raises(InvalidLatents, match=rf"num_frames={num_frames} .*: 3 latents of tiny have 6\.\.9"):
        frames_wanted(read(opened(lookahead_latents=0)), 3, num_frames)


def test_a_server_that_doesnt_know_cold_starts_is_not_taken_for_one_that_does() -> None:
    """It would give other frames, and more of them."""
    config = SessionConfig(restart_latents=9)
    with pytest.raises(Unsupported, match="restart_latents=9: this server is older"):
        read(opened(), config)
    agreed = read(opened(period_latents=9), config)
    assert (agreed.num_frames(9), agreed.num_frames(10)) == (33, 34)
    assert agreed.clip_rule.endswith("4 of each later latent, again each 9")


def test_latents_that_the_last_frame_waits_for_may_be_there() -> None:
    """A part of a clip ends before them: with a lookahead of 2, the third latent may be there for the first's frame."""
    assert frames_wanted(read(opened(lookahead_latents=2)), 3, 1) == 1
    assert frames_wanted(read(opened(lookahead_latents=1)), 3, 2) == 2
    with pytest.raises(InvalidLatents):
        frames_wanted(read(opened(lookahead_latents=1)), 3, 1)
