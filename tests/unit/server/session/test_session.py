"""All of a session's life in one file: every part needs the same running session and fakes around it."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import (
    AtWork,
    InvalidInput,
    Lack,
    OutOfOrder,
    Overloaded,
    Unavailable,
    WorkerLost,
    WorkersKilled,
)
from framehaul_pipeline.link.messages import Opening
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.tenants import Caller, Tenant
from framehaul_server.errors import ClientLeft, ClientStalled, ConnectionLost, GrantExceeded, SessionCancelled
from framehaul_server.session.session import Session, SessionState
from tests.support.driven_service import settle
from tests.support.driven_session import NARROW, Running, running
from tests.support.fakes import (
    FRAME_BYTES,
    GEOMETRY,
    LATENT_BYTES,
    SPEC,
    FakeWorker,
    frame,
    latents,
    opening,
    record,
    request,
    rules,
)

BUDGET = 8  # of latents, with latent_bytes=0: two chunks
SYNTHETIC = pb.Synthetic(num_latents=3, height=8, width=12, seed=5)
PROTOCOL = Path(__file__).parents[4] / "docs" / "protocol.md"


def test_the_protocol_page_has_the_same_states() -> None:
    """One table tells of each; in the others they come next."""
    described, *tables = PROTOCOL.read_text().split("| State | ")[1:]
    states = [state.name for state in SessionState]
    assert re.findall(r"^\| ([A-Z]+) \|", described, re.MULTILINE) == states
    for table in tables:
        rows = table.split("\n\n")[0].splitlines()[2:]
        assert {name for row in rows for name in row.removesuffix(" |").split(" | ")[-1].split(", ")} <= set(states)


@pytest.mark.asyncio
async def test_an_auto_session_answers_opened_then_all_frames_then_done() -> None:
    async with running(request(latents(2), open=opening())) as run:
        run.connection.send(request(latents(3)))
        run.connection.send(None)
        await run.end()
        assert run.connection.responses[0].header.HasField("opened")
        assert run.connection.frames() == [frame(index) for index in range(20)]
        assert run.connection.done() == pb.Done(num_frames=20, num_latents=5)
        assert (run.record.num_frames, run.record.num_latents) == (20, 5)
        assert run.record.sent_bytes == sum(map(len, run.connection.raw))


@pytest.mark.asyncio
async def test_opened_says_what_a_client_must_know() -> None:
    first = request(open=opening(mode=pb.MODE_EXPLICIT, pixel_format=pb.PIXEL_FORMAT_YUV420P, reproducible=True))
    async with running(first) as run:
        await run.connection.responded(1)
        header = run.connection.responses[0].header
        assert len(header.opened.session_id) == 24
        header.opened.session_id = b""
        assert header.opened == pb.Opened(
            request_id="id",
            model="toy",
            height=8,
            width=12,
            pixel_format=pb.PIXEL_FORMAT_YUV420P,
            frame_bytes=8 * 12 * 3 // 2,
            max_message_bytes=4 << 20,
            min_window_frames=4,
            max_window_frames=4,
            first_frames=4,
            temporal_factor=4,
            reproducible=True,
        )
        assert header.latents_until == BUDGET


@pytest.mark.asyncio
async def test_session_ids_differ() -> None:
    async with running(request(open=opening())) as one, running(request(open=opening())) as two:
        ids = {run.connection.responses[0].header.opened.session_id for run in (one, two)}
        assert len(ids) == 2


@pytest.mark.asyncio
async def test_no_latents_at_all_end_with_done_and_no_frames() -> None:
    async with running(request(open=opening(num_latents=0), end_of_latents=True)) as run:
        await run.end()
        assert run.connection.done() == pb.Done()
        assert run.connection.frames() == []


@pytest.mark.asyncio
async def test_the_worker_hears_what_was_opened() -> None:
    async with running(request(open=opening(num_latents=7, normalized=True))) as run:
        assert [msgspec.structs.replace(each, asked_ns=0) for each in run.worker.opened] == [
            Opening(
                model="toy",
                geometry=GEOMETRY,
                num_latents=7,
                dtype=LatentDtype.FLOAT16,
                normalized=True,
                pixel_format=PixelFormat.RGB24,
                priority=0,
                tenant="everyone",
            )
        ]


# Who may send what when


@pytest.mark.asyncio
async def test_the_same_open_may_be_repeated() -> None:
    async with running(request(latents(1), open=opening())) as run:
        run.connection.send(request(latents(1), open=opening()))
        run.connection.send(None)
        await run.end()
        assert run.connection.done().num_latents == 2


AUTO, EXPLICIT = opening(), opening(mode=pb.MODE_EXPLICIT)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("opened", "sent", "error", "text"),
    [
        (AUTO, request(open=opening(priority=1)), OutOfOrder, "opened with other values"),
        (AUTO, request(ack=pb.Ack()), OutOfOrder, "ack: only"),
        (EXPLICIT, request(ack=pb.Ack(next_frame=1)), InvalidInput, "ack.next_frame=1"),
        (AUTO, request(latents(1), index=2), OutOfOrder, "index=2"),
        (AUTO, request(index=0), InvalidInput, "latents=0 bytes"),
        (AUTO, request(num_latents=1), InvalidInput, "latents=0 bytes"),
        (AUTO, request(crc32c=0), InvalidInput, "latents=0 bytes"),
        (AUTO, request(synthetic=SYNTHETIC), OutOfOrder, "synthetic: this session"),
        (AUTO, request(cancel=True), SessionCancelled, "cancelled by the client"),
        (EXPLICIT, None, ClientLeft, "ended before Done"),
        (opening(num_latents=2), None, InvalidInput, "open.num_latents=2"),
        (EXPLICIT, request(latents(BUDGET + 1)), GrantExceeded, "latents_until is 8"),
    ],
)
async def test_a_wrong_request_ends_the_session(
    opened: pb.Open,
    sent: Envelope[pb.StreamRequest] | None,
    error: type[Exception],
    text: str,
) -> None:
    async with running(request(open=opened)) as run:
        run.connection.send(sent)
        with pytest.raises(error, match=text):
            await run.end()
        assert run.handle.closed
        assert run.handle.pushed == []


@pytest.mark.asyncio
async def test_latents_after_the_end_are_out_of_order_and_ending_twice_is_not() -> None:
    worker = FakeWorker(automatic=False)
    async with running(request(latents(1), open=opening(), end_of_latents=True), worker=worker) as run:
        run.connection.send(request(end_of_latents=True))
        run.connection.send(request(latents(1)))
        with pytest.raises(OutOfOrder, match="after end_of_latents"):
            await run.end()


@pytest.mark.asyncio
async def test_one_bad_latent_keeps_its_whole_message_out_of_the_worker() -> None:
    good = np.zeros(LATENT_BYTES // 2, np.float16)
    bad = good.copy()
    bad[-1] = np.nan
    async with running(request(latents(2), open=opening())) as run:
        run.connection.send(request(good.tobytes() + bad.tobytes()))
        with pytest.raises(InvalidInput, match="element 47 of latent 3"):
            await run.end()
        assert len(run.handle.pushed) == 2


@pytest.mark.asyncio
async def test_checking_a_large_message_gives_others_their_turn() -> None:
    wide = opening(geometry=pb.LatentGeometry(channels=2, height=128, width=128))
    run = Running(request(bytes(2 * 128 * 128 * 2 * 256), open=wide), FakeWorker(), NARROW)
    turns = 0
    while not (run.worker.handles and run.handle.pushed):
        turns += 1
        await asyncio.sleep(0)
    assert len(run.handle.pushed) == 256
    assert turns >= 4  # 16 MiB, 4 MiB at a time
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.end()


# Windows


@pytest.mark.asyncio
async def test_a_stalled_auto_client_costs_its_window_and_no_slot() -> None:
    wide = rules(window_bytes=10 * FRAME_BYTES, latent_bytes=0)
    worker = FakeWorker()
    first = request(open=opening())
    async with running(first, worker=worker, session_rules=wide) as run:
        run.connection.open_gate.clear()
        run.connection.send(request(latents(BUDGET)))
        run.connection.send(None)
        await settle()
        assert run.handle.num_published == 8  # whole latents' frames within 10
        assert run.handle.released == [0, 4]
        run.connection.open_gate.set()
        await run.end()
        assert run.connection.frames() == [frame(index) for index in range(4 * BUDGET)]


@pytest.mark.asyncio
async def test_an_explicit_window_smaller_than_the_remaining_frames_completes() -> None:
    first = request(latents(5), open=opening(mode=pb.MODE_EXPLICIT, window_frames=1), end_of_latents=True)
    async with running(first, session_rules=rules(latent_bytes=0)) as run:
        for latent in range(5):
            await settle()
            assert run.handle.num_published == 4 * (latent + 1)
            run.connection.send(request(ack=pb.Ack(next_frame=4 * (latent + 1), window_frames=1)))
        await run.end()
        assert run.connection.done() == pb.Done(num_frames=20, num_latents=5)


@pytest.mark.asyncio
async def test_frames_may_be_acknowledged_before_their_write_returns() -> None:
    async with running(request(latents(2), open=EXPLICIT, end_of_latents=True)) as run:
        run.connection.open_gate.clear()
        await settle()
        run.connection.send(request(ack=pb.Ack(next_frame=4, window_frames=4)))
        await settle()
        assert not run.task.done()
        run.connection.open_gate.set()
        run.connection.send(request(ack=pb.Ack(next_frame=4, window_frames=4)))
        await settle()
        run.connection.send(None)
        await run.end()


async def all_sent(run: Running) -> None:
    """Wait until the client has everything, `Done` as well."""
    await settle()
    assert run.connection.done().num_frames == 4
    assert not run.task.done()


@pytest.mark.asyncio
async def test_after_done_an_explicit_call_ends_with_the_half_close() -> None:
    """Before, it would meet acknowledgements that are still under way."""
    async with running(request(latents(1), open=EXPLICIT, end_of_latents=True)) as run:
        await all_sent(run)
        run.connection.send(request(ack=pb.Ack(next_frame=3)))
        await all_sent(run)
        run.connection.send(None)
        await run.end()


@pytest.mark.asyncio
async def test_after_done_an_explicit_call_ends_when_every_frame_is_acknowledged() -> None:
    async with running(request(latents(1), open=EXPLICIT, end_of_latents=True)) as run:
        await all_sent(run)
        run.connection.send(request(ack=pb.Ack(next_frame=4)))
        await run.end()


@pytest.mark.asyncio
async def test_after_done_an_explicit_call_ends_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framehaul_server.session.frames_out._PARTING_TIMEOUT_S", 0.01)
    async with running(request(latents(1), open=EXPLICIT, end_of_latents=True)) as run:
        await run.end()
        assert run.connection.done().num_frames == 4


# Latents wait in bounded room


@pytest.mark.asyncio
async def test_an_auto_reader_stops_reading_while_too_many_latents_wait() -> None:
    worker = FakeWorker(automatic=False)
    async with running(request(latents(1), open=opening()), worker=worker) as run:
        for _ in range(20):
            run.connection.send(request(latents(1)))
        run.connection.send(None)
        await settle()
        assert len(run.handle.waiting) == BUDGET
        run.handle.automatic = True
        run.handle.advance()
        await run.end()
        assert run.connection.done().num_latents == 21
        assert run.handle.num_pushed_most == BUDGET


@pytest.mark.asyncio
async def test_an_explicit_reader_always_reads_so_that_latents_never_block_an_acknowledgement() -> None:
    async with running(request(open=EXPLICIT)) as run:
        run.connection.send(request(latents(BUDGET)))
        await settle()
        assert len(run.handle.waiting) == BUDGET - 1
        run.connection.send(request(ack=pb.Ack(next_frame=4, window_frames=4)))
        await settle()
        assert run.handle.num_published == 8


@pytest.mark.asyncio
async def test_grants_travel_with_frames_or_alone_when_overdue_and_never_fall() -> None:
    worker = FakeWorker(automatic=False)
    async with running(request(open=EXPLICIT), worker=worker) as run:
        run.connection.send(request(latents(BUDGET)))
        await settle()
        for num_fed in range(1, 5):
            run.handle.events.on_fed(num_fed)
        await settle()
        assert [each.header.latents_until for each in run.connection.responses] == [8, 12]
        run.handle.events.on_fed(5)
        run.handle.automatic = True
        run.handle.num_fed = 5
        run.handle.num_allowed = 6
        run.handle.advance()
        await settle()
        assert [each.header.latents_until for each in run.connection.responses] == [8, 12, 14]
        run.connection.send(request(latents(6)))
        await settle()
        assert not run.task.done()


@pytest.mark.asyncio
async def test_no_grant_follows_the_end_of_latents() -> None:
    worker = FakeWorker(automatic=False)
    async with running(request(latents(8), open=EXPLICIT, end_of_latents=True), worker=worker) as run:
        run.handle.events.on_fed(8)
        run.handle.events.on_ended(0)
        await run.end()
        assert [each.header.latents_until for each in run.connection.responses] == [8, 0]


# Ends of all kinds


def workers_die(run: Running) -> None:
    """Three in a row, without a frame between: what the session holds may be what kills them."""
    for _ in range(2):
        run.worker.die(WorkerLost(at_work=AtWork.ALONE))
        run.session.worker_ready()
    run.worker.die(WorkerLost(at_work=AtWork.ALONE))


def worker_is_full(run: Running) -> None:
    run.worker.die(Overloaded("out of device memory", Lack.PLACES, retry_after_s=1.0))


def grace_ends(run: Running) -> None:
    run.session.fail(Unavailable("its grace period is over"))


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [workers_die, worker_is_full, grace_ends])
async def test_a_failed_session_ends_at_once_even_while_its_client_stalls(end: Callable[[Running], None]) -> None:
    async with running(request(open=opening())) as run:
        run.connection.open_gate.clear()
        run.connection.send(request(latents(2)))
        await settle()
        end(run)
        run.session.fail(OutOfOrder("a later error changes nothing"))
        with pytest.raises((Unavailable, Overloaded, WorkersKilled)):
            await run.end()


@pytest.mark.asyncio
async def test_a_failed_write_ends_the_session_of_a_client_that_is_gone() -> None:
    async with running(request(open=opening())) as run:
        run.connection.write_error = ConnectionLost(RuntimeError("batch failed"))
        run.connection.send(request(latents(1)))
        with pytest.raises(ConnectionLost, match="batch failed"):
            await run.end()


@pytest.mark.asyncio
async def test_cancelling_passes_through_and_gives_everything_back() -> None:
    async with running(request(latents(1), open=EXPLICIT)) as run:
        run.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run.end()
        assert run.handle.closed
        run.session.close()


@pytest.mark.asyncio
async def test_drain_passes_the_frames_that_wait() -> None:
    async with running(request(open=opening(max_message_bytes=FRAME_BYTES + 68))) as run:
        run.connection.open_gate.clear()
        run.connection.send(request(latents(1)))
        run.connection.send(None)
        await settle()
        run.session.drain(1.5)
        run.connection.open_gate.set()
        await run.end()
        kinds = [_kind(each.header) for each in run.connection.responses]
        assert kinds == ["opened", "frames", "drain", "frames", "frames", "frames", "done"]
        assert run.connection.responses[2].header.drain.grace_ms == 1500


def _kind(header: pb.StreamResponse) -> str:
    return next(name for name in ("opened", "frames", "drain", "done") if header.HasField(name))


@pytest.mark.asyncio
async def test_frames_held_back_for_the_lookahead_come_with_the_end() -> None:
    ahead = msgspec.structs.replace(SPEC, lookahead_latents=2, first_frames=1)
    first = request(latents(4), open=opening(), end_of_latents=True)
    async with running(first, worker=FakeWorker(ahead), session_rules=rules(spec=ahead, window_bytes=0)) as run:
        await run.end()
        assert run.connection.frames() == [frame(index) for index in range(13)]


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", [pb.MODE_AUTO, pb.MODE_EXPLICIT])
async def test_a_client_that_takes_nothing_for_too_long_loses_its_session(mode: "pb.Mode") -> None:
    """It is alive, so that no keepalive ends it."""
    stalling = rules(window_bytes=0, latent_bytes=0, stall_timeout_s=0.1)
    async with running(request(latents(8), open=opening(mode=mode)), session_rules=stalling) as session:
        await session.connection.responded(2)
        session.connection.open_gate.clear()
        with pytest.raises(ClientStalled, match=r"for 0.1 s"):
            await session.end()
    assert session.handle.closed


@pytest.mark.asyncio
async def test_a_session_whose_worker_is_slow_is_not_the_clients_fault() -> None:
    stalling = rules(stall_timeout_s=0.05)
    worker = FakeWorker(automatic=False)
    async with running(request(latents(2), open=opening()), worker=worker, session_rules=stalling) as session:
        looked = asyncio.Event()
        num_looks = 0

        def look() -> object:
            nonlocal num_looks
            num_looks += 1
            if num_looks == 12:
                looked.set()
            return position()

        position, session.session._stall._position = session.session._stall._position, look
        await asyncio.wait_for(looked.wait(), 60)
        assert not session.task.done()
        session.handle.advance()
        session.connection.send(None)
        await settle()
        session.handle.advance()
        await session.end()
    assert len(session.connection.frames()) == 8


@pytest.mark.asyncio
async def test_a_priority_over_the_tenants_ceiling_is_refused_by_name() -> None:
    film = Caller(tenant=Tenant(name="film", max_priority=10))
    Session(request(open=opening(priority=10)), FakeWorker(), rules(), record(), film, Recorder(0))
    with pytest.raises(InvalidInput, match=r"open.priority=11: must be -100..10 for tenant film"):
        Session(request(open=opening(priority=11)), FakeWorker(), rules(), record(), film, Recorder(0))
