import io
import itertools
import json
import threading

import pytest

from framehaul_client.command.progress import Bar, Lines, Progress, Standing, Style, choose_progress
from framehaul_client.core.highlights import Excerpt
from framehaul_client.core.highlights import Progress as Scanned


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """The time, as far as these tests let it pass."""

    now_s = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("framehaul_client.command.progress.time.monotonic", lambda: Clock.now_s)
    Clock.now_s = 100.0
    return Clock()


def lines(style: Style, stream: io.StringIO) -> Lines:
    """Those of a style, which no thread writes."""
    made = choose_progress(style, stream, terminal=stream)
    assert isinstance(made, Lines)
    return made


def test_style_and_stream_decide() -> None:
    """A bar on a terminal, lines elsewhere; lines for managers go where they read."""
    out, terminal, log = io.StringIO(), Terminal(), io.StringIO()
    assert type(choose_progress(Style.NONE, out, terminal=terminal)) is Progress
    assert type(choose_progress(Style.AUTO, out, terminal=terminal)) is Bar
    for style, stream in ((Style.AUTO, log), (Style.JSON, out), (Style.OPENJD, out)):
        made = choose_progress(style, out, terminal=log)
        assert type(made) is Lines
        assert made._stream is stream


def run_with(progress: Lines) -> None:
    """A run of 40 frames that is queued, then waits for long, and has its last frame after 8 s."""
    progress.tell()
    progress.queue(2)
    progress.tell()
    progress.start(40)
    progress.advance(4)
    Clock.now_s += 2
    progress.tell()
    progress.queue(1)
    Clock.now_s += 6
    progress.advance(36)
    progress.finish()
    progress.tell()


def test_lines_for_people_say_where_it_stands(clock: Clock) -> None:
    """No control characters; in the queue too, and while no frame comes."""
    stream = io.StringIO()
    run_with(lines(Style.AUTO, stream))
    assert stream.getvalue().splitlines() == [
        "queued, position 2",
        "4 of 40 frames, 2.0 frames/s; none for 2 s",
        "queued, position 1",
        "40 of 40 frames, 5.0 frames/s; finishing the output",
    ]


def test_how_far_a_film_is_scanned_is_a_line_and_then_its_frames_count(clock: Clock) -> None:
    """Each excerpt's anew."""
    stream = io.StringIO()
    progress = lines(Style.AUTO, stream)
    best = Excerpt(3.5, 5.5, 3.0, weak=False)
    for scanned in (
        Scanned(uploaded_bytes=2_000_000, scanned_s=0, total_s=None, num_samples=0, best=None),
        Scanned(uploaded_bytes=2_000_000, scanned_s=4, total_s=10, num_samples=8, best=best),
    ):
        progress.scan(scanned)
        progress.tell()
    for num_frames in (8, 4):
        progress.start(num_frames)
        Clock.now_s += 1
        progress.advance(num_frames)
        progress.tell()
    assert stream.getvalue().splitlines() == [
        "sent 2.0 MB",
        "scanned 0:04.0 of 0:10.0, best so far 0:03.5-0:05.5, 3.0 sd",
        "8 of 8 frames, 8.0 frames/s",
        "4 of 4 frames, 4.0 frames/s",
    ]


def test_open_job_description_gets_its_lines(clock: Clock) -> None:
    """As its runtime reads them: `^openjd_(progress|status|fail): (.+)$`, progress from 0 to 100."""
    stream = io.StringIO()
    run_with(lines(Style.OPENJD, stream))
    assert stream.getvalue().splitlines() == [
        "openjd_status: connecting",
        "openjd_status: queued, position 2",
        "openjd_status: queued, position 2",
        "openjd_status: 4 of 40 frames, 2.0 frames/s; none for 2 s",
        "openjd_progress: 10.0",
        "openjd_status: queued, position 1",
        "openjd_progress: 10.0",
        "openjd_status: 40 of 40 frames, 5.0 frames/s; finishing the output",
        "openjd_progress: 100.0",
    ]


def test_json_lines_have_the_numbers(clock: Clock) -> None:
    """An object each."""
    stream = io.StringIO()
    run_with(lines(Style.JSON, stream))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["stage"] for each in found] == ["connecting", "queued", "queued", "streaming", "queued", "finishing"]
    assert [each["progress"] for each in found] == [None, None, None, 10.0, 10.0, 100.0]
    assert found[3] == {
        "stage": "streaming", "queue_position": None, "num_frames": 4, "total_frames": 40,
        "frames_per_s": 2.0, "silent_s": 2.0, "progress": 10.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("disk\nfull"), "disk\\nfull"), (KeyboardInterrupt(), "interrupted"), (OSError(), "OSError")],
)
def test_a_failure_is_told_in_one_line(error: BaseException, told: str) -> None:
    """To Open Job Description; who reads JSON gets the command's own line."""

    def fail(progress: Lines) -> None:
        with progress:
            raise error

    openjd, told_json = io.StringIO(), io.StringIO()
    for style, stream in ((Style.OPENJD, openjd), (Style.JSON, told_json)):
        with pytest.raises(type(error)):
            fail(lines(style, stream))
    assert openjd.getvalue().splitlines()[-1] == f"openjd_fail: {told}"
    assert json.loads(told_json.getvalue().splitlines()[-1])["stage"] == "connecting"


def test_it_goes_on_telling_whatever_happens() -> None:
    """By itself, until it is left; then how it ended. A reader that has gone is no error."""
    told, often = list[str](), threading.Event()

    def form(standing: Standing) -> list[str]:
        told.append(standing.stage)
        if len(told) == 5:
            often.set()
        return [standing.stage]

    stream = io.StringIO()
    with Lines(stream, form, 0.001) as progress:
        progress.start(None)
        assert often.wait(60)
    assert told[-1] == "done"
    assert stream.getvalue().splitlines() == told
    assert [stage for stage, _ in itertools.groupby(told)] == ["connecting", "streaming", "done"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    """What the command says last tells of it."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with lines(Style.OPENJD, Gone()) as progress:
        progress.queue(1)


def test_an_unknown_total_is_not_told(clock: Clock) -> None:
    """Counts alone, and no percentage."""
    stream = io.StringIO()
    progress = lines(Style.OPENJD, stream)
    progress.start(None)
    Clock.now_s += 2.0
    progress.advance(4)
    progress.tell()
    assert stream.getvalue() == "openjd_status: 4 frames, 2.0 frames/s\n"


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
        silence.finish()
