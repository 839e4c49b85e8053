import numpy as np
import pytest

from framehaul.formats import LatentDtype
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import InvalidInput, OutOfOrder, Overloaded
from framehaul_pipeline.spec import Geometry
from framehaul_server.core.latents import check_finite
from framehaul_server.core.open_request import MAX_LATENTS, OpenRequest, OpenRules, read_open
from framehaul_server.errors import NotPermitted, SessionCancelled
from framehaul_server.rpc.synthetic import SyntheticLatents, check_synthetic, make_latents
from framehaul_server.session.connection import Request
from tests.support.driven_service import settle
from tests.support.driven_session import running
from tests.support.fakes import GEOMETRY as SMALL
from tests.support.fakes import (
    SPEC,
    FakeConnection,
    FakeWorker,
    latents,
    opening,
    request,
)

BUDGET = 8  # of latents, with latent_bytes=0: two chunks
GEOMETRY = Geometry(channels=16, height=30, width=52)


@pytest.mark.parametrize("dtype", list(LatentDtype))
def test_the_same_seed_and_index_give_the_same_latent_and_others_give_others(dtype: LatentDtype) -> None:
    first = SyntheticLatents(7, GEOMETRY, dtype)
    again = SyntheticLatents(7, GEOMETRY, dtype)
    assert bytes(first.latent(3)) == bytes(again.latent(3))
    assert bytes(first.latent(3)) != bytes(first.latent(4))
    assert bytes(first.latent(3)) != bytes(SyntheticLatents(8, GEOMETRY, dtype).latent(3))
    assert len(first.latent(0)) == GEOMETRY.latent_bytes(dtype)
    check_finite(first.latent(5), dtype, 5)


def test_latents_look_like_normalised_ones_in_every_dtype() -> None:
    wide = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.FLOAT32).latent(0), np.float32)
    half = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.FLOAT16).latent(0), np.float16)
    brain = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.BFLOAT16).latent(0), np.uint16)
    assert abs(float(wide.mean())) < 0.05
    assert abs(float(wide.std()) - 1) < 0.05
    assert np.allclose(half, wide, rtol=1e-3, atol=1e-3)
    assert np.allclose((brain.astype(np.uint32) << 16).view(np.float32), wide, rtol=1e-2)


RULES = OpenRules(specs=(SPEC,), max_pixels=1 << 10, allow_synthetic=True)
SYNTHETIC = pb.Synthetic(num_latents=3, height=8, width=12, seed=5)
EXPLICIT = pb.Open(mode=pb.MODE_EXPLICIT)


def made(first: pb.StreamRequest) -> OpenRequest:
    """What is opened for a client that sends `first`."""
    _, seen = make_latents(FakeConnection(), Envelope(first, memoryview(b"")), RULES)
    return read_open(seen.header, RULES)[1]


def test_they_bring_their_geometry_and_dtype() -> None:
    asked = made(pb.StreamRequest(synthetic=SYNTHETIC))
    assert asked.opening.geometry == SMALL
    assert asked.opening.dtype is LatentDtype.FLOAT16
    assert asked.opening.normalized


def test_a_dtype_and_the_right_geometry_may_stand_beside_them() -> None:
    wide = opening(dtype=pb.DATA_TYPE_FLOAT32)
    assert made(pb.StreamRequest(open=wide, synthetic=SYNTHETIC)).opening.dtype is LatentDtype.FLOAT32
    other = opening(geometry=pb.LatentGeometry(channels=2, height=4, width=7))
    with pytest.raises(InvalidInput, match=r"open\.geometry=2x4x7: must be unset, or 2x4x6"):
        made(pb.StreamRequest(open=other, synthetic=SYNTHETIC))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_latents": 0}, "synthetic.num_latents=0"),
        ({"num_latents": MAX_LATENTS + 1}, "synthetic.num_latents=16777217"),
        ({"height": 0}, "synthetic.height=0: must be a positive multiple of 2 pixels"),
        ({"width": 13}, "synthetic.width=13"),
        ({"height": 100}, "synthetic=100x12: must be at most 1024 pixels"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, int], text: str) -> None:
    fields = {"num_latents": 3, "height": 8, "width": 12, **changes}
    with pytest.raises(InvalidInput, match=text):
        check_synthetic(pb.Synthetic(**fields), SPEC, RULES)


def test_they_need_the_servers_leave() -> None:
    strict = OpenRules(specs=(SPEC,), max_pixels=1 << 10, allow_synthetic=False)
    with pytest.raises(NotPermitted, match="--allow-synthetic"):
        check_synthetic(SYNTHETIC, SPEC, strict)


