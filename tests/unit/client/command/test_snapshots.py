import re
import socket
import threading
from pathlib import Path

import pytest

from framehaul_client.access import Access
from framehaul_client.command.snapshots import MetricsAddress, Snapshots
from framehaul_client.errors import (
    FramehaulError,
    InvalidOption,
    InvalidRequest,
    NotAuthenticated,
    ProtocolError,
    Refused,
    ServerUnavailable,
)
from tests.support.http_answers import answering


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("gpu7:9090", MetricsAddress("gpu7", 9090, None), "gpu7:9090"),
        ("http://gpu7:9090/", MetricsAddress("gpu7", 9090, False), "gpu7:9090"),
        ("https://[::1]:9090", MetricsAddress("::1", 9090, True), "[::1]:9090"),
    ],
)
def test_an_address_may_say_how_it_is_spoken_to(text: str, address: MetricsAddress, shown: str) -> None:
    assert MetricsAddress.parse(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["", "gpu7", "gpu7:", ":9090", "gpu7:x", "gpu7:70000", "ftp://gpu7:1", "gpu7:1/metrics", "a@gpu7:1", "[:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT of a server's --metrics, like 127\.0\.0\.1:9090"):
        MetricsAddress.parse(text)


def test_snapshots_come_once_and_again_and_again() -> None:
    """With the token, until the server ends them."""
    with answering(200, b'retry: 1000\ndata: {"a": 1}\n\n: comment\ndata: {"a": 2}\n\n') as (address, asked):
        reader = Snapshots(address, Access(token="secret"))
        events = reader.follow()
        assert [next(events), next(events)] == [{"a": 1}, {"a": 2}]
        with pytest.raises(ServerUnavailable, match="the server has ended the connection"):
            next(events)
        reader.close()
        reader.close()
    with answering(200, b'{"a": 3}') as (address, asked_once):
        assert Snapshots(address, Access()).latest() == {"a": 3}
    assert (asked, asked_once) == ([("/events", "Bearer secret")], [("/snapshot", "")])


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (401, b"", NotAuthenticated, "it wants a token, or another one: --token-file"),
        (403, b"", InvalidRequest, "may not watch: watch = true"),
        (503, b"", Refused, "too many look at it already"),
        (404, b"", InvalidRequest, "it answers 404: is it the address of a server's --metrics?"),
        (200, b"data: [1]", ProtocolError, "no snapshot"),
        (200, b"data: {", ProtocolError, "no snapshot"),
        (200, b"data: " + b"[" * 100_000, ProtocolError, "no snapshot"),
        (200, b"data: \xff", ProtocolError, "no snapshot"),
    ],
)
def test_another_answer_is_told(status: int, body: bytes, error: type[FramehaulError], text: str) -> None:
    with answering(status, body) as (address, _):
        with pytest.raises(error, match=text):
            next(Snapshots(address, Access()).follow())
        with pytest.raises(error, match=text):
            Snapshots(address, Access()).latest()


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (
            b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\n",
            "it doesn't answer by HTTP: is it the address of a server's --metrics?",
        ),
        (b"", "it hung up at once; perhaps it wants TLS: --tls"),
    ],
)
def test_a_server_that_speaks_something_else_is_told_without_its_bytes(told: bytes, text: str) -> None:
    """Such as the address for sessions, or one with TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer, args=(listening, told))
        thread.start()
        address = MetricsAddress("127.0.0.1", listening.getsockname()[1], None)
        with pytest.raises(ServerUnavailable, match=re.escape(text)):
            Snapshots(address, Access()).latest()
        thread.join()


def _answer(listening: socket.socket, told: bytes) -> None:
    with listening.accept()[0] as connection:
        connection.sendall(told)
        connection.recv(1 << 16)


def test_nobody_answers() -> None:
    with answering(200, b"") as (address, _):
        pass
    for ask in (Snapshots(address, Access()).latest, lambda: next(Snapshots(address, Access()).follow())):
        with pytest.raises(ServerUnavailable, match=f"{address}: no server answers: .*refused"):
            ask()
    Snapshots(address, Access()).close()


def test_somebody_answers_who_does_not_speak_http(tmp_path: Path) -> None:
    """Over TLS say, where it was not asked for, and the reverse."""
    with answering(200, b"") as (address, asked):
        encrypted = MetricsAddress(address.host, address.port, True)
        with pytest.raises(ServerUnavailable, match=r"no server answers: .*SSL"):
            Snapshots(encrypted, Access()).latest()
        with pytest.raises(InvalidOption, match=r"ca=.*none"):
            Snapshots(address, Access(ca=tmp_path / "none"))
        assert asked == []


@pytest.mark.parametrize("encrypted", [False, None])
def test_a_token_never_crosses_a_network_in_the_clear(encrypted: bool | None) -> None:
    """Even where certificates are named, if the address says http://."""
    access = Access(token="secret", tls=encrypted is False)
    with pytest.raises(InvalidOption, match="would cross the network in the clear"):
        Snapshots(MetricsAddress("gpu7", 9090, encrypted), access)
    Snapshots(MetricsAddress("gpu7", 9090, True), Access(token="secret"))
    Snapshots(MetricsAddress("gpu7", 9090, encrypted), Access(token="secret", insecure=True))
