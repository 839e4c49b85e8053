import asyncio
import base64
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from framehaul.address import Address
from framehaul_server.access.callers import Identify, as_everyone, by_token
from framehaul_server.access.tls import Certificates, TlsFiles
from framehaul_server.core.tenants import Tenant
from framehaul_server.errors import CannotListen
from framehaul_server.observe.http import HttpServer
from tests.support.certificates import Authority, Pair
from tests.support.scrape import Answer, get
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio

NUM_PLACES = 32
LOCAL = Address(host="127.0.0.1", port=0)


class Held:
    """A page that answers when it may."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.may_answer = asyncio.Event()

    async def answer(self, _request: web.Request) -> web.StreamResponse:
        self.num_asked += 1
        await self.may_answer.wait()
        return web.Response(text="held")


async def hello(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


@asynccontextmanager
async def serving(
    identify: Identify = as_everyone, held: Held | None = None, certificates: Certificates | None = None
) -> AsyncIterator[str]:
    """Gives the address; stopped twice, since that is fine."""
    server = HttpServer(identify, [("/", hello), *([("/held", held.answer)] if held else [])])
    try:
        yield str(await server.start(LOCAL, certificates))
    finally:
        await server.aclose()
        await server.aclose()


async def ask(
    target: str, path: str = "/", *, authorization: str | None = None, tls: ssl.SSLContext | None = None
) -> Answer:
    headers = {} if authorization is None else {"Authorization": authorization}
    return await asyncio.to_thread(get, target, path, headers=headers, tls=tls)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer nobody's", 401),
        ("Basic !", 401),
        ("Basic " + base64.b64encode(b"\xff").decode(), 401),
        (basic("keeper-token"), 401),
        ("Bearer artist-token", 403),
        (basic("anybody:artist-token"), 403),
        ("Bearer keeper-token", 200),
        (basic("anybody:keeper-token"), 200),
        (basic(":keeper-token"), 200),
    ],
)
async def test_with_tokens_only_those_look_whose_tenant_may_watch(authorization: str | None, status: int) -> None:
    """As bearers, or with the token as a browser's password; whoever may not look hears what is lacking."""
    tenants = {
        hashlib.sha256(f"{tenant.name}-token".encode()).digest(): tenant
        for tenant in (Tenant(name="keeper", watch=True), Tenant(name="artist"))
    }
    async with serving(by_token(lambda: tenants)) as target:
        answer = await ask(target, authorization=authorization)
        assert answer.status == status
        assert {401: "a token is needed", 403: "watch = true", 200: "hello"}[status] in answer.text
        assert (answer.headers.get("WWW-Authenticate") == 'Basic realm="framehaul"') == (status == 401)
        unknown = await ask(target, "/nothing", authorization=authorization)
        assert unknown.status == (404 if status == 200 else status), "strangers don't learn what there is"


async def test_nothing_is_kept_framed_or_fetched_from_elsewhere() -> None:
    async with serving() as target:
        for answer in (await ask(target), await ask(target, "/nothing")):
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Server"] == "framehaul"


async def test_a_limited_number_looks_at_once_and_the_next_one_hears_so() -> None:
    held = Held()
    async with serving(held=held) as target, asyncio.TaskGroup() as tasks:
        looking = [tasks.create_task(hold(target)) for _ in range(NUM_PLACES)]
        await eventually(lambda: held.num_asked == NUM_PLACES, lambda: held.num_asked)
        answer = await ask(target)
        assert (answer.status, answer.text) == (503, f"{NUM_PLACES} look at this server already\n")
        held.may_answer.set()
        assert all("200 OK" in answer for answer in await asyncio.gather(*looking))
        assert (await ask(target)).status == 200


async def hold(target: str) -> str:
    """Ask for the held page; gives the whole answer."""
    host, _, port = target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /held HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def test_an_answer_under_way_does_not_hold_up_the_stop() -> None:
    held = Held()
    async with asyncio.timeout(60):
        async with serving(held=held) as target:
            looking = asyncio.create_task(hold(target))
            await eventually(lambda: held.num_asked == 1, lambda: held.num_asked)
        assert "held" not in await looking


async def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = HttpServer(as_everyone, [])
        address = Address(host="127.0.0.1", port=other.getsockname()[1])
        with pytest.raises(CannotListen, match=rf"^metrics={address}: the address is in use or not of this machine"):
            await server.start(address, None)
        await server.aclose()


def shown_to(*, authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts `authority`, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_tls_shows_the_newest_certificate(tmp_path: Path) -> None:
    """As gRPC does: files that changed are shown from the next connection on, to those who name the server or not."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    pair, renewed = first.sign("server"), second.sign("server", file="renewed")
    files = TlsFiles(certificate=pair.certificate, key=pair.key)
    async with serving(certificates=Certificates(files)) as target:
        named = "localhost:" + target.partition(":")[2]
        for address in (target, named):
            assert (await ask(address, tls=shown_to(authority=first))).text == "hello"
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        assert (await ask(target, tls=shown_to(authority=first))).text == "hello"  # the key doesn't fit yet
        pair.key.write_bytes(renewed.key.read_bytes())
        for address in (target, named):
            assert (await ask(address, tls=shown_to(authority=second))).text == "hello"


async def test_mutual_tls_lets_in_only_certificates_of_its_authorities(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    pair, known, unknown = authority.sign("server"), authority.sign("client"), stranger.sign("other")
    files = TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=authority.certificate)
    async with serving(certificates=Certificates(files)) as target:
        assert (await ask(target, tls=shown_to(authority=authority, pair=known))).text == "hello"
        for strange in (None, unknown):
            with pytest.raises(OSError, match=r"alert|EOF|reset|closed"):
                await ask(target, tls=shown_to(authority=authority, pair=strange))
