"""Tokens and tenants at a real server."""

import asyncio
import hashlib
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client import Access, FrameClient, InvalidRequest, NotAuthenticated, Refused
from tests.integration.security.conftest import StartServer
from tests.support.server_process import ServerProcess, eventually, opening

FIXED_TEXT = "this server wants a known token: metadata `authorization: Bearer TOKEN`"
NOISE = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float16)


def write_tokens(path: Path, **tenants: str) -> None:
    """A file with one token for each tenant, called `TENANT-token`, and these further lines."""
    tables = [
        f'[tenants.{name}]\ntoken_sha256 = ["{hashlib.sha256(f"{name}-token".encode()).hexdigest()}"]\n{more}\n'
        for name, more in tenants.items()
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(tables))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def access(tenant: str) -> Access:
    return Access(token=f"{tenant}-token")


async def num_frames(server: ServerProcess, given: Access, *, clip: Any = NOISE, **options: Any) -> int:
    async with FrameClient(server.target, access=given) as client, client.session(clip, **options) as session:
        return len([frame async for frame in session])


def methods(channel: Any) -> dict[str, Callable[..., Any]]:
    """Every method of the service, and one that doesn't exist, as a call with nothing in it."""
    descriptor = pb.DESCRIPTOR.services_by_name["FrameService"]
    calls: dict[str, Callable[..., Any]] = {}
    for method in descriptor.methods:
        path = f"/{wire.SERVICE}/{method.name}"
        if method.client_streaming:
            calls[method.name] = lambda path=path, **given: next(channel.stream_stream(path)(iter([b""]), **given))
        elif method.server_streaming:
            calls[method.name] = lambda path=path, **given: next(channel.unary_stream(path)(b"", **given))
        else:
            calls[method.name] = lambda path=path, **given: channel.unary_unary(path)(b"", **given)
    calls["Unknown"] = lambda **given: channel.unary_unary("/no.Such/Method")(b"", **given)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    calls["reflection"] = lambda **given: next(stub.ServerReflectionInfo(iter([listing]), **given))
    return calls


def test_without_a_token_every_door_but_health_is_shut(start_server: StartServer, tokens: Path) -> None:
    """The same status and text for a missing token and a wrong one, whatever is called."""
    write_tokens(tokens, film="")
    server = start_server("--tokens", str(tokens), "--reflection")
    with server.channel() as channel:
        calls = methods(channel)
        assert {"Stream", "Render", "Locate", "GetServerInfo"} < {*calls}
        for name, call in calls.items():
            for metadata in ((), (("authorization", "Bearer ads-token"),)):
                with pytest.raises(grpc.RpcError) as caught:
                    call(metadata=metadata, timeout=10)
                error: Any = caught.value
                assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, FIXED_TEXT), name
        metadata = (("authorization", "Bearer film-token"),)
        assert calls["GetServerInfo"](metadata=metadata, timeout=10)
        assert calls["reflection"](metadata=metadata, timeout=10)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert "denied peer=ipv4:127.0.0.1" in server.log
    for secret in ("ads-token", "film-token"):
        assert secret not in server.log


@pytest.mark.asyncio
async def test_the_client_sends_its_token_and_says_what_is_missing(start_server: StartServer, tokens: Path) -> None:
    write_tokens(tokens, film="")
    server = start_server("--tokens", str(tokens))
    assert await num_frames(server, access("film")) == 8
    assert "tenant=film" in server.log
    with pytest.raises(NotAuthenticated, match=r"wants a known token.*\(--token-file, or FRAMEHAUL_TOKEN\)"):
        await num_frames(server, Access())


@pytest.mark.asyncio
async def test_tokens_come_and_go_without_a_restart(start_server: StartServer, tokens: Path) -> None:
    write_tokens(tokens, film="")
    server = start_server("--tokens", str(tokens))
    with pytest.raises(NotAuthenticated):
        await num_frames(server, access("ads"))
    write_tokens(tokens, ads="")
    assert await num_frames(server, access("ads")) == 8
    with pytest.raises(NotAuthenticated):
        await num_frames(server, access("film"))
    write_tokens(tokens, ads="weight = 0")
    assert await num_frames(server, access("ads")) == 8
    assert "reload_failed what=tokens" in server.log


