import itertools
import os
import sys
from pathlib import Path

import pytest

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.events import Event
from framehaul_client.errors import InvalidOption, OutputError
from framehaul_client.trace.tracks import TraceFile
from framehaul_client.trace.writer import NOT_KNOWN, Clock, TraceWriter
from tests.support.traces import MS, SESSION, STARTED, Contents, chunk, event, read, waited

LATENTS, SENT, ACKNOWLEDGED = (
    pb.TRACE_EVENT_KIND_LATENTS,
    pb.TRACE_EVENT_KIND_SENT,
    pb.TRACE_EVENT_KIND_ACKNOWLEDGED,
)
START = 1000 * MS


def response(*events: pb.TraceEvent, at_ns: int = START, **fields: object) -> pb.TraceResponse:
    return pb.TraceResponse(events=events, now_ns=at_ns, **fields)  # type: ignore[arg-type]


class Written:
    """A trace in the making."""

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self.path = folder / "t.pftrace"
        self.file = TraceFile(self.path)
        self.writer = TraceWriter(self.file, "gpu7:1")
        if clock is not None:
            self.writer.start(response(started=STARTED), clock)

    def read(self) -> Contents:
        assert not self.path.exists()
        self.writer.finish()
        self.file.publish()
        return read(self.path)


def test_a_frame_is_followed_from_its_latent_to_the_encoder(tmp_path: Path) -> None:
    """Flows tie each stage to the next; the client's clock is behind by 5 ms."""
    trace = Written(tmp_path, clock=Clock(5 * MS, 1 * MS))
    writer = trace.writer
    writer.only_own()
    writer.client(Event("opened", 0, 0, request_id="abc"))
    writer.client(Event("latents", START - 4 * MS, START - 3 * MS, 0, 1))
    writer.server(response(sessions=[SESSION]))
    writer.server(
        response(
            event(LATENTS, START + 2 * MS, 0, 1),
            waited(Cause.DECODE, START + 2 * MS, START + 8 * MS),
            chunk(START + 3 * MS, START + 4 * MS, START + 8 * MS),
            event(SENT, START + 12 * MS, 0, 3, took_ns=MS),
            event(SENT, START + 13 * MS, 3, 1, took_ns=MS),
            event(ACKNOWLEDGED, START + 30 * MS, 4, 0),
        )
    )
    writer.client(Event("frames", START + 9 * MS, START + 9 * MS, 0, 3))
    writer.client(Event("frames", START + 10 * MS, START + 10 * MS, 3, 1))
    writer.client(Event("consume", START + 10 * MS, START + 11 * MS, 0, 3))
    writer.client(Event("encode", START + 10 * MS, START + 12 * MS, 0, 3))
    writer.client(Event("finish", START + 12 * MS, START + 13 * MS))
    writer.client(Event("acknowledged", START + 20 * MS, START + 20 * MS, 4))
    found = trace.read()
    way = [found.of(kind)[0] for kind in ("client latents", "latents", "decode", "copy", "publish", "sends")]
    way += [found.of(kind)[0] for kind in ("received", "consume")]
    for before, after in itertools.pairwise(way):
        assert before.flows & after.flows, f"{before} is tied to {after}"
        assert before.start_ns <= after.start_ns
    assert way[-2].flows == found.of("encode")[0].flows == way[-1].flows
    assert not found.of("sends")[1].flows & way[-2].flows
    assert way[0].start_ns == START + 1 * MS  # on the server's clock
    session = "session 7 · tiny 32x16 · film"
    assert {each.path for each in found.seen} == {
        *(("server", session, name) for name in ("waits for", "latents", "sends", "acknowledged")),
        *(
            ("worker", "chunks", name)
            for name in ("waits for its turn", "decode", "copy to the host", "checksum, hand over")
        ),
        *(
            ("client", "run", name)
            for name in ("latents sent", "frames received", "frames in use", "encoder", "acknowledged")
        ),
        ("about this trace",),
    }
    assert found.about["client's clock may be wrong by, us"] == 1000.0
    assert writer.seconds == {Cause.DECODE: 0.006}


def test_levels_are_those_of_server_and_session(tmp_path: Path) -> None:
    trace = Written(tmp_path, clock=Clock())
    load = pb.Load(sessions=1, queued=2, slots_in_use=3, inlet_slots_in_use=4)
    trace.writer.server(response(sessions=[SESSION], load=load))
    assert trace.read().levels == {
        "sessions": [1],
        "queued": [2],
        "frame slots in use": [3],
        "inlet in use": [4],
        "latents waiting": [1],
        "frames waiting": [2],
        "window": [0],
    }


