import pytest

from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.latents import LatentFormat
from framehaul_client.core.opening import open_message, read_opened, restarted, resumed
from framehaul_client.core.session_config import SessionConfig
from framehaul_client.errors import ProtocolError, Unsupported

LATENTS = LatentFormat(LatentDtype.BFLOAT16, (16, 60, 104))


def opened(**changes: int) -> pb.Opened:
    message = pb.Opened(
        session_id=b"s", model="tiny", height=480, width=832, pixel_format=pb.PIXEL_FORMAT_RGB24, frame_bytes=1198080,
        min_window_frames=4, max_window_frames=100, first_frames=1, temporal_factor=4, lookahead_latents=2,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_the_request_says_what_was_asked_for() -> None:
    """Every field of the config has its place in Open; the mode is EXPLICIT."""
    config = SessionConfig(
        model="tiny",
        pixel_format=PixelFormat.YUV420P,
        num_latents=7,
        normalized=True,
        reproducible=True,
        priority=-3,
        window_frames=9,
        max_message_bytes=5000,
    )
    assert open_message(config, LATENTS) == pb.Open(
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


def test_a_server_that_goes_on_cuts_chunks_as_the_first_one_did() -> None:
    """Whatever each does by default: it is asked to, and one that can't isn't gone on with."""
    first = open_message(SessionConfig(), LATENTS)
    assert not first.HasField("reproducible")
    for agreed in (False, True):
        again = restarted(first, 5, 3, reproducible=agreed)
        assert (again.HasField("reproducible"), again.reproducible) == (True, agreed)
    answers = [read_opened(opened(reproducible=agreed), SessionConfig()) for agreed in (False, True, True)]
    assert answers[0].agreed != answers[1].agreed == answers[2].agreed


def test_a_server_that_doesnt_know_reproducible_sessions_is_not_taken_for_one_that_does() -> None:
    """An older one passes over the wish; nobody minds who didn't ask."""
    with pytest.raises(Unsupported, match="reproducible=True: this server is older"):
        read_opened(opened(), SessionConfig(reproducible=True))
    for wish in (None, False):
        assert not read_opened(opened(), SessionConfig(reproducible=wish)).reproducible


def test_an_unknown_number_of_latents_is_left_unset() -> None:
    """0 would mean something else."""
    assert not open_message(SessionConfig(), LATENTS).HasField("num_latents")


def test_the_answer_becomes_values() -> None:
    """The window is what was wanted, clamped; the layout is checked."""
    answer = read_opened(opened(), SessionConfig(window_frames=200))
    assert (answer.model, answer.window_frames, answer.layout.shape) == ("tiny", 100, (480, 832, 3))
    assert (answer.num_frames(1), answer.num_frames(10)) == (1, 37)


@pytest.mark.parametrize(("height", "width", "window_frames"), [(480, 832, 56), (16, 16, 87381), (2160, 3840, 16)])
def test_the_window_is_64_mib_of_frames_unless_it_is_given(height: int, width: int, window_frames: int) -> None:
    """Many small frames or a few large ones, but 16 at least."""
    message = opened(height=height, width=width, frame_bytes=height * width * 3, max_window_frames=0)
    assert read_opened(message, SessionConfig()).window_frames == window_frames


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_format": pb.PIXEL_FORMAT_YUV420P}, "pixel_format=2: rgb24 was asked for"),
        ({"width": 0}, "width=0: must be 1 or more"),
        ({"frame_bytes": 5}, "frame_bytes=5: 832x480 rgb24 has 1198080"),
    ],
)
def test_an_answer_to_something_else_is_refused(changes: dict[str, int], message: str) -> None:
    """Frames of another layout would be read wrongly."""
    with pytest.raises(ProtocolError, match=message):
        read_opened(opened(**changes), SessionConfig())


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
    assert read_opened(message, SessionConfig()).first_latent_needed(next_frame) == first
