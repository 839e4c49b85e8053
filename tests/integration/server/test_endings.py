"""However a session ends, the server gives everything back and serves the next one."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul.v1 import frames_pb2 as pb
from tests.integration.server.conftest import StartServer
from tests.support.server_process import (
    SAME_CHUNKS,
    Client,
    ServerProcess,
    details,
    latents,
    opening,
    stream,
)

CLIP = latents(40)


def serves(server: ServerProcess) -> bool:
    with server.channel() as channel, Client(channel) as client:
        client.send(latents(2), open=opening(), end_of_latents=True)
        return len(client.read_to_end()) == 8


def cancel_call(channel: grpc.Channel, client: Client) -> None:
    client.call.cancel()


def close_channel(channel: grpc.Channel, client: Client) -> None:
    channel.close()


def ask_to_cancel(channel: grpc.Channel, client: Client) -> None:
    client.send(cancel=True)
    with pytest.raises(grpc.RpcError) as caught:
        client.read_to_end()
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def half_close(channel: grpc.Channel, client: Client) -> None:
    client.half_close()
    with pytest.raises(grpc.RpcError) as caught:
        client.read_to_end()
    assert caught.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("leave", [cancel_call, close_channel, ask_to_cancel, half_close])
@pytest.mark.parametrize("moment", ["opened", "decoding", "window closed"])
def test_a_client_that_leaves_frees_everything(
    server: ServerProcess, leave: Callable[[grpc.Channel, Client], None], moment: str
) -> None:
    with server.channel() as channel, Client(channel) as client:
        client.send(open=opening(mode=pb.MODE_EXPLICIT, window_frames=8))
        client.read()
        if moment != "opened":
            client.send(CLIP)
        if moment == "window closed":
            client.read_frames(8)
        assert server.load().sessions == 1
        leave(channel, client)
        server.expect_idle()
    assert serves(server)


def test_a_deadline_ends_the_session(server: ServerProcess) -> None:
    request = pb.StreamRequest(open=opening(mode=pb.MODE_EXPLICIT)).SerializeToString()

    ended = threading.Event()

    def requests() -> Iterator[bytes]:
        yield request
        ended.wait()

    with server.channel() as channel:
        call = stream(channel, requests(), timeout=0.5)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        ended.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.expect_idle()


STALLED_CLIENT = """
    import sys
    sys.path[:0] = [{root!r}]
    import grpc
    from tests.support.server_process import Client, latents, opening
    with grpc.insecure_channel({target!r}) as channel, Client(channel) as client:
        client.send(latents(40), open=opening())
        client.read_frames(4)
        print("reading", flush=True)
        sys.stdin.read()
"""


def test_a_killed_client_frees_everything(server: ServerProcess) -> None:
    """SIGKILL while frames wait for it: no goodbye, and the server notices at once."""
    code = textwrap.dedent(STALLED_CLIENT.format(root=os.getcwd(), target=server.target))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "reading\n"
        assert server.load().sessions == 1
        client.kill()
    server.expect_idle()
    assert serves(server)


def test_a_client_that_says_nothing_does_not_keep_others_out(start_server: StartServer) -> None:
    """Without a queue one session too many is refused at once, with a time to wait; the place comes back."""
    server = start_server("--max-sessions", "1", "--max-queued", "0")
    with server.channel() as channel, Client(channel) as held:
        held.send(open=opening(mode=pb.MODE_EXPLICIT))
        held.read()
        with Client(channel) as refused:
            refused.send(open=opening())
            with pytest.raises(grpc.RpcError) as caught:
                refused.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "all 1 sessions" in details(caught.value)
        trailers: Any = caught.value.trailing_metadata()
        assert dict(trailers)["grpc-retry-pushback-ms"] == "1000"
    server.expect_idle()
    assert serves(server)


def test_a_killed_worker_is_a_pause_for_its_sessions(start_server: StartServer) -> None:
    """In both modes, for one that reads and one that doesn't; the frames are those of a run without the fault."""
    server = start_server(*SAME_CHUNKS)
    with server.channel() as channel, Client(channel) as client, Client(channel) as stalled:
        with Client(channel) as undisturbed:
            undisturbed.send(CLIP, open=opening(), end_of_latents=True)
            expected = undisturbed.read_to_end()
        client.send(CLIP, open=opening(mode=pb.MODE_EXPLICIT, window_frames=8))
        client.read_frames(8)
        stalled.send(CLIP, open=opening())
        stalled.read_frames(4)
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        worker = server.worker()
        worker.send_signal(signal.SIGKILL)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        client.send(ack=pb.Ack(next_frame=8, window_frames=1000))
        client.send(end_of_latents=True)
        stalled.half_close()
        assert client.read_to_end() == expected
        assert stalled.read_to_end() == expected

        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert serves(server)
        assert server.worker().pid != worker.pid
        watch.cancel()
    server.expect_idle()