@pytest.mark.parametrize(
    ("open_message", "text"),
    [
        (pb.Open(mode=pb.MODE_EXPLICIT, resume=pb.Resume()), r"open\.resume=set"),
        (pb.Open(start_frame=4), r"open\.start_frame=4: must be 0 with synthetic latents"),
        (pb.Open(num_latents=2), r"latents=3 latents: must be at most 2 in this session"),
    ],
)
def test_what_does_not_go_with_them_is_refused(open_message: pb.Open, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        made(pb.StreamRequest(open=open_message, synthetic=SYNTHETIC))


def test_a_cancel_counts_before_them() -> None:
    with pytest.raises(SessionCancelled):
        made(pb.StreamRequest(cancel=True, synthetic=pb.Synthetic()))


@pytest.mark.asyncio
async def test_they_may_be_asked_for_again_and_again_and_need_no_open() -> None:
    async with running(request(synthetic=SYNTHETIC)) as run:
        run.connection.send(request(synthetic=SYNTHETIC))
        run.connection.send(request(open=pb.Open(), synthetic=pb.Synthetic(num_latents=2, height=8, width=12, seed=6)))
        run.connection.send(None)
        await run.end()
        assert run.connection.done() == pb.Done(num_frames=32, num_latents=8)
        of_5, of_6 = (SyntheticLatents(seed, SMALL, LatentDtype.FLOAT16) for seed in (5, 6))
        made_of_5 = [bytes(of_5.latent(index)) for index in range(6)]
        assert run.handle.pushed == [*made_of_5, bytes(of_6.latent(6)), bytes(of_6.latent(7))]


@pytest.mark.asyncio
async def test_they_are_made_when_there_is_room() -> None:
    many = pb.Synthetic(num_latents=1000, height=8, width=12)
    async with running(request(open=pb.Open(), synthetic=many), worker=FakeWorker(automatic=False)) as run:
        run.connection.send(None)
        await settle()
        assert len(run.handle.pushed) == BUDGET
        run.handle.num_allowed = 3
        run.handle.advance()
        await settle()
        assert len(run.handle.pushed) == BUDGET + 3


@pytest.mark.asyncio
async def test_an_explicit_client_is_read_while_they_wait_for_room() -> None:
    """They obey the grant that a client would, which none has to wait for."""
    many = pb.Synthetic(num_latents=1000, height=8, width=12)
    async with running(request(open=EXPLICIT, synthetic=many), worker=FakeWorker(automatic=False)) as run:
        assert len(run.handle.pushed) == BUDGET
        run.connection.send(request(ack=pb.Ack(window_frames=4)))
        await settle()
        assert run.connection.requests.empty()
        run.handle.num_allowed = BUDGET
        run.handle.advance()
        await settle()
        assert BUDGET < len(run.handle.pushed) <= 2 * BUDGET
        run.connection.send(request(cancel=True))
        with pytest.raises(SessionCancelled):
            await run.end()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sent", "error", "text"),
    [
        (request(synthetic=pb.Synthetic(num_latents=1, height=8, width=14)), InvalidInput, "synthetic=8x14"),
        (request(latents(1)), OutOfOrder, "latents: this session was opened with synthetic"),
        (request(synthetic=pb.Synthetic()), InvalidInput, "synthetic.num_latents=0"),
        (request(open=opening(priority=1)), OutOfOrder, "opened with other values"),
    ],
)
@pytest.mark.parametrize("mode", [pb.MODE_AUTO, pb.MODE_EXPLICIT])
async def test_a_wrong_request_ends_the_session(
    mode: pb.Mode.ValueType, sent: Request, error: type[Exception], text: str
) -> None:
    async with running(
        request(open=pb.Open(mode=mode), synthetic=SYNTHETIC), worker=FakeWorker(automatic=False)
    ) as run:
        run.connection.send(sent)
        with pytest.raises(error, match=text):
            await run.end()


@pytest.mark.asyncio
async def test_none_may_follow_the_end_that_was_told_though_they_are_still_being_made() -> None:
    many = pb.Synthetic(num_latents=1000, height=8, width=12)
    async with running(
        request(open=EXPLICIT, synthetic=many, end_of_latents=True), worker=FakeWorker(automatic=False)
    ) as run:
        run.connection.send(request(end_of_latents=True))
        run.connection.send(request(synthetic=SYNTHETIC))
        with pytest.raises(OutOfOrder, match="after end_of_latents"):
            await run.end()


@pytest.mark.asyncio
async def test_an_explicit_session_obeys_its_window() -> None:
    async with running(request(synthetic=SYNTHETIC, open=EXPLICIT, end_of_latents=True)) as run:
        for latent in range(3):
            await settle()
            assert run.handle.num_published == 4 * (latent + 1)
            run.connection.send(request(ack=pb.Ack(next_frame=4 * (latent + 1))))
        await run.end()


@pytest.mark.asyncio
async def test_clips_that_wait_are_bounded() -> None:
    async with running(request(open=EXPLICIT, synthetic=SYNTHETIC), worker=FakeWorker(automatic=False)) as run:
        for _ in range(1100):
            run.connection.send(request(synthetic=SYNTHETIC))
        with pytest.raises(Overloaded, match="1024 clips"):
            await run.end()
