import asyncio
import socket

import pytest

from framehaul_client import Access, FrameClient, ServerUnavailable
from framehaul_client.transport.connection import channel_options, proxy_words
from tests.support.waiting import nap_clock

pytestmark = pytest.mark.asyncio


async def test_the_measured_options_are_set() -> None:
    """The window is fixed, so that a stalled consumer can't grow this process; a dead server is noticed."""
    options = dict(channel_options(1 << 20))
    assert options["grpc.http2.bdp_probe"] == 0
    assert options["grpc.http2.lookahead_bytes"] == 1 << 20
    assert options["grpc.http2.max_frame_size"] == 4 << 20
    assert options["grpc.max_receive_message_length"] == -1
    # A server that takes 5 s between pings as the least must not call these too many.
    assert options["grpc.keepalive_time_ms"] >= 10_000
    assert options["grpc.http2.ping_timeout_ms"] <= 10_000


async def test_a_missing_server_is_told_soon_and_why() -> None:
    """Nothing listens: the text has the target and the reason, after the timeout and not much more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with nap_clock() as clock:
        with pytest.raises(ServerUnavailable, match=rf"{target}: no server answered within 2 s.*Connection refused"):
            await FrameClient(target, connect_timeout_s=2.0).__aenter__()
        assert clock() < 4


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"http_proxy": "http://p:1"}, "; through the proxy of $http_proxy, unless no_proxy=gpu7 is set"),
        ({"http_proxy": "http://p:1", "https_proxy": "http://q:1"}, "; through the proxy of $https_proxy, unless"),
        ({"http_proxy": "http://p:1", "no_proxy": "gpu7"}, ""),
        ({}, ""),
    ],
)
async def test_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str) -> None:
    """The address that refused is its, which else nobody would guess."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_words("gpu7:50051").startswith(words)
    assert proxy_words("127.0.0.1:50051") == ""


async def test_a_name_that_does_not_exist_is_told() -> None:
    """DNS has the last word."""
    with pytest.raises(ServerUnavailable, match=r"no server answered within 2 s"):
        await FrameClient("no-such-host.invalid:1", connect_timeout_s=2.0).__aenter__()


async def test_an_address_that_speaks_something_else_is_told() -> None:
    """A port that takes connections and stays silent isn't a frame server."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes connections for it
        port = silent.getsockname()[1]
        with pytest.raises(ServerUnavailable, match="nothing there speaks gRPC"):
            await FrameClient(f"127.0.0.1:{port}", connect_timeout_s=2.0).__aenter__()


async def test_a_server_that_starts_late_is_waited_for() -> None:
    """`server & client stream` works without a sleep between them."""
    from tests.support.fake_server import Behaviour, fake_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = FrameClient(f"127.0.0.1:{port}", connect_timeout_s=10)
    connecting = asyncio.create_task(client.__aenter__())
    done, _ = await asyncio.wait({connecting}, timeout=0.2)
    assert not done
    async with fake_server(Behaviour(), port=port):
        await connecting
        assert (await client.info()).version == "1.2"
        await client.aclose()
        await client.aclose()


async def test_giving_up_connecting_leaves_nothing_open() -> None:
    """Cancelling the wait closes the channel."""
    client = FrameClient("127.0.0.1:1", connect_timeout_s=10)
    connecting = asyncio.create_task(client.__aenter__())
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    with pytest.raises(RuntimeError, match="not connected"):
        await client.info()


async def test_what_is_for_this_machine_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token may go to loopback in the clear only because it stays here."""
    from tests.support.fake_server import Behaviour, fake_server

    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with fake_server(Behaviour()) as target, FrameClient(target, access=Access(token="secret")) as client:
        assert (await client.info()).version == "1.2"
