"""Real TLS: who is let in, what the others hear, and certificates that change while the server runs."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from framehaul_client import Access, FrameClient, ServerUnavailable
from tests.integration.conftest import StartServer
from tests.support.certificates import Authority, Pair
from tests.support.clips import decode, make_clip
from tests.support.http2 import Http2
from tests.support.server_process import ServerProcess, running_server

NUM_SILENT = 200
NUM_IDLE = 100


class TlsServer:
    """A server, and the files of its certificate and key, which it reads whenever they have changed."""

    def __init__(self, process: ServerProcess, pair: Pair) -> None:
        self.process = process
        self.target = process.target
        self.pair = pair

    def show(self, pair: Pair) -> None:
        """From now on."""
        self.pair.certificate.write_bytes(pair.certificate.read_bytes())
        self.pair.key.write_bytes(pair.key.read_bytes())


def tls_options(pair: Pair, *more: str) -> tuple[str, ...]:
    return ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), *more)


@pytest.fixture(scope="module")
def tls_server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    pair = authority.sign("server", file="live")
    with running_server(tmp_path_factory.mktemp("server") / "log", *tls_options(pair)) as running:
        yield TlsServer(running, pair)


async def num_frames(target: str, access: Access) -> int:
    """Decode two latents of noise."""
    return len(await decode(target, make_clip(2), access=access))


async def refusal(target: str, access: Access) -> str:
    with pytest.raises(ServerUnavailable) as caught:
        async with FrameClient(target, access=access, connect_timeout_s=2.0):
            pass
    return str(caught.value)


def address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def serial(server: ServerProcess) -> str:
    """The serial number of the certificate that the server shows now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(address(server.target)) as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


@pytest.mark.asyncio
async def test_only_the_right_way_in_works_and_the_others_hear_what_to_do(
    authority: Authority, tls_server: TlsServer, tmp_path: Path
) -> None:
    server = tls_server.process
    tls_server.show(authority.sign("server"))
    stranger = Authority(tmp_path / "stranger")
    assert server.ready_line.endswith(", TLS")
    assert await num_frames(server.target, Access(ca=authority.certificate)) == 8
    told = [
        (Access(), "perhaps it wants TLS: --tls"),
        (Access(tls=True), "isn't trusted: name its authority with --ca"),
        (Access(ca=stranger.certificate), "isn't trusted"),
        (Access(ca=authority.certificate, server_name="farm"), "for another name: say which with --tls-server-name"),
    ]
    for access, text in told:
        assert text in await refusal(server.target, access)


@pytest.mark.asyncio
async def test_the_name_in_the_certificate_may_be_told(authority: Authority, tls_server: TlsServer) -> None:
    tls_server.show(authority.sign("farm", alternative="DNS:farm"))
    assert await num_frames(tls_server.target, Access(ca=authority.certificate, server_name="farm")) == 8


@pytest.mark.asyncio
async def test_tls_to_a_server_without_it_is_told(authority: Authority, server: ServerProcess) -> None:
    assert "doesn't speak TLS" in await refusal(server.target, Access(ca=authority.certificate))


@pytest.mark.asyncio
async def test_mutual_tls_lets_in_only_certificates_of_its_authorities(
    authority: Authority, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(*tls_options(authority.sign("server"), "--tls-client-ca", str(authority.certificate)))
    client, forged = authority.sign("client"), Authority(tmp_path / "stranger").sign("client")
    known = Access(ca=authority.certificate, certificate=client.certificate, key=client.key)
    unknown = Access(ca=authority.certificate, certificate=forged.certificate, key=forged.key)
    assert await num_frames(server.target, known) == 8
    assert "perhaps it wants a client's certificate" in await refusal(server.target, Access(ca=authority.certificate))
    assert server.target in await refusal(server.target, unknown)
    assert await num_frames(server.target, known) == 8


@pytest.mark.asyncio
async def test_new_certificates_are_shown_without_a_restart_and_broken_ones_never(
    authority: Authority, tls_server: TlsServer
) -> None:
    """A session that runs meanwhile doesn't notice; a certificate without its key leaves the old pair in use."""
    server, pair, renewed = tls_server.process, tls_server.pair, authority.sign("server", file="renewed")
    tls_server.show(authority.sign("server"))
    access = Access(ca=authority.certificate)
    first = serial(server)
    num_failed, num_reloaded = server.log.count("reload_failed"), server.log.count("reloaded what=certificates")
    feeding = asyncio.Event()

    async def latents() -> AsyncIterator[np.ndarray[tuple[int, ...], np.dtype[np.float16]]]:
        yield np.zeros((1, 16, 8, 8), np.float16)
        await feeding.wait()
        yield np.zeros((1, 16, 8, 8), np.float16)

    async with FrameClient(server.target, access=access) as client, client.session(latents()) as session:
        await anext(session)
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        assert serial(server) == first  # the key doesn't fit yet
        assert server.log.count("reload_failed what=certificates") == num_failed + 1
        pair.key.write_bytes(renewed.key.read_bytes())
        second = serial(server)
        assert second != first
        pair.certificate.write_text("nonsense")
        assert serial(server) == second
        feeding.set()
        assert len([frame async for frame in session]) == 7
    assert await num_frames(server.target, access) == 8
    assert server.log.count("reloaded what=certificates") == num_reloaded + 1, "a line for operators"
    assert server.log.count("reload_failed") == num_failed + 2


def test_connections_without_a_call_are_dropped_on_time(
    server: ServerProcess, authority: Authority, tls_server: TlsServer
) -> None:
    """After 10 s, descriptors too: those that never speak, with and without TLS, and those that do all but call."""
    tls_server.show(authority.sign("server"))
    servers = (server, tls_server.process)
    before = [psutil.Process(each.process.pid).num_fds() for each in servers]
    context = ssl.create_default_context(cafile=str(authority.certificate))
    started_s = time.monotonic()
    silent = [socket.create_connection(address(each.target), timeout=30) for each in servers for _ in range(NUM_SILENT)]
    idle = [Http2(tls_server.target, context) for _ in range(NUM_IDLE)]
    server.expect_serves()
    for connection in silent:
        while connection.recv(4096):  # its settings, then the end
            pass
        connection.close()
    for polite in idle:
        with polite:
            while polite.receive() is not None:  # its pings are answered
                pass
    assert time.monotonic() - started_s > 9
    for each, num_fds in zip(servers, before, strict=True):
        assert psutil.Process(each.process.pid).num_fds() < num_fds + 20
    server.expect_serves()


def test_failed_handshakes_leave_no_lines_of_grpc_in_the_log(tls_server: TlsServer) -> None:
    """A stranger's 20 handshakes without TLS, and whatever else strangers did here before."""
    for _ in range(20):
        with socket.create_connection(address(tls_server.target), timeout=60) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(4096):
                pass
    for line in tls_server.process.log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\S+Z (DEBUG|INFO|WARNING|ERROR) ", line), line
