"""The worker or the server is killed under the reference client: every frame arrives once, in order."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from framehaul_client import FrameClient, GaveUp, Session
from tests.integration.resume.conftest import OPTIONS, decode, make_clip, save_clip
from tests.support.command import COMMAND, environment
from tests.support.server_process import running_server

pytestmark = pytest.mark.asyncio


async def take(session: Session, count: int) -> list[np.ndarray[Any, Any]]:
    return [await anext(session) for _ in range(count)]


async def test_a_killed_worker_is_a_pause_for_every_session(log: Path) -> None:
    """Sessions at different places of their clips, and one whose link is cut while there is no worker; bit for bit."""
    clips = [make_clip(24, seed) for seed in range(3)]
    with running_server(log, *OPTIONS) as server:
        whole = [await decode(server.target, clip) for clip in clips]

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


@pytest.mark.parametrize("kind", ["array", "generator"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_is_replaced_goes_on_where_the_frames_stopped(
    log: Path, number: signal.Signals, kind: str
) -> None:
    """Killed, or drained past its grace; the new one gets only the latents that it needs."""
    clip = make_clip(40)
    latents: Any = clip if kind == "array" else produce(clip)
    with running_server(log, *OPTIONS, "--grace", "0") as server:
        whole = await decode(server.target, clip)
        async with FrameClient(server.target) as client, client.session(latents, window_frames=8) as session:
            frames = await take(session, 70)
            server.signal(number)
            server.wait()
            with running_server(log, *OPTIONS, "--listen", server.target):
                frames += [frame async for frame in session]
            assert session.statistics.num_reconnects == 1
            assert session.statistics.num_latents == 40
            # 17 latents' frames were consumed; frames of the next one need the 4 before it.
            assert session.statistics.latent_bytes <= (40 + 40 - (17 - 4)) * clip[0].nbytes
    assert np.array_equal(np.stack(frames), whole)


async def test_a_server_that_does_not_come_back_is_given_up(log: Path) -> None:
    """After `retry_for_s`, with the reason and the time; frames that had come were handed out."""
    with running_server(log, *OPTIONS) as server:
        async with (
            FrameClient(server.target) as client,
            client.session(make_clip(), window_frames=8, retry_for_s=0.5) as session,
        ):
            await take(session, 1)
            server.signal(signal.SIGKILL)
            server.wait()
            with pytest.raises(GaveUp, match=r"gave up after 0\.5 s"):
                await take(session, 1000)


async def test_the_command_survives_and_says_so(log: Path, tmp_path: Path) -> None:
    """The server is killed under `client stream`, and another one takes its address: exit code 0, one line a change."""
    save_clip(tmp_path / "a.safetensors", 100)
    with running_server(log, *OPTIONS) as server:
        arguments = ("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--target", server.target)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *map(str, arguments),
            "--quiet",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        await has_partial_file(tmp_path)
        server.signal(signal.SIGKILL)
        server.wait()
        with running_server(log, *OPTIONS, "--listen", server.target):
            _, err = await process.communicate()
    assert process.returncode == 0, err
    lines = err.decode().splitlines()
    assert "trying again for up to 60 s" in lines[0]
    assert "the server has lost the session" in lines[-2]
    assert "a new session goes on at frame" in lines[-1]
    assert len(lines) <= 4
    assert (tmp_path / "v.mp4").exists()
    assert not partial_files(tmp_path)


async def test_the_command_gives_up_with_a_code_and_keeps_what_it_has(log: Path, tmp_path: Path) -> None:
    """7, the reason, and where the frames so far are; no file has the final name."""
    save_clip(tmp_path / "a.safetensors", 100)
    with running_server(log, *OPTIONS) as server:
        arguments = ("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", server.target)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *map(str, arguments),
            *("--quiet", "--retry-for", "0.5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        partial = await has_partial_file(tmp_path)
        server.signal(signal.SIGKILL)
        server.wait()
        _, err = await process.communicate()
    assert process.returncode == 7, err
    text = err.decode()
    assert "trying again for up to 0.5 s" in text
    assert f"the frames so far are kept in {partial}" in text
    assert "gave up after 0.5 s" in text.splitlines()[-1]
    assert not (tmp_path / "v.mkv").exists()


async def has_partial_file(folder: Path) -> Path:
    """Wait until the command has written frames: another process's doing, of which nothing tells us."""
    while True:
        if found := partial_files(folder):
            return found[0]
        await asyncio.sleep(0.01)


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.partial") if path.stat().st_size > 0]
