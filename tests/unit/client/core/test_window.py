import pytest

from framehaul_client.core.window import Acknowledgement, FrameWindow, fit_window
from framehaul_client.errors import ProtocolError


def test_a_quarter_of_the_window_is_worth_a_message() -> None:
    """Smaller steps wait until there are more."""
    window = FrameWindow(16)
    window.receive(16)
    window.consume(3)
    assert window.acknowledge(idle=False) is None
    window.consume(1)
    assert window.acknowledge(idle=False) == Acknowledgement(4, 16)
    assert window.acknowledge(idle=False) is None


def test_an_idle_consumer_tells_everything() -> None:
    """The server may need the whole window free before it goes on."""
    window = FrameWindow(16)
    window.receive(1)
    window.consume(1)
    assert window.acknowledge(idle=True) == Acknowledgement(1, 16)
    assert window.acknowledge(idle=True) is None


def test_a_window_of_one_acknowledges_every_frame() -> None:
    """The smallest window works."""
    window = FrameWindow(1)
    for index in range(1, 4):
        window.receive(1)
        window.consume(1)
        assert window.acknowledge(idle=False) == Acknowledgement(index, 1)


def test_more_than_the_window_is_a_fault_of_the_server() -> None:
    """It bounds this process's memory, so it is checked here."""
    window = FrameWindow(4)
    window.receive(4)
    with pytest.raises(ProtocolError, match="frames up to 5 arrived: the window ends at 4"):
        window.receive(1)
    assert (window.num_waiting, window.window_frames) == (4, 4)


def test_frames_that_have_not_come_cannot_be_consumed() -> None:
    """A consumer's fault is not acknowledged."""
    window = FrameWindow(4)
    window.receive(1)
    with pytest.raises(ValueError, match="num_frames=2: only 1 wait"):
        window.consume(2)


@pytest.mark.parametrize(
    ("wanted", "least", "most", "expected"),
    [(10, 4, 20, 10), (1, 4, 20, 4), (50, 4, 20, 20), (50, 4, 0, 50), (0, 0, 0, 1)],
)
def test_fit_window(wanted: int, least: int, most: int, expected: int) -> None:
    """Clamped as the server clamps; a limit of 0 is none."""
    assert fit_window(wanted, least, most) == expected


def test_a_new_server_may_send_its_first_window_from_where_it_starts() -> None:
    """However little of the old window was left; and what was told last is told again."""
    window = FrameWindow(4)
    window.receive(4)
    assert window.room == 0
    assert window.num_waiting == 4
    window.reopen(2)
    window.receive(2)
    with pytest.raises(ProtocolError):
        window.receive(1)
    assert window.repeat() == Acknowledgement(0, 4)
    assert window.everything() == Acknowledgement(6, 4)


def test_a_session_that_starts_in_the_middle_counts_from_there() -> None:
    """Frames are numbered by the clip."""
    window = FrameWindow(8, 100)
    assert (window.room, window.num_waiting, window.repeat()) == (8, 0, Acknowledgement(100, 8))
    window.receive(8)
    window.consume(2)
    assert window.acknowledge(idle=False) == Acknowledgement(102, 8)
