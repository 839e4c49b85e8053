import logging
from typing import Any

import grpc
import pytest

from framehaul_server.access.callers import by_token
from framehaul_server.core.tenants import Tenant
from framehaul_server.rpc.authentication import Authentication
from tests.support.fakes import Aborted, FakeContext

TOKEN_SHA256 = bytes.fromhex("3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0")  # of "token"


class Details:
    """A call's method and metadata."""

    def __init__(self, method: str, token: str | None) -> None:
        self.method = method
        self.invocation_metadata = () if token is None else (("authorization", f"Bearer {token}"),)


async def handler_of(gate: Authentication, method: str, token: str | None = None) -> Any:
    async def continuation(_: Any) -> str:
        return "the handler"

    return await gate.intercept_service(continuation, Details(method, token))  # type: ignore[arg-type]


def new_gate() -> Authentication:
    return Authentication(by_token(lambda: {TOKEN_SHA256: Tenant(name="film")}))


@pytest.mark.asyncio
async def test_who_has_a_token_and_who_asks_for_health_passes() -> None:
    gate = new_gate()
    assert await handler_of(gate, "/framehaul.v1.FrameService/Stream", "token") == "the handler"
    assert await handler_of(gate, "/grpc.health.v1.Health/Check") == "the handler"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "method", ["/framehaul.v1.FrameService/Stream", "/grpc.health.v1.Healthy/Check", "/grpc.health.v1.Health", "", "/"]
)
async def test_everybody_else_is_denied_and_asked_for_nothing(method: str) -> None:
    """The request isn't read: the fake's queue of requests is empty, and reading it would wait for ever."""
    denial = await handler_of(new_gate(), method, "other")
    context = FakeContext()
    with pytest.raises(Aborted):
        await denial.stream_stream(None, context)
    assert context.aborted is not None
    assert context.aborted[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.asyncio
async def test_denials_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line a second at most; it counts."""
    gate = new_gate()
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            with pytest.raises(Aborted):
                await (await handler_of(gate, "/x")).stream_stream(None, FakeContext())
    assert 1 <= len(caplog.messages) <= 3
    assert caplog.messages[0] == "denied peer=ipv4:127.0.0.1:1 calls=1"
