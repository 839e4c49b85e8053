"""What clients can make a server hold of requests that aren't whole, or that nobody reads the answers of: method by
method, with a token and without, over TLS and not, on one connection and on many.
"""

import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.integration.security.conftest import write_tokens
from tests.support.certificates import Authority
from tests.support.clips import latents, opening
from tests.support.http2 import Http2
from tests.support.memory import MIB, forget_peak, peak_bytes
from tests.support.server_process import ServerProcess, running_server
from tests.support.waiting import wait_until

REQUEST_MIB = 8
NUM_CALLS = 12
"""On one connection, and on as many: 192 MiB of requests."""
MOST_BYTES = 56 * MIB
"""Two small requests at a time, two large ones and those that have just given way to them."""
OPTIONS = (
    "--reflection",
    "--max-sessions",
    "2",
    "--max-queued",
    "0",
    "--max-request-mib",
    str(REQUEST_MIB),
    "--session-window-mib",
    "1",
)
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS = (
    *(f"{HEALTH}/{method}" for method in ("Check", "List", "Watch")),
    REFLECTION,
    *(f"{wire.SERVICE}/{method}" for method in ("GetServerInfo", "Locate", "Render", "Stream", "Trace")),
)


@pytest.fixture(scope="module", params=["plain", "tls"])
def served(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, ssl.SSLContext | None]]:
    """Without tokens, or with TLS and tokens."""
    folder = tmp_path_factory.mktemp("server")
    options: tuple[str, ...] = OPTIONS
    tls: ssl.SSLContext | None = None
    if request.param == "tls":
        pair = authority.sign("server", file="held")
        write_tokens(folder / "tokens.toml", film="")
        options += ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
        options += ("--tokens", str(folder / "tokens.toml"))
        tls = ssl.create_default_context(cafile=str(authority.certificate))
        tls.set_alpn_protocols(["h2"])
    with running_server(folder / "log", *options) as server:
        yield server, tls


def fill(server: ServerProcess, tls: ssl.SSLContext | None, method: str, metadata: dict[str, str]) -> int:
    """Announce requests and withhold the last byte of each: the most that the server held more than before."""
    with ExitStack() as stack:
        attackers = [stack.enter_context(Http2(server.target, tls)) for _ in range(NUM_CALLS + 1)]
        forget_peak(server)
        before = peak_bytes(server)
        for index, attacker in enumerate(attackers):
            for number in range(NUM_CALLS if index == 0 else 1):
                attacker.call(f"/{method}", 1 + 2 * number, **metadata)
                attacker.announce(REQUEST_MIB * MIB, 1 + 2 * number)
        end_s = time.monotonic() + 1.2
        while time.monotonic() < end_s:
            if not sum(attacker.push() for attacker in attackers):
                time.sleep(0.02)
        return peak_bytes(server) - before


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_requests_that_arent_whole_hold_little(
    served: tuple[ServerProcess, ssl.SSLContext | None], method: str, with_token: bool
) -> None:
    server, tls = served
    if with_token and tls is None:
        pytest.skip("without tokens there is no difference")
    metadata = {"authorization": "Bearer film-token"} if with_token else {}
    assert fill(server, tls, method, metadata) < MOST_BYTES


def test_whole_requests_whose_answers_nobody_reads_hold_no_more_than_their_sessions(
    served: tuple[ServerProcess, ssl.SSLContext | None],
) -> None:
    """Of 24 that come together two get a place; the others are refused."""
    server, tls = served
    if tls is not None:
        pytest.skip("the same without")
    clip = pb.RenderRequest(open=opening(), latents=latents(1) * (REQUEST_MIB * MIB // len(latents(1)) - 1))
    with ExitStack() as stack:
        stubs = [stack.enter_context(server.stub()) for _ in range(2 * NUM_CALLS)]
        forget_peak(server)
        before = peak_bytes(server)
        calls = [stub.Render(clip) for stub in stubs]
        wait_until(lambda: sum(call.is_active() for call in calls) == 2, "all but two refused")
        assert {call.code() for call in calls if not call.is_active()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert peak_bytes(server) - before < MOST_BYTES
        for call in calls:
            call.cancel()
        server.expect_idle()


def test_calls_that_say_nothing_hold_up_nobody(served: tuple[ServerProcess, ssl.SSLContext | None]) -> None:
    """More of them than there are places and turns to be read, on one connection and on many."""
    server, tls = served
    if tls is not None:
        pytest.skip("the same without")
    with ExitStack() as stack:
        silent = [stack.enter_context(Http2(server.target)) for _ in range(NUM_CALLS + 1)]
        for index, client in enumerate(silent):
            for number in range(NUM_CALLS if index == 0 else 1):
                client.call(f"/{wire.SERVICE}/{('Stream', 'Render')[number % 2]}", 1 + 2 * number)
        server.expect_serves()
        server.expect_idle()
