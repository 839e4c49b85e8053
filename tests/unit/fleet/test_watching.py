import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import grpc
import pytest

from framehaul import logs
from framehaul.address import Address
from framehaul.v1 import frames_pb2 as pb
from framehaul_client import Access, InvalidOption
from framehaul_fleet import watching
from framehaul_fleet.cli import _parser, front_config, main, read_servers, servers_access
from framehaul_fleet.locate import locate
from framehaul_fleet.watching import Watching, resolve
from framehaul_server.core.placement import Placement
from tests.support.fronts import running_front
from tests.support.placing import report
from tests.support.waiting import eventually

HERE = Address(host="gpus.farm", port=50051)


@asynccontextmanager
async def watched(found: list[Address]) -> AsyncIterator[Placement]:
    """A table of the servers in `found`, which may be changed meanwhile."""

    async def resolved(_: Address) -> list[Address]:
        return list(found)

    placement = Placement()
    running = asyncio.create_task(Watching([HERE], Access(), placement, resolve=resolved).run())
    try:
        yield placement
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def targets(placement: Placement) -> set[str]:
    """Of all that are named; fronts are watched here, which are servers as good as any."""
    return set(placement.peek(time.monotonic()))


@pytest.mark.asyncio
async def test_servers_come_and_go_with_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """And stay while the name can't be told."""
    monkeypatch.setattr(watching, "RESOLVE_S", 0.02)
    monkeypatch.setattr(watching, "ASK_S", 0.02)
    async with AsyncExitStack() as stack:
        one, other = [(await stack.enter_async_context(running_front("a:1")))[0] for _ in range(2)]
        found = [Address.parse(one), Address.parse(other)]
        placement = await stack.enter_async_context(watched(found))
        await eventually(lambda: targets(placement) == {one, other}, lambda: targets(placement))
        found.pop()
        await eventually(lambda: targets(placement) == {one}, lambda: targets(placement))
        found.clear()
        await asyncio.sleep(0.1)
        assert targets(placement) == {one}


@pytest.mark.asyncio
async def test_a_server_that_goes_is_not_named_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ASK_S", 0.02)
    async with AsyncExitStack() as stack:
        front = AsyncExitStack()
        target, _, _ = await front.enter_async_context(running_front("a:1"))
        placement = await stack.enter_async_context(watched([Address.parse(target)]))
        await eventually(lambda: targets(placement) == {target}, lambda: targets(placement))
        await front.aclose()
        await eventually(lambda: targets(placement) == set(), lambda: targets(placement))


@pytest.mark.asyncio
async def test_a_name_with_several_addresses_is_a_server_at_each() -> None:
    assert await resolve(Address(host="127.0.0.1", port=7)) == [Address(host="127.0.0.1", port=7)]
    assert await resolve(Address(host="gpu7.invalid", port=7)) == []


def test_a_token_for_servers_in_the_clear_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"gpus.farm:50051: the token would cross the network"):
        Watching([HERE], Access(token="s3cret"), Placement())


@pytest.mark.asyncio
async def test_the_address_of_a_list_of_servers() -> None:
    """The command without its process: it names what it watches, until it is stopped."""
    async with running_front("a:1") as (target, _, _):
        given = vars(_parser({}).parse_args(["locate", "--servers", target, "--listen", "127.0.0.1:0"]))
        lines: asyncio.Queue[str] = asyncio.Queue()
        stop = asyncio.Event()
        running = asyncio.create_task(
            locate(front_config(given), given["servers"], Access(), stop=stop, on_ready=lines.put_nowait)
        )
        line = await asyncio.wait_for(lines.get(), 60)
        own = line.removeprefix("fleet: naming servers on ").partition(",")[0]
        async with grpc.aio.insecure_channel(own) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/framehaul.v1.FrameService/Locate"
            )
            found = pb.LocateResponse.FromString(await call(pb.LocateRequest().SerializeToString()))
            assert found.target == target
        stop.set()
        await asyncio.wait_for(running, 60)


@pytest.mark.asyncio
async def test_prometheus_is_told_where_the_metrics_of_all_servers_are(caplog: pytest.LogCaptureFixture) -> None:
    """Those that a server or a front reports; at an address of its own."""
    caplog.set_level("INFO")
    async with running_front("a:1", "b:1") as (target, behind, _):
        for each in ("a:1", "b:1"):
            told = report(int(each == "b:1") + 1)
            told.metrics.append(f"{each}00")
            behind.report(each, told, time.monotonic() + 61)
        options = ["--servers", target, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        given = vars(_parser({}).parse_args(["locate", *options]))
        ready, stop = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(
            locate(front_config(given), given["servers"], Access(), stop=stop, on_ready=lambda _: ready.set())
        )
        await asyncio.wait_for(ready.wait(), 60)
        found = re.search(r"metrics listen=(\S+)", caplog.text)
        assert found is not None
        async with aiohttp.ClientSession() as http, http.get(f"http://{found[1]}/targets") as response:
            assert await response.json() == [{"targets": ["a:100", "b:100"]}]
        stop.set()
        await asyncio.wait_for(running, 60)


@pytest.mark.asyncio
async def test_what_can_find_no_servers_any_more_ends_and_names_no_old_ones() -> None:
    async def fail(_: Address) -> list[Address]:
        raise RuntimeError("no way to know")

    given = vars(_parser({}).parse_args(["locate", "--servers", "a:1", "--listen", "127.0.0.1:0"]))
    waiting = locate(
        front_config(given), given["servers"], Access(), stop=asyncio.Event(), on_ready=lambda _: None, resolve=fail
    )
    with pytest.raises(RuntimeError, match="no way to know"):
        await asyncio.wait_for(waiting, 60)


def test_options_are_those_of_a_server_and_of_a_client() -> None:
    told = "locate --servers a:1,b:2 --listen 127.0.0.2:5 --insecure --ca ca.pem --tls-server-name gpu"
    given = vars(_parser({}).parse_args(told.split()))
    config, access = front_config(given), servers_access(given, {"FRAMEHAUL_TOKEN": "x"})
    assert (str(config.listen), config.insecure) == ("127.0.0.2:5", True)
    assert (str(access.ca), access.server_name, access.token, access.insecure) == ("ca.pem", "gpu", "x", True)
    assert servers_access(vars(_parser({}).parse_args([*told.split(), "--tls"])), {}).tls


@pytest.mark.parametrize("text", ["", "a", "a:0", "a:1,", "a:1,a:1", "a:70000"])
def test_servers_that_cannot_be_are_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT|must name a port|is there twice"):
        read_servers(text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--listen", "0.0.0.0:1"), "which needs TLS"),
        (("--tls-cert", "c.pem"), "tls_key=unset"),
        (("--cert", "c.pem"), "key=None"),
        (("--tokens", "/nowhere"), "No such file"),
    ],
)
def test_wrong_options_end_the_command(
    options: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "configure", lambda _: None)  # it is the whole process's
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["locate", "--servers", "a:1", "--listen", "127.0.0.1:0", *options]))
    assert error in capsys.readouterr().err
