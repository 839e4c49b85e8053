import io

import pytest

from framehaul_client.command.progress import Bar, Lines, Progress, choose_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_stream_decides() -> None:
    """A bar on a terminal, lines elsewhere, nothing when quiet."""
    assert type(choose_progress(quiet=True, stream=Terminal())) is Progress
    assert type(choose_progress(quiet=False, stream=Terminal())) is Bar
    assert type(choose_progress(quiet=False, stream=io.StringIO())) is Lines


def test_lines_are_plain_and_come_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """No control characters, and not a line for each frame."""
    now_s = 0.0
    monkeypatch.setattr("framehaul_client.command.progress.time.monotonic", lambda: now_s)
    stream = io.StringIO()
    with Lines(stream) as lines:
        lines.start(40)
        for _ in range(10):
            now_s += 0.5
            lines.advance(4)
    assert stream.getvalue() == "16 of 40 frames, 8.0 frames/s\n32 of 40 frames, 8.0 frames/s\n"


def test_an_unknown_total_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts alone."""
    now_s = 0.0
    monkeypatch.setattr("framehaul_client.command.progress.time.monotonic", lambda: now_s)
    stream = io.StringIO()
    lines = Lines(stream)
    lines.start(None)
    now_s = 2.0
    lines.advance(4)
    assert stream.getvalue() == "4 frames, 2.0 frames/s\n"


def test_the_bar_counts_to_its_total() -> None:
    """The last state stays on the terminal."""
    terminal = Terminal()
    with Bar(terminal) as bar:
        bar.start(8)
        bar.advance(8)
    assert "8/8" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_a_failure_wipes_the_bar() -> None:
    """The error's line then stands alone."""
    terminal = Terminal()

    def fail() -> None:
        with Bar(terminal) as bar:
            bar.start(8)
            bar.advance(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert terminal.getvalue().rstrip(" ").endswith("\r")


def test_a_bar_that_never_started_says_nothing() -> None:
    """An error before the first frame needs no bar."""
    terminal = Terminal()
    with Bar(terminal) as bar:
        bar.advance(1)
    assert terminal.getvalue() == ""


def test_lines_tell_each_position_in_the_queue() -> None:
    """One line each, before those of the frames."""
    stream = io.StringIO()
    with Lines(stream) as lines:
        lines.queue(3)
        lines.queue(1)
    assert stream.getvalue() == "queued, position 3\nqueued, position 1\n"


def test_on_a_terminal_the_position_stands_in_one_place_and_goes_before_the_bar() -> None:
    """As well when it ends there, for the error's line to stand alone."""
    terminal = Terminal()
    with Bar(terminal) as bar:
        bar.queue(12)
        bar.queue(1)
        assert terminal.getvalue() == "\r\x1b[Kqueued, position 12\r\x1b[Kqueued, position 1"
        bar.start(8)
        bar.advance(8)
    assert terminal.getvalue().startswith("\r\x1b[Kqueued, position 12\r\x1b[Kqueued, position 1\r\x1b[K\r")
    assert "8/8" in terminal.getvalue()
    left = Terminal()
    with Bar(left) as bar:
        bar.queue(2)
    assert left.getvalue() == "\r\x1b[Kqueued, position 2\r\x1b[K"


def test_a_lost_session_that_is_queued_again_says_so_at_its_bar() -> None:
    """Until frames come."""
    terminal = Terminal()
    with Bar(terminal) as bar:
        bar.start(8)
        bar.advance(4)
        bar.queue(2)
        assert "queued, position 2" in terminal.getvalue().rpartition("\r")[2]
        bar.advance(4)
    assert "8/8" in terminal.getvalue()
    assert "queued" not in terminal.getvalue().rpartition("\r")[2]


def test_silence() -> None:
    """Quiet means quiet."""
    with Progress() as silence:
        silence.queue(3)
        silence.start(3)
        silence.advance(3)