def test_kernels_stand_by_streams_below_the_worker(tmp_path: Path) -> None:
    """What began before the trace, and a name that nobody told of, are left out; those that the server left count."""
    trace = Written(tmp_path, clock=Clock())
    kernels = pb.TraceKernels(
        names=["conv", "_fuse"],
        name=[0, 1, 1, 2],
        start_ns=[START + MS, START + 2 * MS, START - 1, START + MS],
        duration_ns=[MS, MS, 1, 1],
        stream=[7, 13, 7, 7],
        left_out=5,
    )
    trace.writer.server(response(kernels=kernels))
    found = trace.read()
    assert [(each.path, each.name) for each in found.of("kernel")] == [
        (("worker", "kernels", "stream 7"), "conv"),
        (("worker", "kernels", "stream 13"), "_fuse"),
    ]
    assert found.about["events left out"] == 5


def test_nothing_is_before_the_trace_nor_of_a_stranger(tmp_path: Path) -> None:
    """What began earlier is cut; causes and kinds that this client doesn't know are left out."""
    trace = Written(tmp_path, clock=Clock())
    trace.writer.only_own()
    trace.writer.client(Event("opened", 0, 0, request_id="abc"))
    stranger = pb.TraceSession(number=8, request_id="def")
    unknown = waited(Cause.IDLE, START, START + MS)
    unknown.cause = 99  # type: ignore[assignment]
    trace.writer.server(
        response(
            waited(Cause.NETWORK, START - 5 * MS, START + MS),
            waited(Cause.COPY, START - 5 * MS, START - MS),
            unknown,
            event(99, START, 0, 1),
            event(SENT, START, 0, 1, session=8),
            sessions=[SESSION, stranger],
        )
    )
    found = trace.read()
    assert [(each.name, each.start_ns) for each in found.seen if each.kind != "about"] == [("network", START)]


def test_what_overlaps_has_lanes_of_its_own(tmp_path: Path) -> None:
    """On one of Perfetto's tracks slices may only nest: `read` checks that."""
    trace = Written(tmp_path, clock=Clock())
    sends = [event(SENT, START + start * MS, start, 1, took_ns=2 * MS) for start in range(4)]
    trace.writer.server(response(*sends, sessions=[SESSION]))
    assert [each.name for each in trace.read().of("sends")] == [f"frame {number}" for number in range(4)]


def test_what_a_session_waits_for_at_the_end_is_not_known_yet(tmp_path: Path) -> None:
    """Its chunk is in the worker; a session that is over waits for nothing."""
    trace = Written(tmp_path, clock=Clock())
    over = pb.TraceSession(number=8, request_id="def")
    trace.writer.server(response(waited(Cause.LATENTS, START, START + MS), sessions=[SESSION, over], load=pb.Load()))
    trace.writer.server(response(sessions=[SESSION], load=pb.Load(), at_ns=START + 9 * MS))
    waits = [(each.name, each.start_ns, each.end_ns) for each in trace.read().of("waits")]
    assert waits == [
        ("waiting for latents", START, START + MS),
        (NOT_KNOWN, START + MS, START + 9 * MS),
    ]


@pytest.mark.parametrize(
    ("sent", "server", "received", "clock"),
    [
        (100, 5100, 200, Clock(4950, 50)),
        (100, 149, 200, Clock(0, 50)),
        (100, 1, 200, Clock(-149, 50)),
        (100, 100, 101, Clock(0, 1)),
    ],
)
def test_clocks_that_cannot_be_told_apart_are_one(sent: int, server: int, received: int, clock: Clock) -> None:
    """The error is half of the round trip."""
    assert Clock.between(sent, server, received) == clock


def test_a_trace_of_the_client_alone(tmp_path: Path) -> None:
    """It says why there is no more of it."""
    trace = Written(tmp_path)
    trace.writer.left_out = "gpu7:1: older"
    trace.writer.client(Event("latents", 5, 6, 0, 1))
    found = trace.read()
    assert {each.path[0] for each in found.seen} == {"client", "about this trace"}
    assert found.about["server's side left out"] == "gpu7:1: older"
    assert found.about["clock"] == "the client's CLOCK_MONOTONIC"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        TraceFile(tmp_path)


@pytest.mark.parametrize("num_events", [1, 1000])
def test_a_disk_that_fills_up_is_told_and_nothing_stays(tmp_path: Path, num_events: int) -> None:
    """While it is written, or at the end."""
    trace = Written(tmp_path)

    def write(num_events: int) -> None:
        for _ in range(num_events):
            trace.writer.client(Event("latents", 5, 6, 0, 1))
        trace.file.publish()

    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), trace.file._partial.file.fileno())
    with pytest.raises(OutputError, match=r"t\.pftrace: No space left on device"):
        write(num_events)
    trace.file.discard()
    trace.file.discard()
    assert not list(tmp_path.iterdir())


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace", None)
    with pytest.raises(InvalidOption, match=r"pip install 'framehaul\[observe\]'"):
        TraceFile(tmp_path / "t.pftrace")
    assert not list(tmp_path.iterdir())
