from pathlib import Path

import pytest

from framehaul.address import Address
from framehaul_server.access.tls import TlsFiles
from framehaul_server.config import ServerConfig


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:50051", "127.0.0.1", 50051), ("localhost:0", "localhost", 0), ("[::1]:65535", "::1", 65535)],
)
def test_addresses_are_read_and_written_alike(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host:", "host:x", "host:-1", "host:65536", "::1:50051", "h:²"]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"like 127\.0\.0\.1:50051"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback", "wildcard"),
    [
        ("127.0.0.1:1", True, False),
        ("[::1]:1", True, False),
        ("localhost:1", True, False),
        ("10.0.0.1:1", False, False),
        ("gpu-7:1", False, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
    ],
)
def test_loopback_and_wildcard_addresses_are_known(text: str, *, loopback: bool, wildcard: bool) -> None:
    address = Address.parse(text)
    assert (address.is_loopback, address.is_wildcard) == (loopback, wildcard)


def test_listening_beyond_loopback_must_be_said() -> None:
    outside = Address.parse("0.0.0.0:50051")
    with pytest.raises(ValueError, match="--insecure"):
        ServerConfig(listen=outside)
    assert ServerConfig(listen=outside, insecure=True).listen == outside


def test_metrics_beyond_loopback_need_tokens() -> None:
    """Clients' certificates don't do: whoever has one may use the server, not watch it."""
    outside = Address.parse("0.0.0.0:9090")
    with pytest.raises(ValueError, match=r"metrics=0.0.0.0:9090: others .* needs tokens \(--tokens\); --insecure"):
        ServerConfig(metrics=outside, tls=MUTUAL)
    for config in (ServerConfig(metrics=outside, tokens=Path("t")), ServerConfig(metrics=outside, insecure=True)):
        assert config.metrics == outside
    assert ServerConfig(metrics=Address.parse("localhost:9090")).metrics


PLAIN = TlsFiles(certificate=Path("c"), key=Path("k"))
MUTUAL = TlsFiles(certificate=Path("c"), key=Path("k"), client_ca=Path("a"))


@pytest.mark.parametrize(
    ("tls", "tokens", "lacking"),
    [
        (None, None, r"TLS \(--tls-cert and --tls-key\) and tokens \(--tokens\) or clients' certificates"),
        (None, Path("t"), r"which needs TLS \(--tls-cert and --tls-key\); --insecure"),
        (PLAIN, None, r"which needs tokens \(--tokens\) or clients' certificates \(--tls-client-ca\); --insecure"),
        (PLAIN, Path("t"), None),
        (MUTUAL, None, None),
    ],
)
def test_what_a_server_for_others_lacks_is_named(
    tls: TlsFiles | None, tokens: Path | None, lacking: str | None
) -> None:
    """TLS, and a way to know who calls; on loopback neither is needed."""
    outside = Address.parse("10.0.0.1:1")
    assert not ServerConfig(tls=tls, tokens=tokens).exposed
    if lacking is None:
        assert ServerConfig(listen=outside, tls=tls, tokens=tokens).exposed == ""
    else:
        with pytest.raises(ValueError, match=lacking):
            ServerConfig(listen=outside, tls=tls, tokens=tokens)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"max_sessions": 0}, r"max_sessions=0: must be 1\.\.10000"),
        ({"max_queued": 1001}, r"max_queued=1001: must be 0\.\.1000"),
        ({"max_queued_bytes": -1}, r"max_queued_bytes=-1: must be 0\.\."),
        ({"session_window_bytes": 1}, "session_window_bytes=1"),
        ({"session_latent_bytes": 1}, "session_latent_bytes=1"),
        ({"max_request_bytes": 1 << 31}, "max_request_bytes=2147483648"),
        ({"first_request_timeout_s": 0.0}, "first_request_timeout_s=0.0"),
        ({"grace_s": -1.0}, "grace_s=-1.0"),
        ({"grace_s": float("nan")}, "grace_s=nan"),
        ({"log_level": "loud"}, "log_level=loud: must be one of debug, info"),
        ({"advertise": "nowhere"}, "'nowhere': must be HOST:PORT"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ServerConfig(**changes)  # type: ignore[arg-type]
