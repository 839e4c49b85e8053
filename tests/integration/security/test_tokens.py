"""Tokens and tenants at a real server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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
from tests.integration.security.conftest import TokenServer, credentials
from tests.support.clips import Clip, decode, make_clip
from tests.support.server_process import ended_server
from tests.support.waiting import eventually

FIXED_TEXT = "this server wants a known token: metadata `authorization: Bearer TOKEN`"
NOISE = make_clip(2)


def access(tenant: str) -> Access:
    return Access(token=f"{tenant}-token")


async def for_ever() -> AsyncIterator[Clip]:
    """Latents that have no end, so that their session keeps its place."""
    yield NOISE[0]
    await asyncio.Event().wait()


async def num_frames(server: TokenServer, given: Access, *, clip: Clip = NOISE, **options: Any) -> int:
    return len(await decode(server.target, clip, access=given, **options))


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


@pytest.mark.asyncio
async def test_only_who_may_watch_traces(token_server: TokenServer) -> None:
    """The refusal names the setting."""
    token_server.let_in(film="", owner="watch = true")
    async with FrameClient(token_server.target, access=access("film")) as client:
        with pytest.raises(InvalidRequest, match="tenant film may not trace: watch = true in the tokens' file lets it"):
            await anext(client.trace(1.0))
    owner = FrameClient(token_server.target, access=access("owner"))
    async with owner as client, contextlib.aclosing(client.trace(1.0)) as responses:
        assert (await anext(responses)).started.version


def test_without_a_token_every_door_but_health_is_shut(token_server: TokenServer) -> None:
    """The same status and text for a missing token and a wrong one, whatever is called."""
    token_server.let_in(film="")
    with token_server.process.channel() as channel:
        calls = methods(channel)
        assert {"Stream", "Render", "Locate", "GetServerInfo"} < {*calls}
        for name, call in calls.items():
            for metadata in ((), credentials("ads")):
                with pytest.raises(grpc.RpcError) as caught:
                    call(metadata=metadata, timeout=60)
                error: Any = caught.value
                assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, FIXED_TEXT), name
        assert calls["GetServerInfo"](metadata=credentials("film"), timeout=60)
        assert calls["reflection"](metadata=credentials("film"), timeout=60)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert "denied peer=ipv4:127.0.0.1" in token_server.process.log
    for secret in ("ads-token", "film-token"):
        assert secret not in token_server.process.log


@pytest.mark.asyncio
async def test_the_client_sends_its_token_and_says_what_is_missing(token_server: TokenServer) -> None:
    token_server.let_in(film="")
    assert await num_frames(token_server, access("film")) == 8
    await eventually(
        lambda: token_server.process.session_ends()[-1]["tenant"] == "film", lambda: token_server.process.log
    )
    with pytest.raises(NotAuthenticated, match=r"wants a known token.*\(--token-file, or FRAMEHAUL_TOKEN\)"):
        await num_frames(token_server, Access())


@pytest.mark.asyncio
async def test_tokens_come_and_go_without_a_restart(token_server: TokenServer) -> None:
    token_server.let_in(film="")
    with pytest.raises(NotAuthenticated):
        await num_frames(token_server, access("ads"))
    token_server.let_in(ads="")
    assert await num_frames(token_server, access("ads")) == 8
    with pytest.raises(NotAuthenticated):
        await num_frames(token_server, access("film"))
    token_server.let_in(ads="weight = 0")
    assert await num_frames(token_server, access("ads")) == 8
    assert "reload_failed what=tokens" in token_server.process.log


@pytest.mark.asyncio
async def test_a_tenants_limits_hold_for_it_alone(token_server: TokenServer) -> None:
    """Sessions, waiting bytes and priority, each refused by its name."""
    token_server.let_in(
        film="max_sessions = 1\nmax_queued = 0\nmax_priority = 5",
        ads="max_sessions = 1",
        free="",
        small="max_waiting_mib = 1",
    )
    async with (
        FrameClient(token_server.target, access=access("film")) as client,
        client.session(for_ever(), priority=5),
    ):
        with pytest.raises(Refused, match="all 1 sessions of tenant film are in use") as refused:
            await num_frames(token_server, access("film"))
        assert refused.value.retry_after_s == 1.0
        assert await num_frames(token_server, access("ads"), priority=100) == 8
        await one_waits_for_its_own_tenant_alone(token_server)
    with pytest.raises(InvalidRequest, match=r"waiting bytes: must be at most 1048576 for tenant small"):
        await num_frames(token_server, access("small"), clip=np.tile(NOISE, (12, 1, 1, 1)))
    assert await num_frames(token_server, access("small")) == 8  # a clip this short can't hold more
    with pytest.raises(InvalidRequest, match=r"open.priority=6: must be -100..5 for tenant film"):
        await eventually_free(token_server, priority=6)
    assert await num_frames(token_server, access("film"), priority=5) == 8


async def one_waits_for_its_own_tenant_alone(server: TokenServer) -> None:
    """A second session of `ads` is queued, whatever its priority, while others find their places."""
    positions: asyncio.Queue[int] = asyncio.Queue()
    async with FrameClient(server.target, access=access("ads")) as client:
        async with client.session(for_ever()):
            while (await client.info()).num_sessions < 2:  # one of higher priority would overtake it in the queue
                pass
            waiting = asyncio.create_task(
                num_frames(server, access("ads"), priority=100, on_queued=positions.put_nowait)
            )
            assert await asyncio.wait_for(positions.get(), 60) == 1
            assert await num_frames(server, access("free")) == 8
            assert (await client.info()).num_queued == 1
        assert await asyncio.wait_for(waiting, 60) == 8


async def eventually_free(server: TokenServer, **options: Any) -> int:
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
        ended = ended_server(*options)
        assert ended.returncode == 2
        assert text in ended.stderr
        assert "Traceback" not in ended.stderr
