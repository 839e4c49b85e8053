"""A real link between two network namespaces, cut and healed: both ends notice by their pings, and go on afterwards.

Needs the right to make namespaces; skips where it is missing. Nothing outside of the two can reach them.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from framehaul_client.transport import connection
from tests.support.server_process import environment
from tests.support.waiting import wait_until

SERVER_SIDE, CLIENT_SIDE = f"fh-server-{os.getpid()}", f"fh-client-{os.getpid()}"
ADDRESS = "10.77.7.1"
KEEPALIVE_S = 1.0
CLIENT = """
    import asyncio, sys, time
    sys.path[:0] = [{root!r}]
    import grpc
    from framehaul.v1 import frames_pb2 as pb
    from framehaul_client.transport import connection
    from tests.support.call import AsyncCall
    from tests.support.clips import EXPLICIT, latents

    connection._KEEPALIVE_MS, connection._PING_TIMEOUT_MS = {keepalive_ms}, {keepalive_ms} // 2

    async def begin(channel):
        while True:  # what is left of a dead connection may take a call for a while yet, and lose it
            await channel.channel_ready()
            stream = AsyncCall(channel)
            try:
                await stream.send(latents(40), open=EXPLICIT)
                await stream.read_frames(8)
                return stream
            except grpc.aio.AioRpcError as error:
                # The second is grpc.aio's own, where a write crosses the call's end.
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
                    raise

    async def main():
        async with grpc.aio.insecure_channel({target!r}, options=connection.channel_options()) as channel:
            for _ in range(2):
                stream = await begin(channel)
                print("reading", flush=True)
                if sys.stdin.readline() == "finish\\n":
                    print(await stream.finish(), flush=True)
                    return
                print((await stream.status())[0].name, flush=True)

    asyncio.run(main())
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_namespaces() -> Iterator[None]:
    try:
        for name in (SERVER_SIDE, CLIENT_SIDE):
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "veth-s",
            "netns",
            SERVER_SIDE,
            "type",
            "veth",
            "peer",
            "name",
            "veth-c",
            "netns",
            CLIENT_SIDE,
        )
        for name, device, address in ((SERVER_SIDE, "veth-s", ADDRESS), (CLIENT_SIDE, "veth-c", "10.77.7.2")):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove_namespaces()
        pytest.skip(f"network namespaces are not allowed here: {error}")
    try:
        yield
    finally:
        remove_namespaces()


def remove_namespaces() -> None:
    for name in (SERVER_SIDE, CLIENT_SIDE):
        with suppress(OSError, subprocess.CalledProcessError):
            ip("netns", "del", name)


@contextmanager
def inside(namespace: str, *arguments: str, log: Path) -> "Iterator[subprocess.Popen[str]]":
    """A Python process in a namespace."""
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment(),
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def line(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, log.read_text()
    return text.rstrip()


def tell(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def test_a_link_that_is_cut_and_healed(tmp_path: Path, recovered: Callable[[str, float], None]) -> None:
    """Both ends hear of it long before TCP would tell, the server gives all back, and the same channel works again."""
    server_log, client_log = tmp_path / "server", tmp_path / "client"
    options = ("--listen", f"{ADDRESS}:0", "--insecure", "--device", "cpu", "--max-size", "512x512", "--no-standby")
    keepalive = ("--keepalive", f"{KEEPALIVE_S:g}")
    with (
        two_namespaces(),
        inside(SERVER_SIDE, "-m", "framehaul_server", *options, *keepalive, log=server_log) as server,
    ):
        target = line(server, server_log).partition(" on ")[2].split(",")[0]
        code = CLIENT.format(root=str(Path.cwd()), target=target, keepalive_ms=round(KEEPALIVE_S * 1000))
        with inside(CLIENT_SIDE, "-c", textwrap.dedent(code), log=client_log) as client:
            assert line(client, client_log) == "reading"
            ip("-n", SERVER_SIDE, "link", "set", "veth-s", "down")
            cut_s = time.monotonic()
            tell(client, "read on\n")
            assert line(client, client_log) == "UNAVAILABLE"
            recovered("link cut -> the client knows", time.monotonic() - cut_s)
            wait_until(lambda: " session_end " in server_log.read_text(), "the server's end of it")
            ip("-n", SERVER_SIDE, "link", "set", "veth-s", "up")
            healed_s = time.monotonic()
            assert line(client, client_log) == "reading"
            recovered("link healed -> next frames", time.monotonic() - healed_s)
            tell(client, "finish\n")
            assert line(client, client_log) == "160"


def test_the_clients_pings_are_on() -> None:
    """With the times that docs/design.md promises, and no more often than the server allows."""
    options = dict(connection.channel_options())
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] == 15_000
    assert options["grpc.keepalive_time_ms"] >= 5_000
