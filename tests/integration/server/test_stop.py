"""Starting and stopping: drain, second signal, port in use, a worker that can't go on."""

import asyncio
import signal
import socket
import subprocess
import sys
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.supervision.supervisor import WorkerFailed
from framehaul_server.app import App
from framehaul_server.config import Address, ServerConfig
from framehaul_server.errors import CannotListen
from tests.integration.server.conftest import StartServer
from tests.support.server_process import COMMON_OPTIONS, Client, details, eventually, latents, opening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(start_server: StartServer, number: signal.Signals) -> None:
    server = start_server()
    worker = server.worker()
    server.signal(number)
    assert server.wait(10) == 0
    assert not worker.is_running()


def test_a_running_session_finishes_while_the_server_drains(start_server: StartServer) -> None:
    server = start_server("--grace", "20")
    with server.channel() as channel, Client(channel) as client, server.channel() as other:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        client.send(latents(4), open=opening(mode=pb.MODE_EXPLICIT, window_frames=4))
        client.read_frames(4)
        server.signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        while client.drain is None:
            client.read()
        assert client.drain.grace_ms == 20_000
        with Client(other) as late:
            late.send(open=opening())
            with pytest.raises(grpc.RpcError) as caught:
                late.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "draining" in details(caught.value)
        client.send(end_of_latents=True, ack=pb.Ack(next_frame=4, window_frames=100))
        assert len(client.read_to_end()) == 16
        assert server.wait(10) == 0
        with pytest.raises(grpc.RpcError):
            list(watch)


def test_a_session_that_outlives_the_grace_is_ended(start_server: StartServer) -> None:
    """One waits for an acknowledgement, one for a client that doesn't read at all; neither holds the server up."""
    server = start_server("--grace", "0.2")
    with server.channel() as channel, Client(channel) as waiting, Client(channel) as stalled:
        waiting.send(latents(4), open=opening(mode=pb.MODE_EXPLICIT, window_frames=4))
        waiting.read_frames(4)
        stalled.send(latents(400), open=opening())
        stalled.read_frames(4)
        server.signal(signal.SIGTERM)
        assert server.wait(15) == 0
        with pytest.raises(grpc.RpcError) as caught:
            waiting.read_to_end()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "grace period" in details(caught.value)


def test_the_second_signal_exits_at_once_and_takes_the_worker_along(start_server: StartServer) -> None:
    server = start_server()
    worker = server.worker()
    with server.channel() as channel, Client(channel) as client:
        client.send(latents(4), open=opening(mode=pb.MODE_EXPLICIT, window_frames=4))
        client.read_frames(4)
        server.signal(signal.SIGTERM)
        while client.drain is None:
            client.read()
        server.signal(signal.SIGTERM)
        assert server.wait(5) == 143
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker's end")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_server_takes_the_worker_along(start_server: StartServer, stopped: bool) -> None:
    """Without a goodbye: worker and standby are killed, also one that runs no more and sees no end of its socket."""
    server = start_server("--standby")
    worker, standby = server.worker(), server.standby()
    with server.channel() as channel, Client(channel) as client:
        client.send(latents(4), open=opening(mode=pb.MODE_EXPLICIT, window_frames=4))
        client.read_frames(4)
        if stopped:
            worker.suspend()
        server.signal(signal.SIGKILL)
        assert server.wait(5) == -signal.SIGKILL
        with pytest.raises(grpc.RpcError) as caught:
            client.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for process in (worker, standby):
        eventually(
            lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE,  # type: ignore[misc]
            "the processes' end",
        )


def run_server(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "framehaul_server.cli", *COMMON_OPTIONS, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_in_use_is_a_clear_error_and_not_shared(start_server: StartServer) -> None:
    server = start_server()
    ended = run_server("--listen", server.target)
    assert ended.returncode == 3
    assert f"server: error: listen={server.target}: the address is in use" in ended.stderr
    assert ended.stdout == ""


def test_a_wrong_option_ends_before_anything_starts() -> None:
    ended = run_server("--device", "tpu")
    assert ended.returncode == 2
    assert "device=tpu" in ended.stderr


def test_a_worker_that_cannot_start_is_a_clear_error() -> None:
    ended = run_server("--device", "cuda:63")
    assert ended.returncode == 4
    assert "server: error: " in ended.stderr
    assert ended.stdout == ""


def app(**changes: Any) -> tuple[App, "asyncio.Queue[str]"]:
    ready: asyncio.Queue[str] = asyncio.Queue()
    worker = WorkerConfig(device="cpu", max_pixels=512 * 512, max_restarts=0, standby=False)
    config = ServerConfig(listen=Address(host="127.0.0.1", port=0), worker=worker, **changes)
    return App(config, on_ready=ready.put_nowait), ready


@pytest.mark.asyncio
async def test_past_its_restart_budget_the_worker_takes_the_server_down() -> None:
    server, ready = app()
    running = asyncio.create_task(server.run(asyncio.Event()))
    await asyncio.wait_for(ready.get(), 60)
    (worker,) = psutil.Process().children()
    worker.kill()
    with pytest.raises(WorkerFailed, match="died too often"):
        await asyncio.wait_for(running, 20)


@pytest.mark.asyncio
async def test_stopping_while_the_worker_still_starts_leaves_nothing() -> None:
    server, ready = app()
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 30)
    assert ready.empty()


@pytest.mark.asyncio
async def test_cancelling_the_server_leaves_nothing() -> None:
    server, ready = app()
    running = asyncio.create_task(server.run(asyncio.Event()))
    await asyncio.wait_for(ready.get(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.asyncio
async def test_a_foreign_listener_is_noticed_before_a_worker_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = ServerConfig(listen=Address(host="127.0.0.1", port=listener.getsockname()[1]))
        with pytest.raises(CannotListen):
            await App(config, on_ready=lambda line: None).run(asyncio.Event())
    assert psutil.Process().children() == []
