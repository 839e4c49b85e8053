"""A real server that searches films: one for all of these tests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul.v1.highlights_pb2_grpc import HighlightServiceStub
from tests.support.films import frames, png, product, write_film
from tests.support.running_app import RunningApp, running_app

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", frames(12, (6, 8)))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(root: Path) -> AsyncIterator[RunningApp]:
    options = ("--highlight", "--highlight-root", str(root), "--highlight-readers", "2")
    async with running_app(*options) as app:
        yield app


def asked(**fields: Any) -> highlights_pb2.HighlightOpen:
    return highlights_pb2.HighlightOpen(images=[png(product())], seconds=2, **fields)


async def search(
    server: RunningApp, opening: highlights_pb2.HighlightOpen, upload: bytes = b""
) -> list[highlights_pb2.HighlightResponse]:
    """All responses, but for progress; frames are acknowledged."""
    async with grpc.aio.insecure_channel(server.target) as channel:
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
            if response.HasField("frames"):
                next_frame = response.frames.first_frame + response.frames.num_frames
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