@pytest.mark.asyncio
async def test_a_tenants_limits_hold_for_it_alone(start_server: StartServer, tokens: Path) -> None:
    """Sessions, waiting bytes and priority, each refused by its name."""
    write_tokens(
        tokens,
        film="max_sessions = 1\nmax_queued = 0\nmax_priority = 5",
        ads="max_sessions = 1",
        free="",
        small="max_waiting_mib = 1",
    )
    server = start_server("--tokens", str(tokens), "--session-window-mib", "2")
    async with FrameClient(server.target, access=access("film")) as client, client.session(NOISE, priority=5):
        with pytest.raises(Refused, match="all 1 sessions of tenant film are in use") as refused:
            await num_frames(server, access("film"))
        assert refused.value.retry_after_s == 1.0
        assert await num_frames(server, access("ads"), priority=100) == 8
        await one_waits_for_its_own_tenant_alone(server)
    with pytest.raises(InvalidRequest, match=r"waiting bytes: must be at most 1048576 for tenant small"):
        await num_frames(server, access("small"), clip=np.tile(NOISE, (12, 1, 1, 1)))
    assert await num_frames(server, access("small")) == 8  # a clip this short can't hold more
    with pytest.raises(InvalidRequest, match=r"open.priority=6: must be -100..5 for tenant film"):
        await eventually_free(server, priority=6)
    assert await num_frames(server, access("film"), priority=5) == 8


async def one_waits_for_its_own_tenant_alone(server: ServerProcess) -> None:
    """A second session of `ads` is queued, whatever its priority, while others find their places."""
    positions: asyncio.Queue[int] = asyncio.Queue()
    async with FrameClient(server.target, access=access("ads")) as client:
        async with client.session(NOISE):
            waiting = asyncio.create_task(
                num_frames(server, access("ads"), priority=100, on_queued=positions.put_nowait)
            )
            assert await asyncio.wait_for(positions.get(), 20) == 1
            assert await num_frames(server, access("free")) == 8
            assert (await client.info()).num_queued == 1
        assert await asyncio.wait_for(waiting, 20) == 8


async def eventually_free(server: ServerProcess, **options: Any) -> int:
    """As `num_frames`, once the tenant's earlier session has gone."""
    while True:
        try:
            return await num_frames(server, access("film"), **options)
        except Refused:
            await asyncio.sleep(0.05)


def test_a_server_for_everybody_must_be_asked_for(tmp_path: Path) -> None:
    """A broken or readable file stops the start with the option's exit code and a text, and no traceback."""
    open_file = tmp_path / "open.toml"
    open_file.write_text("")
    open_file.chmod(0o644)
    for options, text in (
        (["--listen", "0.0.0.0:0"], "needs TLS (--tls-cert and --tls-key) and tokens (--tokens) or clients'"),
        (["--tokens", str(open_file)], "mode 0644: must be 0600"),
        (["--tokens", str(tmp_path / "none")], "No such file"),
        (["--tls-cert", "x"], "tls_key=unset"),
    ):
        command = [sys.executable, "-m", "framehaul_server.cli", *options]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        assert text in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_status_of_overload_has_retry_info(start_server: StartServer, tokens: Path) -> None:
    """For gRPC libraries that look there."""
    write_tokens(tokens, film="max_sessions = 1")
    server = start_server("--tokens", str(tokens), "--max-queued", "0")
    metadata = (("authorization", "Bearer film-token"),)
    with server.channel() as channel:
        method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        held = method(iter(asked.get, None), metadata=metadata)
        asked.put(pb.StreamRequest(open=opening(mode=pb.MODE_EXPLICIT)).SerializeToString())
        eventually(lambda: "sessions: 1" in load(channel, metadata), "a session")
        with pytest.raises(grpc.RpcError) as caught:
            next(method(iter([]), metadata=metadata))
        held.cancel()
        asked.put(None)
        error: Any = caught.value
        trailers = dict(error.trailing_metadata())
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        assert b"type.googleapis.com/google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]


def load(channel: Any, metadata: tuple[tuple[str, str], ...]) -> str:
    method = channel.unary_unary(f"/{wire.SERVICE}/GetServerInfo")
    return str(pb.ServerInfo.FromString(method(b"", metadata=metadata)).load)
