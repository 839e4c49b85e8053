import io
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from framehaul.causes import COLOURS, Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.command.arguments import Options
from framehaul_client.command.timeline import timeline
from framehaul_client.core.events import Event
from framehaul_client.errors import InvalidOption, OutputError
from framehaul_client.trace.picture import draw
from framehaul_client.trace.reader import read_trace
from framehaul_client.trace.tracks import TraceFile
from framehaul_client.trace.writer import Clock, TraceWriter
from tests.support.traces import MS, SESSION, STARTED, chunk, event, waited

START = 1000 * MS


def make_trace(path: Path, *, num_sessions: int = 1, slice_ns: int = 10 * MS, rounds: int = 1) -> Path:
    """Each session waits for each cause in turn; a chunk every 20 ms that takes 15."""
    file = TraceFile(path)
    writer = TraceWriter(file, "gpu7:50051")
    writer.start(pb.TraceResponse(started=STARTED, now_ns=START), Clock())
    sessions = range(1, num_sessions + 1)
    told = [pb.TraceSession(number=number, model="$tiny$", width=32, height=16) for number in sessions]
    writer.server(pb.TraceResponse(sessions=told, now_ns=START))
    at_ns = START
    for _ in range(rounds):
        for number, cause in enumerate(Cause):
            events = [waited(cause, at_ns, at_ns + slice_ns, session) for session in sessions]
            events.append(event(pb.TRACE_EVENT_KIND_SENT, at_ns, number, 1, took_ns=slice_ns // 4, session=1))
            writer.server(pb.TraceResponse(events=events, now_ns=at_ns))
            at_ns += slice_ns
    chunks = [chunk(begun, begun, begun + 15 * MS, session=1) for begun in range(START, at_ns - 20 * MS, 20 * MS)]
    writer.server(pb.TraceResponse(events=chunks, now_ns=at_ns, events_dropped=3))
    writer.client(Event("encode", START, START + 30 * MS, 0, 3))
    writer.finish()
    file.publish()
    return path


def colours(drawn: bytes) -> set[object]:
    with Image.open(io.BytesIO(drawn)) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}


def test_a_trace_is_read_back(tmp_path: Path) -> None:
    """The verdict is that of the sessions' time; the device's gaps lie between its chunks."""
    trace = read_trace(make_trace(tmp_path / "t.pftrace", num_sessions=2))
    assert trace.span_ns == (START, START + 90 * MS)
    assert trace.verdict is not None
    assert trace.verdict.share == pytest.approx(1 / 9)
    assert [each.name for each in trace.sessions] == ["session 1 · $tiny$ 32x16", "session 2 · $tiny$ 32x16"]
    assert trace.idle() == [(START + end * MS, START + (end + 5) * MS) for end in (15, 35, 55)]
    assert (trace.about["target"], trace.about["events left out"]) == ("gpu7:50051", 3)


@pytest.mark.parametrize(
    ("num_sessions", "slice_ns", "rounds"), [(1, 10 * MS, 1), (8, 10 * MS, 1), (30, 10 * MS, 1), (2, 100_000, 300)]
)
def test_each_cause_has_its_colour_in_the_picture(
    tmp_path: Path, num_sessions: int, slice_ns: int, rounds: int
) -> None:
    """Also where slices are far thinner than a pixel, and where not all sessions have room."""
    trace = read_trace(make_trace(tmp_path / "t.pftrace", num_sessions=num_sessions, slice_ns=slice_ns, rounds=rounds))
    drawn = draw(trace, "png")
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.width == 1680
        assert 300 < picture.height < 2200
    assert colours(drawn) >= {ImageColor.getrgb(colour) for colour in COLOURS.values()}


def run(trace: Path, out: Path) -> str:
    return timeline(Options(command="timeline", file=str(trace), out=str(out)))


def test_the_command_draws_by_the_suffix(tmp_path: Path) -> None:
    """It replaces what had that name."""
    trace = make_trace(tmp_path / "t.pftrace")
    (tmp_path / "t.png").write_text("old")
    assert "bound by " in run(trace, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    run(trace, tmp_path / "t.svg")
    assert "<svg" in (tmp_path / "t.svg").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.pftrace", "t.png", "t.svg"]


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (None, "No such file or directory"),
        (b"", "nothing happened in this trace"),
        (b"no trace", "is no trace, or was cut off"),
        (b"\x0a", "is no trace, or was cut off"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "is no trace, or was cut off"),
        (b"\x0a\x05abc", "is no trace, or was cut off"),
        (b"\x0a\x02\x40\x01", "nothing happened in this trace"),
    ],
)
def test_what_is_no_trace_is_called_so(tmp_path: Path, contents: bytes | None, text: str) -> None:
    if contents is not None:
        (tmp_path / "t.pftrace").write_bytes(contents)
    with pytest.raises(InvalidOption, match=text):
        run(tmp_path / "t.pftrace", tmp_path / "t.png")
    assert not (tmp_path / "t.png").exists()


def test_a_picture_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make_trace(tmp_path / "t.pftrace")
    with pytest.raises(InvalidOption, match=r"t\.jpg: must end in \.png or \.svg"):
        run(trace, tmp_path / "t.jpg")
    (tmp_path / "t.png").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        run(trace, tmp_path / "t.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidOption, match=r"pip install 'framehaul\[observe\]'"):
        run(trace, tmp_path / "t.svg")


def test_a_trace_of_the_client_alone_has_no_verdict(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t.pftrace")
    writer = TraceWriter(file, "gpu7:50051")
    writer.client(Event("encode", START, START + MS, 0, 3))
    writer.finish()
    file.publish()
    assert run(tmp_path / "t.pftrace", tmp_path / "t.png").endswith("no verdict: there is no session in it")


def test_a_session_is_told_of_where_its_name_is(tmp_path: Path) -> None:
    """Levels alone are nothing to draw."""
    file = TraceFile(tmp_path / "t.pftrace")
    writer = TraceWriter(file, "gpu7:50051")
    writer.start(pb.TraceResponse(started=STARTED, now_ns=START), Clock())
    writer.server(pb.TraceResponse(sessions=[SESSION], load=pb.Load(), now_ns=START))
    writer.finish()
    file.publish()
    with pytest.raises(InvalidOption, match="stream while it is made"):
        read_trace(tmp_path / "t.pftrace")
