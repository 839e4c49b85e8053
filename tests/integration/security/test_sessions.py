"""Whose a session is, at a real server: an id is of use to its own tenant alone."""

from contextlib import suppress
from typing import Any

import grpc
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.security.conftest import TokenServer, credentials
from tests.support.call import CHANNEL_OPTIONS, async_stream, request
from tests.support.clips import latents, opening
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
RESUMABLE = opening(mode=pb.MODE_EXPLICIT, window_frames=8, resume=pb.Resume())


async def begin(channel: grpc.aio.Channel, tenant: str, open_message: pb.Open, payload: bytes = b"") -> Any:
    """A call and what the server answered first; raises the refusal if it is one."""
    call = async_stream(channel, metadata=credentials(tenant))
    await call.write(request(open=open_message))
    if payload:
        await call.write(request(payload))
    raw = await call.read()
    if raw is grpc.aio.EOF:
        raise grpc.aio.AioRpcError(await call.code(), None, None, details=await call.details())
    return call, wire.split_response(raw).header


def resuming(session_id: bytes) -> pb.Open:
    again = pb.Open()
    again.CopyFrom(RESUMABLE)
    again.resume.session_id = session_id
    return again


async def test_another_tenant_can_neither_resume_nor_locate_a_session(token_server: TokenServer) -> None:
    """NOT_FOUND, in the words for an id that never was, whether the session is served or waits; its own tenant may."""
    token_server.let_in(film="", ads="")
    server = token_server.process
    num_ended = len(server.session_ends())
    async with grpc.aio.insecure_channel(server.target, options=CHANNEL_OPTIONS) as channel:
        call, answer = await begin(channel, "film", RESUMABLE, latents(1))
        session_id = answer.opened.session_id
        assert len(session_id) == 24
        locate: Any = channel.unary_unary(f"/{wire.SERVICE}/Locate")
        asked = pb.LocateRequest(session_id=session_id).SerializeToString()
        await call.read()  # frames: the session knows that its client has heard of it

        async def refused(attempt: Any) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attempt
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            return str(caught.value.details())

        async def expect_hidden() -> None:
            unknown = resuming(bytes(24))
            assert await refused(begin(channel, "ads", resuming(session_id))) == await refused(
                begin(channel, "ads", unknown)
            )
            nowhere = pb.LocateRequest(session_id=bytes(24)).SerializeToString()
            theirs = await refused(locate(asked, metadata=credentials("ads")))
            assert theirs == await refused(locate(nowhere, metadata=credentials("ads")))
            answer = pb.LocateResponse.FromString(await locate(asked, metadata=credentials("film")))
            assert answer.target == server.target

        await expect_hidden()
        call.cancel()
        await eventually(
            lambda: "film" in [ended["tenant"] for ended in server.session_ends()[num_ended:]], lambda: server.log
        )
        await expect_hidden()
        call, answer = await begin(channel, "film", resuming(session_id))
        assert (answer.opened.session_id, answer.opened.next_latent) == (session_id, 1)
        await call.write(request(cancel=True))
        with suppress(grpc.aio.AioRpcError):  # its status comes behind the frames
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() is grpc.StatusCode.CANCELLED
    assert session_id.hex() not in server.log
