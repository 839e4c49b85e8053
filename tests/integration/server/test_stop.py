"""Starting and stopping: drain, second signal, port in use, a worker that can't start."""

import asyncio
import signal
import socket
from functools import partial
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul.v1 import frames_pb2 as pb
from framehaul_server import cli
from framehaul_server.app import App
from framehaul_server.errors import CannotListen
from tests.integration.conftest import StartServer
from tests.support.call import Call, details
from tests.support.clips import latents, opening
from tests.support.server_process import COMMON_OPTIONS, ServerProcess, ended_server, has_ended
from tests.support.waiting import wait_until

LONG_GRACE = ("--grace", "600")
SMALLEST_WINDOW = opening(mode=pb.MODE_EXPLICIT, window_frames=4)


def test_an_interrupted_idle_server_stops_at_once(start_server: StartServer) -> None:
    server = start_server(*LONG_GRACE)
    worker = server.worker()
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert not worker.is_running()


def test_a_server_that_drains_lets_sessions_finish_within_the_grace(start_server: StartServer) -> None:
    """One finishes; one waits for an acknowledgement, one doesn't read at all: they are ended, and hold nothing up.

    Whoever is queued or comes later is sent away at once.
    """
    server = start_server("--grace", "8", "--max-sessions", "3")
    with server.channel() as channel, Call(channel) as finishing, Call(channel) as waiting, Call(channel) as stalled:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        finishing.send(latents(4), open=SMALLEST_WINDOW)
        waiting.send(latents(4), open=SMALLEST_WINDOW)
        stalled.send(latents(400), open=opening())
        for call in (finishing, waiting, stalled):
            call.read_frames(4)
        with Call(channel) as queued, server.channel() as other:
            queued.send(open=opening())
            queued.read()
            assert queued.positions == [1]
            server.signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            late = Call(other)
            late.send(open=opening())
            for call in (queued, late):
                with pytest.raises(grpc.RpcError) as caught:
                    call.read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "draining" in details(caught.value)
                assert not call.is_open
        while finishing.drain is None:
            finishing.read()
        assert finishing.drain.grace_ms == 8000
        finishing.send(end_of_latents=True, ack=pb.Ack(next_frame=4, window_frames=100))
        assert len(finishing.read_to_end()) == 16
        assert server.wait() == 0
        with pytest.raises(grpc.RpcError) as caught:
            waiting.read_to_end()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "grace period" in details(caught.value)
        with pytest.raises(grpc.RpcError):
            list(watch)


def test_the_second_signal_exits_at_once_and_takes_the_worker_along(start_server: StartServer) -> None:
    server = start_server(*LONG_GRACE)
    worker = server.worker()
    with server.channel() as channel, Call(channel) as client:
        client.send(latents(4), open=SMALLEST_WINDOW)
        client.read_frames(4)
        server.signal(signal.SIGTERM)
        while client.drain is None:
            client.read()
        server.signal(signal.SIGTERM)
        assert server.wait() == 143
    wait_until(partial(has_ended, worker), "the worker's end")


def test_a_killed_server_takes_a_worker_that_runs_no_more_along(start_server: StartServer) -> None:
    """And the standby: also one that is stopped and sees no end of its socket is killed."""
    server = start_server("--standby")
    worker, standby = server.worker(), server.standby()
    with server.channel() as channel, Call(channel) as client:
        client.send(latents(4), open=SMALLEST_WINDOW)
        client.read_frames(4)
        worker.suspend()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        with pytest.raises(grpc.RpcError) as caught:
            client.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for process in (worker, standby):
        wait_until(partial(has_ended, process), "the processes' end")


def test_a_port_in_use_is_a_clear_error_and_not_shared(server: ServerProcess) -> None:
    ended = ended_server("--listen", server.target)
    assert ended.returncode == 3
    assert f"server: error: listen={server.target}: the address is in use" in ended.stderr
    assert ended.stdout == ""


def test_a_wrong_option_ends_before_anything_starts() -> None:
    ended = ended_server("--device", "tpu")
    assert ended.returncode == 2
    assert "device=tpu" in ended.stderr


def test_a_worker_that_cannot_start_is_a_clear_error() -> None:
    ended = ended_server("--device", "cuda:63")
    assert ended.returncode == 4
    assert "server: error: " in ended.stderr
    assert "exit code 70" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.asyncio
async def test_stopping_while_the_worker_still_starts_leaves_nothing() -> None:
    ready: list[str] = []
    stop = asyncio.Event()
    running = asyncio.create_task(App(cli.parse(COMMON_OPTIONS, {}), on_ready=ready.append).run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 60)
    assert not ready


@pytest.mark.asyncio
async def test_a_foreign_listener_is_noticed_before_a_worker_starts() -> None:
    before = psutil.Process().children()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = cli.parse([*COMMON_OPTIONS, "--listen", f"127.0.0.1:{listener.getsockname()[1]}"], {})
        with pytest.raises(CannotListen):
            await App(config, on_ready=lambda line: None).run(asyncio.Event())
    assert psutil.Process().children() == before
