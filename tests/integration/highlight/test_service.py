"""A real server that searches films: one for all of these tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from safetensors.torch import save_file

from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul.v1.highlights_pb2_grpc import HighlightServiceStub
from framehaul_pipeline.models.saliency import SaliencyModel, describe_saliency
from framehaul_server import cli
from framehaul_server.admission.places import Claim
from framehaul_server.core.tenants import EVERYONE
from tests.support.call import CHANNEL_OPTIONS
from tests.support.films import frames, png, product, write_film
from tests.support.networks import light_seeking_tased
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", frames(12, (6, 8)))
    dim = frames(4, (2, 3), rate=2) // 3
    dim[:, 60:80, 100:130] = 255
    write_film(folder / "dim.mp4", dim, rate=2)
    write_film(folder / "short.mp4", dim[:2], rate=2)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningApp]:
    weights = tmp_path_factory.mktemp("weights") / "tased.safetensors"
    save_file(light_seeking_tased(), weights)
    options = ("--highlight", "--highlight-root", str(root), "--highlight-readers", "2")
    with pytest.MonkeyPatch.context() as patches:
        small = SaliencyModel(path=str(weights), height=96, width=160)  # a second less for each map
        patches.setattr(cli, "describe_saliency", lambda path: describe_saliency(path) and small)
        async with running_app(*options, "--highlight-saliency", str(weights)) as app:
            yield app


def asked(**fields: Any) -> highlights_pb2.HighlightOpen:
    return highlights_pb2.HighlightOpen(images=[png(product())], seconds=2, **fields)


async def search(
    server: RunningApp,
    opening: highlights_pb2.HighlightOpen,
    upload: bytes = b"",
    on_frames: Callable[[highlights_pb2.HighlightResponse], None] = lambda response: None,
) -> list[highlights_pb2.HighlightResponse]:
    """All responses, but for progress; frames are acknowledged, but for the last ones: the server needn't wait."""
    kinds = (opening.want == highlights_pb2.WANT_FRAMES) + opening.saliency
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        call = HighlightServiceStub(channel).Highlight()
        await call.write(highlights_pb2.HighlightRequest(open=opening))
        for at in range(0, len(upload), 1 << 14):
            await call.write(highlights_pb2.HighlightRequest(data=upload[at : at + (1 << 14)]))
        if upload:
            await call.write(highlights_pb2.HighlightRequest(end_of_upload=True))
        found = []
        async for response in call:
            if response.HasField("progress"):
                continue
            found.append(response)
            heads = [each.excerpt for each in found if each.HasField("excerpt")]
            until = heads[-1].first_frame + heads[-1].num_frames if heads else 0
            next_frame = response.frames.first_frame + response.frames.num_frames
            last = next_frame == until and len(heads) == kinds * len(found[0].scores.excerpts)
            if response.HasField("frames"):
                on_frames(response)
            if response.HasField("frames") and not last:
                ack = frames_pb2.Ack(next_frame=next_frame, window_frames=opening.window_frames)
                await call.write(highlights_pb2.HighlightRequest(ack=ack))
        return found


async def test_the_product_is_found_in_an_upload(server: RunningApp, root: Path) -> None:
    film = (root / "a.mp4").read_bytes()
    found = await asyncio.wait_for(search(server, asked(upload_bytes=len(film)), film), 60)
    assert [response.HasField("scores") for response in found] == [True, False]
    scores = found[0].scores
    best = scores.excerpts[0]
    assert (best.start, best.end) == pytest.approx((6, 8), abs=0.3)
    assert not best.weak
    await server.expect_idle()


async def test_operators_see_what_is_done(server: RunningApp) -> None:
    """What it offers, what it has done, and what it is at."""
    totals = server.app._recorder.totals.highlights
    before = replace(totals, ended=totals.ended.copy())
    await asyncio.wait_for(search(server, asked(path="a.mp4")), 60)
    with pytest.raises(grpc.aio.AioRpcError):
        await search(server, asked(path="b.mp4"))
    assert totals.film_s - before.film_s == pytest.approx(12, abs=0.1)
    assert totals.num_batches > before.num_batches
    assert totals.device_ns > before.device_ns
    ended = {("everyone", "ok"): 1, ("everyone", "not_found"): 1}
    # A client hears of the end before the server's handler is over.
    await eventually(lambda: totals.ended - before.ended == ended, lambda: totals.ended)
    told = server.app.info().highlights
    assert (told.model, told.reads_text, told.has_films) == ("efficientnet-lite0", False, True)
    assert (told.max_upload_bytes, told.readers, told.readers_in_use, told.saliency) == (4 << 30, 2, 0, True)
    view = server.app._view()
    assert (view.num_readers, view.num_reading) == (2, 0)
    await server.expect_idle()


