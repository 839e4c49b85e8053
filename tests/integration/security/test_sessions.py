"""Whose a session is, at a real server: an id is of use to its own tenant alone."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.security.conftest import StartServer
from tests.integration.security.test_tokens import write_tokens
from tests.support.running_app import eventually
from tests.support.server_process import ServerProcess, latents, opening

pytestmark = pytest.mark.asyncio
RESUMABLE = opening(mode=pb.MODE_EXPLICIT, window_frames=8, resume=pb.Resume())


def metadata(tenant: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {tenant}-token"),)


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


async def begin(channel: grpc.aio.Channel, tenant: str, open_message: pb.Open, payload: bytes = b"") -> Any:
    """A call and what the server answered first; raises the refusal if it is one."""
    method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
    call = method(metadata=metadata(tenant))
    await call.write(pb.StreamRequest(open=open_message).SerializeToString())
    if payload:
        await call.write(wire.join(pb.StreamRequest(), (payload,)))
    raw = await call.read()
    if raw is grpc.aio.EOF:
        raise grpc.aio.AioRpcError(await call.code(), None, None, details=await call.details())
    return call, wire.split_response(raw).header


def resuming(session_id: bytes) -> pb.Open:
    again = pb.Open()
    again.CopyFrom(RESUMABLE)
    again.resume.session_id = session_id
    return again


async def test_another_tenant_can_neither_resume_nor_locate_a_session(
    start_server: StartServer, tmp_path: Path
) -> None:
    """NOT_FOUND, in the words for an id that never was, whether the session is served or waits; its own tenant may."""
    tokens = tmp_path / "tokens.toml"
    write_tokens(tokens, film="", ads="")
    server = start_server("--tokens", str(tokens))
    async with connected(server) as channel:
        call, answer = await begin(channel, "film", RESUMABLE, latents(1))
        session_id = answer.opened.session_id
        assert len(session_id) == 16
        locate: Any = channel.unary_unary(f"/{wire.SERVICE}/Locate")
        asked = pb.LocateRequest(session_id=session_id).SerializeToString()
        await call.read()  # frames: the session knows that its client has heard of it

        async def refused(attempt: Any) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attempt
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            return str(caught.value.details())

        async def expect_hidden() -> None:
            unknown = resuming(bytes(16))
            assert await refused(begin(channel, "ads", resuming(session_id))) == await refused(
                begin(channel, "ads", unknown)
            )
            nowhere = pb.LocateRequest(session_id=bytes(16)).SerializeToString()
            theirs = await refused(locate(asked, metadata=metadata("ads")))
            assert theirs == await refused(locate(nowhere, metadata=metadata("ads")))
            answer = pb.LocateResponse.FromString(await locate(asked, metadata=metadata("film")))
            assert answer.target == server.target

        await expect_hidden()
        call.cancel()
        ended = re.compile("session_end .*tenant=film")
        await eventually(lambda: ended.search(server.log) is not None, lambda: server.log)
        await expect_hidden()
        call, answer = await begin(channel, "film", resuming(session_id))
        assert (answer.opened.session_id, answer.opened.next_latent) == (session_id, 1)
        await call.write(pb.StreamRequest(cancel=True).SerializeToString())
        with suppress(grpc.aio.AioRpcError):  # its status comes behind the frames
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() is grpc.StatusCode.CANCELLED
    assert session_id.hex() not in server.log
