"""The worker or the server is killed under the reference client: every frame arrives once, in order."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from framehaul_client import FrameClient, GaveUp, Session
from tests.integration.resume.conftest import decode_in_steps, small_clip
from tests.support.client_command import start_client
from tests.support.clips import make_clip
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server
from tests.support.waiting import eventually

MKV_WITH_FRAMES_BYTES = 2_000

pytestmark = pytest.mark.asyncio


class Successors:
    """Servers at one address, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_started = 0
        self._resources = ExitStack()
        self.start_next("127.0.0.1:0")

    def start_next(self, listen: str) -> None:
        self._num_started += 1
        log = self._folder / f"{self._num_started}.log"
        options = ("--listen", listen, "--grace", "0", *SAME_CHUNKS)
        self.present = self._resources.enter_context(running_server(log, *options))

    def end(self, number: signal.Signals) -> None:
        self.present.signal(number)
        self.present.wait()

    def replace(self, number: signal.Signals) -> None:
        """End the present one by a signal, and start another in its place."""
        self.end(number)
        self.close()
        self.start_next(self.present.target)

    def close(self) -> None:
        self._resources.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Successors]:
    """Each test ends the present one; the last test leaves none."""
    found = Successors(tmp_path_factory.mktemp("servers"))
    yield found
    found.close()


async def take(session: Session, count: int) -> list[np.ndarray[Any, Any]]:
    return [await anext(session) for _ in range(count)]


async def test_a_killed_worker_is_a_pause_for_every_session(server: ServerProcess) -> None:
    """Sessions at different places of their clips, and one whose link is cut while there is no worker; bit for bit."""
    clips = [small_clip(24, seed) for seed in range(3)]
    whole = [await decode_in_steps(server.target, clip) for clip in clips]

    async def run(clip: np.ndarray[Any, Any], num_before: int) -> list[np.ndarray[Any, Any]]:
        async with FrameClient(server.target) as client, client.session(clip, window_frames=8) as session:
            frames = await take(session, num_before)
            arrived[num_before].set()
            await killed.wait()
            frames += [frame async for frame in session]
            assert session.statistics.num_reconnects == 0
            return frames

    killed = asyncio.Event()
    arrived = {count: asyncio.Event() for count in (1, 30, 57)}
    runs = [asyncio.create_task(run(clip, count)) for clip, count in zip(clips, arrived, strict=True)]
    for event in arrived.values():
        await event.wait()
    worker = server.worker()
    worker.kill()
    killed.set()
    for task, expected in zip(runs, whole, strict=True):
        assert np.array_equal(np.stack(await task), expected)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


async def produce(clip: np.ndarray[Any, Any]) -> AsyncIterator[np.ndarray[Any, Any]]:
    """Latents from a generator that uses its memory again: what the client keeps must be a copy."""
    latent = np.empty_like(clip[0])
    for each in clip:
        latent[:] = each
        yield latent


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, "array"), (signal.SIGTERM, "generator")])
async def test_a_server_that_is_replaced_goes_on_where_the_frames_stopped(
    servers: Successors, number: signal.Signals, kind: str
) -> None:
    """Killed, or drained past its grace; the new one gets only the latents that it needs."""
    clip = small_clip(40)
    latents: Any = clip if kind == "array" else produce(clip)
    target = servers.present.target
    whole = await decode_in_steps(target, clip)
    async with FrameClient(target) as client, client.session(latents, window_frames=8) as session:
        frames = await take(session, 70)
        servers.replace(number)
        frames += [frame async for frame in session]
        assert session.statistics.num_reconnects == 1
        assert session.statistics.num_latents == 40
        # 17 latents' frames were consumed; frames of the next one need the 4 before it.
        assert session.statistics.latent_bytes <= (40 + 40 - (17 - 4)) * clip[0].nbytes
    assert np.array_equal(np.stack(frames), whole)


async def start_streaming(server: ServerProcess, folder: Path, name: str, *options: str) -> asyncio.subprocess.Process:
    """Run the command until it has written frames, of a clip whose decoding takes a while."""
    save_file({"latents": make_clip(100)}, folder / "a.safetensors")
    arguments = ("stream", folder / "a.safetensors", "--out", folder / name, "--target", server.target, "--quiet")
    process = await start_client(*arguments, *options)
    await eventually(lambda: bool(partial_files(folder)), lambda: "frames", timeout_s=60)
    return process


async def test_the_command_survives_and_says_so(servers: Successors, tmp_path: Path) -> None:
    """The server is killed under `client stream`, and another one takes its address: exit code 0, one line a change."""
    process = await start_streaming(servers.present, tmp_path, "v.mp4")
    servers.replace(signal.SIGKILL)
    _, err = await process.communicate()
    assert process.returncode == 0, err
    lines = err.decode().splitlines()
    assert "trying again for up to 60 s" in lines[0]
    assert "the server has lost the session" in lines[-2]
    assert "a new session goes on at frame" in lines[-1]
    assert len(lines) <= 4
    assert (tmp_path / "v.mp4").exists()
    assert not partial_files(tmp_path)


async def test_a_server_that_does_not_come_back_is_given_up(servers: Successors, tmp_path: Path) -> None:
    """After `retry_for_s`, with the reason and the time; frames that had come were handed out.

    By the command with 7, the reason, and where the frames so far are; no file has the final name.
    """
    async with (
        FrameClient(servers.present.target) as client,
        client.session(small_clip(6), window_frames=8, retry_for_s=0.5) as session,
    ):
        await take(session, 1)
        process = await start_streaming(servers.present, tmp_path, "v.mkv", "--retry-for", "0.5")
        # A header comes first; Matroska's frames follow once a second of them is encoded.
        await eventually(lambda: bool(partial_files(tmp_path, MKV_WITH_FRAMES_BYTES)), lambda: "frames in the file")
        (partial,) = partial_files(tmp_path)
        servers.end(signal.SIGKILL)
        with pytest.raises(GaveUp, match=r"gave up after 0\.5 s"):
            await take(session, 1000)
    _, err = await process.communicate()
    assert process.returncode == 7, err
    text = err.decode()
    assert "trying again for up to 0.5 s" in text
    assert f"the frames so far are kept in {partial}" in text
    assert "gave up after 0.5 s" in text.splitlines()[-1]
    assert not (tmp_path / "v.mkv").exists()


def partial_files(folder: Path, least_bytes: int = 1) -> list[Path]:
    return [path for path in folder.glob("*.partial") if path.stat().st_size >= least_bytes]
