"""Metrics of a real server: what they count is what clients counted, and they are there while a worker isn't."""

import asyncio
import signal
import socket
import time

import numpy as np
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from tests.integration.conftest import StartServer
from tests.integration.server.test_stalled import FIXED_WINDOW
from tests.support.call import Call
from tests.support.clips import FRAMES_OF_A_LATENT, latents, make_clip, opening
from tests.support.proxy import Direction, FaultProxy
from tests.support.scrape import scrape
from tests.support.server_process import SAME_CHUNKS, ServerProcess, ended_server
from tests.support.waiting import eventually, wait_until

NUM_LATENTS = 24
NUM_KILLS = 2


async def replace_worker(server: ServerProcess) -> None:
    num_workers = server.log.count("worker ready")
    server.worker().kill()
    await eventually(lambda: server.log.count("worker ready") > num_workers, lambda: "a worker")


@pytest.mark.asyncio
async def test_counters_equal_what_clients_counted_through_kills_cuts_and_resumes(start_server: StartServer) -> None:
    """Three sessions whose worker is killed twice, two of them on a link that is cut again and again.

    Replays are counted, and apart: without them each frame is there once. Latents are counted once, whatever is sent
    again. The log has the same numbers.
    """
    server = start_server("--metrics", "127.0.0.1:0", "--resume-window", "60", *SAME_CHUNKS)
    clips = [make_clip(NUM_LATENTS, height=2, width=2, seed=seed) for seed in range(3)]
    num_frames = 3 * FRAMES_OF_A_LATENT * NUM_LATENTS
    handed_out = 0

    async with FaultProxy(server.target) as proxy:
        for message in range(8, 48, 8):
            proxy.cut_at(Direction.TO_CLIENT, message)

        async def run(target: str, clip: np.ndarray) -> tuple[int, int, int]:
            nonlocal handed_out
            async with FrameClient(target) as client, client.session(clip, window_frames=8) as session:
                async for _ in session:
                    handed_out += 1
                    if handed_out in (num_frames // 4, num_frames // 2):
                        await replace_worker(server)
                told = session.statistics
                return told.num_latents, told.num_frames, told.num_reconnects

        targets = (server.target, proxy.target, proxy.target)
        counted = await asyncio.gather(*map(run, targets, clips))
        num_cuts = proxy.num_cuts
    await asyncio.to_thread(server.expect_idle)
    found = await asyncio.to_thread(scrape, server.metrics_target)
    assert num_cuts >= 2
    assert handed_out == num_frames == sum(each[1] for each in counted)
    replayed = found.value("frames_replayed_total")
    assert found.value("frames_sent_total") - replayed == num_frames
    assert found.value("frames_decoded_total") == num_frames
    assert found.value("latents_received_total") == sum(each[0] for each in counted) == 3 * NUM_LATENTS
    # A cut may take along the answer to a session that was taken up again, or the asking for it.
    assert found.value("sessions_resumed_total") >= sum(each[2] for each in counted) > 0
    assert found.value("worker_restarts_total") == NUM_KILLS
    assert found.value("session_calls_total", tenant="everyone", cause="ok") == 3
    assert found.value("first_frame_seconds_count") == 3
    ends = server.session_ends()
    assert sum(found.values("session_calls_total").values()) == len(ends) >= 3 + found.value("sessions_resumed_total")
    assert found.value("frames_sent_total") == sum(int(end["frames"]) for end in ends)
    assert found.value("sent_bytes_total") >= found.value("frames_sent_total") * 16 * 16 * 3
    assert sum(found.values("sessions").values()) == found.value("places_held") == 0
    with server.stub() as stub:
        assert list(stub.GetServerInfo(pb.GetServerInfoRequest()).metrics) == [server.metrics_target]


def test_a_dead_worker_and_a_client_that_does_not_read_are_seen(start_server: StartServer) -> None:
    """Metrics stay up while the worker is replaced. A wait is counted once, however often one looks."""
    server = start_server("--metrics", "127.0.0.1:0", "--session-window-mib", "1")
    target = server.metrics_target
    with server.channel(**FIXED_WINDOW) as channel, Call(channel) as call:
        call.send(latents(200), open=opening())
        call.read_frames(4)
        worker = server.worker()
        worker.kill()
        seen = [scrape(target)]
        while not seen[-1].value("worker_restarts_total") or not seen[-1].value("worker_state", state="ready"):
            time.sleep(0.05)
            seen.append(scrape(target))
        assert any(each.value("worker_state", state="restarting") for each in seen)
        assert all(each.value("sessions", state="opened", tenant="everyone") == 1 for each in seen)

        first = last = scrape(target)

        def has_waited() -> bool:
            nonlocal first, last
            last = scrape(target)
            if last.value("frames_sent_total") > first.value("frames_sent_total"):
                first = last
            return difference("blocked_seconds_total") > 0.5

        def difference(name: str) -> float:
            return last.value(name, cause="network") - first.value(name, cause="network")

        wait_until(has_waited, "half a second in which nothing is written")
        assert difference("waits_total") <= 1


def test_a_server_that_is_looked_at_stops_in_time(start_server: StartServer) -> None:
    """With a connection that asks for nothing, and one whose answer has come."""
    server = start_server("--metrics", "127.0.0.1:0")
    host, _, port = server.metrics_target.partition(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as kept:
        kept.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 OK")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_an_address_for_metrics_that_is_in_use_ends_the_server_before_its_worker_starts(server: ServerProcess) -> None:
    ended = ended_server("--metrics", server.target)
    assert ended.returncode == 3
    assert f"server: error: metrics={server.target}: the address is in use" in ended.stderr
    assert "worker ready" not in ended.stderr