@pytest.mark.parametrize(
    ("pixel_format", "crop", "shape"),
    [(frames_pb2.PIXEL_FORMAT_RGB24, (0, 0), (90, 160)), (frames_pb2.PIXEL_FORMAT_YUV420P, (9, 16), (90, 50))],
)
async def test_a_films_excerpts_come_as_frames(
    server: RunningApp, pixel_format: frames_pb2.PixelFormat.ValueType, crop: tuple[int, int], shape: tuple[int, int]
) -> None:
    """Of a file of the server's: all of each, in order, checksummed, as the window lets them."""
    opening = asked(
        path="a.mp4",
        want=highlights_pb2.WANT_FRAMES,
        pixel_format=pixel_format,
        crop_width=crop[0],
        crop_height=crop[1],
        window_frames=4,
        excerpts=2,
    )
    scores, *rest = await asyncio.wait_for(search(server, opening), 60)
    heads = [response.excerpt for response in rest if response.HasField("excerpt")]
    assert [head.excerpt for head in heads] == list(scores.scores.excerpts)
    assert [(head.first_frame, head.num_frames, head.height, head.width) for head in heads] == [
        (0, 20, *shape),
        (20, 20, *shape),
    ]
    frame_bytes = shape[0] * shape[1] * (3 if pixel_format == frames_pb2.PIXEL_FORMAT_RGB24 else 3 / 2)
    next_frame = 0
    for response in rest:
        if response.HasField("frames"):
            assert response.frames.first_frame == next_frame
            next_frame += response.frames.num_frames
            assert len(response.payload) == response.frames.num_frames * frame_bytes
            assert len(response.frames.crc32c) == response.frames.num_frames <= 4
    assert next_frame == rest[-1].done.num_frames == 40
    await server.expect_idle()


async def test_a_crop_and_maps_show_where_people_look(server: RunningApp) -> None:
    """With these weights, at what is light; the clip's frames come first, and then its maps."""
    opening = asked(path="dim.mp4", want=highlights_pb2.WANT_FRAMES, crop_width=9, crop_height=16, saliency=True)
    opening.seconds = 0.5
    found = await asyncio.wait_for(search(server, opening), 100)
    crop, maps = (response.excerpt for response in found if response.HasField("excerpt"))
    assert (crop.saliency, crop.num_frames, crop.height, crop.width) == (False, 1, 90, 50)
    assert (maps.saliency, maps.num_frames, maps.height, maps.width) == (True, 1, 90, 160)
    assert maps.first_frame == 1
    assert list(crop.crop_left) == pytest.approx([22], abs=6)  # nearer to the light than the product's own place, 10
    (pixels,) = (response.payload for response in found if response.frames.first_frame)
    down, across = np.nonzero(np.frombuffer(pixels, np.uint8).reshape(90, 160, 3)[..., 0] > 128)
    assert (across.mean(), down.mean()) == pytest.approx((115, 70), abs=25)  # it spreads on its way
    assert found[-1].done.device_seconds > 0
    await server.expect_idle()


async def test_a_whole_films_maps_need_no_query(server: RunningApp) -> None:
    """They have as many frames as the film, in the format that was asked for."""
    yuv = frames_pb2.PIXEL_FORMAT_YUV420P
    opening = highlights_pb2.HighlightOpen(path="short.mp4", saliency=True, pixel_format=yuv)
    scores, coming, *maps, done = await asyncio.wait_for(search(server, opening), 100)
    assert [(each.start, each.end) for each in scores.scores.excerpts] == [(0, 1)]
    assert (coming.excerpt.saliency, coming.excerpt.num_frames) == (True, 2)
    assert sum(len(response.payload) for response in maps) == 2 * 90 * 160 * 3 // 2
    assert done.done.num_frames == 2
    await server.expect_idle()


async def test_a_text_is_refused_where_none_is_read(server: RunningApp) -> None:
    """In one sentence, which says what to give."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await search(server, asked(path="a.mp4", text="a red ring"))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "knows pictures alone; give images of what is wanted, or start the server with" in str(refused.value)
    del refused  # whose traceback would keep the call
    await server.expect_idle()


async def test_a_request_waits_for_its_place(server: RunningApp) -> None:
    """When all of the server's are taken, by streams as by other requests."""
    admission = server.app._admission
    claims: list[Claim] = []
    while not claims or claims[-1].held:
        claims.append(admission.enter(EVERYONE))
        admission.ask(claims[-1], num_bytes=0, request_bytes=0)
    admission.release(claims.pop())  # it would wait before the request
    waiting = asyncio.create_task(search(server, asked(path="a.mp4")))
    await eventually(lambda: admission.num_queued == 1, lambda: admission.num_queued)
    for claim in claims:
        admission.release(claim)
    assert (await asyncio.wait_for(waiting, 60))[0].HasField("scores")
    await server.expect_idle()
