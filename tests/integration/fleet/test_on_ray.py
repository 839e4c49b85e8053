"""A fleet on real clusters of Ray, which `make check` doesn't install: `make soak-fleet` runs it."""

import asyncio
import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from framehaul_client.client import FrameClient
from tests.support.clips import FRAMES_OF_A_LATENT, make_clip
from tests.support.ray_nodes import RayNodes, running_nodes
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.environ.get("WITH_RAY") != "1", reason="two minutes, with Ray installed; WITH_RAY=1 runs it"),
    pytest.mark.timeout(300),
]

CLIP = make_clip(12, height=2, width=3, seed=4)
SERVER_OPTIONS = ("--max-size", "512x512", "--no-standby", "--device-memory-gib", "1", "--session-window-mib", "1")


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with running_nodes(1, 2) as running:
        yield running


@pytest.fixture
def locator(nodes: RayNodes, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The addresses for clients and for Prometheus of a fleet with two servers."""
    up = nodes.fleet("up", "--cpus", "2", "--grace", "2", "--metrics", "--", *SERVER_OPTIONS)
    assert up.returncode == 0, up.stderr
    log = tmp_path / "locator.log"
    process, target = nodes.start_locator(log, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    try:
        found = re.search(r" metrics listen=(\S+)", log.read_text())
        assert found is not None
        yield target, found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


async def watch(target: str, started: asyncio.Event, go_on: asyncio.Event) -> bytes:
    """A client that stops after its first frames until it may go on."""
    frames: list[bytes] = []
    async with FrameClient(target) as client, client.session(CLIP, reproducible=True, window_frames=4) as session:
        async for frame in session:
            frames.append(np.asarray(frame).tobytes())
            if len(frames) == 5:
                started.set()
                await go_on.wait()
    assert len(frames) == FRAMES_OF_A_LATENT * len(CLIP)
    return b"".join(frames)


@pytest.fixture
def scaled(tmp_path: Path) -> Iterator[tuple[RayNodes, str]]:
    """A cluster that Ray's autoscaler adds nodes to, and takes them from; the locator of a fleet of 1 to 3 servers."""
    with running_nodes(1, 1, most_added=3) as nodes:
        options = ("--cpus", "1", "--max", "3", "--sessions-per-server", "1", "--hold", "3", "--grace", "20")
        up = nodes.fleet("up", *options, "--", *SERVER_OPTIONS, "--max-sessions", "1", "--max-queued", "8")
        assert up.returncode == 0, up.stderr
        process, target = nodes.start_locator(tmp_path / "locator.log", "--listen", "127.0.0.1:0")
        try:
            yield nodes, target
        finally:
            process.terminate()
            process.communicate()


@pytest.mark.asyncio
async def test_nodes_come_with_the_load_and_go_once_their_servers_have_drained(scaled: tuple[RayNodes, str]) -> None:
    """Ray's own autoscaler starts and stops them. Sessions that wait at a full server go to those that have come."""
    nodes, target = scaled

    def are_ready(number: int) -> bool:
        """So many servers, on a node each; the head has none."""
        found = nodes.status()["servers"]
        ready = {each["node"] for each in found if each["state"] == "ready"}
        return (len(found), len(ready), len(nodes.processes("raylet/raylet"))) == (number, number, number + 1)

    assert are_ready(1)
    go_on = asyncio.Event()
    started = [asyncio.Event() for _ in range(3)]
    running = [asyncio.create_task(watch(target, each, go_on)) for each in started]
    await asyncio.to_thread(wait_until, lambda: are_ready(3), "three servers", 120.0)
    await asyncio.wait_for(asyncio.gather(*(each.wait() for each in started)), 60)
    go_on.set()
    assert len(set(await asyncio.gather(*running))) == 1
    await asyncio.to_thread(wait_until, lambda: are_ready(1), "one server", 120.0)
    down = await asyncio.to_thread(nodes.fleet, "down")
    assert down.returncode == 0, down.stderr


@pytest.mark.asyncio
async def test_a_fleet_from_up_to_down(nodes: RayNodes, locator: tuple[str, str]) -> None:
    """Sessions of a server that is killed go on at the other one; a registry that is killed knows all again."""
    target, metrics = locator
    go_on = asyncio.Event()
    go_on.set()
    expected = await watch(target, asyncio.Event(), go_on)
    go_on.clear()
    started = [asyncio.Event() for _ in range(4)]
    running = [asyncio.create_task(watch(target, each, go_on)) for each in started]
    await asyncio.gather(*(each.wait() for each in started))
    nodes.processes("framehaul_server.member")[0].kill()
    nodes.processes("ray::Registry")[0].kill()
    go_on.set()
    assert [each == expected for each in await asyncio.wait_for(asyncio.gather(*running), 60)] == [True] * 4
    await asyncio.to_thread(check_end, nodes, metrics)


def check_end(nodes: RayNodes, metrics: str) -> None:
    found = nodes.status()["servers"]
    assert len(found) == 2, "the new registry has heard of both, or waits until it has"

    def is_whole() -> bool:
        with urllib.request.urlopen(f"http://{metrics}/targets") as response:
            num_targets = len(json.load(response)[0]["targets"])
        return num_targets == 2 and all(each["state"] == "ready" for each in nodes.status()["servers"])

    wait_until(is_whole, "two servers that are ready, and their metrics")
    refused = nodes.fleet("drain", "elsewhere")
    assert (refused.returncode, "host='elsewhere': must be the name" in refused.stderr) == (4, True)
    down = nodes.fleet("down")
    assert (down.returncode, down.stdout.splitlines()[-1:]) == (0, ["fleet: down"])
    assert nodes.processes("framehaul_server") == []
    assert nodes.fleet("status").returncode == 4
