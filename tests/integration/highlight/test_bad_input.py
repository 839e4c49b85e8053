"""What a client may get wrong: each has its status and its words, and the next good request works.

The server has a model that reads texts, and is asked for them as well.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio

from framehaul.v1 import highlights_pb2
from framehaul.v1.highlights_pb2_grpc import HighlightServiceStub
from tests.integration.highlight.test_service import asked, search
from tests.support.call import CHANNEL_OPTIONS
from tests.support.clip_folders import write_clip
from tests.support.films import frames, png, product, write_audio, write_film
from tests.support.running_app import RunningApp, running_app
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that clients may name films of, with things in it that are none."""
    folder = tmp_path_factory.mktemp("films")
    film = write_film(folder / "a.mp4", frames(4, (2, 4)))
    content = film.read_bytes()
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.mp4").write_bytes(content)
    (folder / "way").symlink_to(outside)
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "no.mp4").write_text("not a film " * 1000)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:4,\nfile://{film}\n#EXT-X-ENDLIST\n")
    (folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{film}'\n")
    (folder / "sub").mkdir()
    write_audio(folder / "sound.mp4")
    write_film(folder / "long.mp4", frames(0.2, (0, 0)), apart_s=36000)
    write_film(folder / "large.mkv", np.zeros((1, 4320, 8400, 3), np.uint8), codec="ffv1")
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(root: Path) -> AsyncIterator[RunningApp]:
    model = write_clip(root.parent / "small-clip")
    options = ("--highlight", "--highlight-root", str(root), "--highlight-readers", "2")
    async with running_app(*options, "--highlight-upload-mib", "1", "--highlight-model", str(model)) as app:
        yield app


def change(**fields: Any) -> Callable[[highlights_pb2.HighlightOpen], None]:
    def apply(opening: highlights_pb2.HighlightOpen) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(opening, name)[:]
                getattr(opening, name).extend(value)
            else:
                setattr(opening, name, value)

    return apply


BAD_REQUESTS = {
    "no query": (change(images=[]), INVALID, "open.images=none: must be 1..16 pictures"),
    "an image that isn't one": (change(images=[b"no picture"]), INVALID, "open.images[0]="),
    "an empty image": (change(images=[b""]), INVALID, "open.images[0]=0 bytes"),
    "half an image": (change(images=[png(product())[:200]]), INVALID, "open.images[0]="),
    "too many images": (change(images=[b"x"] * 17), INVALID, "at most 16"),
    "a blank text": (change(text=" \n"), INVALID, "open.text=2 characters: must be 1..1000, not all of them blank"),
    "a text without an end": (change(text="red " * 300), INVALID, "open.text=1200 characters"),
    "a text that is too long": (
        change(text="red " * 20),
        INVALID,
        "open.text=80 characters, 22 tokens: must be shorter",
    ),
    "seconds": (change(seconds=-1), INVALID, "open.seconds=-1"),
    "seconds that are no number": (change(seconds=float("nan")), INVALID, "open.seconds=nan"),
    "excerpts": (change(excerpts=21), INVALID, "open.excerpts=21: must be 1..20"),
    "samples": (change(samples_per_second=1000), INVALID, "open.samples_per_second=1000"),
    "a crop of one number": (change(crop_width=9), INVALID, "open.crop_width=9:0"),
    "a path outside": (change(path="../outside/secret.mp4"), INVALID, "open.path="),
    "an absolute path": (change(path="/etc/passwd"), INVALID, "open.path="),
    "a URL": (change(path="http://127.0.0.1/a.mp4"), INVALID, "open.path="),
    "a path through a link": (change(path="way/secret.mp4"), NOT_FOUND, "open.path="),
    "a link": (change(path="link.mp4"), NOT_FOUND, "open.path="),
    "a folder": (change(path="sub"), NOT_FOUND, "not a regular file"),
    "a named pipe": (change(path="pipe.mp4"), NOT_FOUND, "not a regular file"),
    "no file": (change(path="nothing.mp4"), NOT_FOUND, "open.path=nothing.mp4"),
    "not a film": (change(path="no.mp4"), INVALID, "a readable video file"),
    "nothing": (change(path="empty.mp4"), INVALID, "a readable video file"),
    "half a film": (change(path="cut.mp4"), INVALID, "video="),
    "sound alone": (change(path="sound.mp4"), INVALID, "a video stream"),
    "a playlist": (change(path="list.m3u8"), INVALID, "a readable video file"),
    "a list of files": (change(path="list.ffconcat"), INVALID, "a readable video file"),
    "ten hours by its header": (change(path="long.mp4"), INVALID, "up to 14400 s long"),
    "a bomb of pixels": (change(path="large.mkv"), INVALID, "video=8400x4320: must be 1..35651584 pixels"),
    "a path and an upload": (change(upload_bytes=5), INVALID, "open.upload_bytes=5"),
    "no film": (change(path=""), INVALID, "open.upload_bytes=0"),
    "too large an upload": (change(path="", upload_bytes=1 << 40), INVALID, "open.upload_bytes="),
    "a pixel format": (change(pixel_format=4), INVALID, "open.pixel_format=4"),
    "messages too small": (change(max_message_bytes=5), INVALID, "open.max_message_bytes=5"),
}


async def refusal(
    server: RunningApp, opening: highlights_pb2.HighlightOpen, upload: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """How a search fails; its error is let go of, whose traceback would keep the call and so its connection."""
    try:
        found = await asyncio.wait_for(search(server, opening, upload), 60)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    pytest.fail(f"not refused, but {found}")


async def test_what_is_wrong_is_told_and_the_next_request_works(server: RunningApp) -> None:
    wrong = {}
    for name, (apply, code, words) in BAD_REQUESTS.items():
        opening = asked(path="a.mp4")
        apply(opening)
        refused = await refusal(server, opening)
        if refused[0] != code or words not in refused[1]:
            wrong[name] = refused
    assert not wrong
    assert (await search(server, asked(path="a.mp4")))[0].HasField("scores")
    await server.expect_idle()
    assert server.num_free_samples == 16


async def scores_of(server: RunningApp, *, pictures: bool, text: str) -> highlights_pb2.Scores:
    opening = asked(path="a.mp4", text=text)
    if not pictures:
        del opening.images[:]
    return (await search(server, opening))[0].scores


async def test_pictures_and_a_text_count_as_much(server: RunningApp) -> None:
    """The scores of both are the sum of each one's, which are in standard deviations over the film."""
    pictures, text, both, other = [
        await scores_of(server, pictures=pictures, text=text)
        for pictures, text in ((True, ""), (False, "red ring"), (True, "red ring"), (False, "green can"))
    ]
    assert both.model == text.model == "small-clip"
    assert list(text.scores) != list(other.scores)
    assert min(np.std(each.scores) for each in (pictures, text, other)) > 0.5
    same = sorted(set(pictures.times) & set(text.times) & set(both.times))
    assert len(same) >= 8
    at = [dict(zip(each.times, each.scores, strict=True)) for each in (pictures, text, both)]
    summed = np.array([at[0][time] + at[1][time] for time in same])
    found = np.array([at[2][time] for time in same])
    assert np.corrcoef(summed, found)[0, 1] > 0.999
    await server.expect_idle()


async def begin_with_the_end(server: RunningApp) -> tuple[grpc.StatusCode, str | None]:
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        call = HighlightServiceStub(channel).Highlight()
        await call.write(highlights_pb2.HighlightRequest(end_of_upload=True))
        return await call.code(), await call.details()


async def test_a_request_begins_with_what_it_asks_for(server: RunningApp) -> None:
    code, details = await begin_with_the_end(server)
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "the first request must have `open`")
    await server.expect_idle()


async def test_an_upload_must_be_as_long_as_it_said(server: RunningApp, root: Path) -> None:
    film = (root / "a.mp4").read_bytes()
    for said, words in ((len(film) + 1, "end_of_upload=after"), (len(film) - 1, "data=")):
        assert words in (await refusal(server, asked(upload_bytes=said), film))[1]
    await server.expect_idle()


async def test_readers_that_die_are_replaced_once(server: RunningApp) -> None:
    """Killed once, a film is read all the same; killed again and again, the request ends and says why."""

    async def kill(num_deaths: float) -> None:
        killed: set[int] = set()
        while len(killed) < num_deaths:
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    if child.pid not in killed and "highlight.reader" in " ".join(child.cmdline()):
                        killed.add(child.pid)
                        child.kill()
            await asyncio.sleep(0.005)

    killing = asyncio.create_task(kill(1))
    assert (await search(server, asked(path="a.mp4")))[0].HasField("scores")
    await killing
    killing = asyncio.create_task(kill(math.inf))
    code, details = await refusal(server, asked(path="a.mp4"))
    assert code == grpc.StatusCode.ABORTED
    assert "two processes ended while they read it" in details
    killing.cancel()
    await server.expect_idle()
    assert server.num_free_samples == 16


async def test_frames_go_on_where_a_reader_died(server: RunningApp, root: Path) -> None:
    """Each comes once, and they are the film's."""
    opening = asked(path="a.mp4", want=highlights_pb2.WANT_FRAMES, window_frames=4)
    opening.seconds = 4
    killed: list[psutil.Process] = []

    def kill(response: highlights_pb2.HighlightResponse) -> None:
        # The reader waits for a slot meanwhile: one doesn't hold all frames.
        if response.frames.first_frame == 4:
            children = psutil.Process().children()
            killed.extend(child for child in children if "highlight.reader" in " ".join(child.cmdline()))
            for reader in killed:
                reader.kill()

    found = await asyncio.wait_for(search(server, opening, on_frames=kill), 60)
    assert len(killed) == 1
    whole = [response for response in found if response.HasField("frames")]
    numbers = [response.frames.first_frame + index for response in whole for index in range(response.frames.num_frames)]
    assert numbers == [*range(40)]
    with av.open(str(root / "a.mp4")) as container:
        pixels = b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))
    sent = np.frombuffer(b"".join(response.payload for response in whole), np.uint8).astype(int)
    assert abs(sent - np.frombuffer(pixels, np.uint8)).mean() < 2  # of 255, by another scaler of colours
    await server.expect_idle()
    await eventually(lambda: server.num_free_samples == 16, lambda: server.num_free_samples)


async def leave(server: RunningApp) -> None:
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        call = HighlightServiceStub(channel).Highlight()
        await call.write(highlights_pb2.HighlightRequest(open=asked(path="a.mp4")))
        await call.read()
        call.cancel()


async def test_a_client_that_leaves_leaves_nothing(server: RunningApp) -> None:
    await leave(server)
    await server.expect_idle()
    await eventually(lambda: server.num_free_samples == 16, lambda: server.num_free_samples)


async def search_while_the_worker_dies(server: RunningApp) -> list[Any]:
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        call = HighlightServiceStub(channel).Highlight()
        await call.write(highlights_pb2.HighlightRequest(open=asked(path="a.mp4")))
        responses: list[Any] = [await call.read()]
        server.worker.kill()
        while isinstance(response := await call.read(), highlights_pb2.HighlightResponse):
            responses.append(response)
    return responses


async def test_a_film_is_searched_again_when_the_worker_dies(server: RunningApp) -> None:
    """By the next worker, and the client sees a pause."""
    responses = await search_while_the_worker_dies(server)
    assert responses[-1].HasField("done")
    await server.ready()
    await server.expect_idle()
