import msgspec
import pytest

from framehaul_pipeline.errors import InvalidInput
from framehaul_server.core.window import FrameWindow, WindowLimits, allowed_latents
from tests.support.fakes import SPEC

LOOKING_AHEAD = msgspec.structs.replace(SPEC, first_frames=1, lookahead_latents=2)


def test_smallest_window_holds_the_frames_of_one_latent_and_of_the_lookahead() -> None:
    assert WindowLimits.of(SPEC, 100, 0) == WindowLimits(min_frames=4, max_frames=4)
    assert WindowLimits.of(LOOKING_AHEAD, 100, 0) == WindowLimits(min_frames=12, max_frames=12)
    tiled = msgspec.structs.replace(LOOKING_AHEAD, lookahead_latents=4, tile_latents=5, tile_stride_latents=3)
    assert WindowLimits.of(tiled, 100, 0) == WindowLimits(min_frames=17, max_frames=17)


def test_largest_window_is_set_by_bytes() -> None:
    assert WindowLimits.of(SPEC, 100, 2050).max_frames == 20


@pytest.mark.parametrize(("asked", "given"), [(0, 4), (3, 4), (7, 7), (11, 10)])
def test_a_window_is_brought_into_its_limits(asked: int, given: int) -> None:
    assert FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=asked).frames_until == given


def test_no_wish_gives_the_widest_window() -> None:
    assert FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=None).frames_until == 10


def test_acknowledgements_move_the_window_and_older_ones_change_nothing() -> None:
    window = FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=4)
    window.ack(3, 8, num_sent=4)
    assert (window.num_taken, window.frames_until) == (3, 11)
    window.ack(1, 10, num_sent=4)
    assert (window.num_taken, window.frames_until) == (3, 11)


def test_the_same_acknowledgement_may_widen_the_window_but_a_promise_is_never_taken_back() -> None:
    window = FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=4)
    window.ack(0, 9, num_sent=0)
    assert window.frames_until == 9
    window.ack(0, 5, num_sent=0)
    assert window.frames_until == 9


def test_acknowledging_frames_that_were_not_sent_names_the_field() -> None:
    window = FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=4)
    with pytest.raises(InvalidInput, match=r"^ack.next_frame=5: must be at most 4"):
        window.ack(5, 4, num_sent=4)
    assert window.frames_until == 4


def test_taken_frames_move_an_auto_window() -> None:
    window = FrameWindow(WindowLimits(min_frames=4, max_frames=10), initial_frames=None)
    window.take(3)
    assert (window.num_taken, window.frames_until) == (3, 13)


@pytest.mark.parametrize(("taken", "wanted_until"), [(0, 116), (1, 118), (64, 244), (70, 250)])
def test_a_client_is_believed_a_chunk_and_as_much_as_it_has_taken(taken: int, wanted_until: int) -> None:
    """Up to five chunks, wherever the session begins."""
    window = FrameWindow(WindowLimits(min_frames=4, max_frames=100), initial_frames=None, first_frame=100)
    window.take(taken)
    assert window.wanted_until(16) == wanted_until


@pytest.mark.parametrize(
    ("frames_until", "num_latents", "allowed"),
    [
        (0, None, 0),
        (1, None, 1),
        (5, None, 2),
        (5, 3, 2),  # latents 0..1 give no frame yet; the third would bring all nine at once
        (5, 10, 4),  # frames of latents 2 and 3 are held back
        (37, 10, 10),
        (36, 10, 9),
    ],
)
def test_lookahead_counts_the_frames_that_come_with_the_last_latent(
    frames_until: int, num_latents: int | None, allowed: int
) -> None:
    assert allowed_latents(LOOKING_AHEAD, frames_until, num_latents) == allowed
