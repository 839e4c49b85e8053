"""Configuration of the server process, checked when it is made; logged once at start."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from framehaul_pipeline.supervision.config import WorkerConfig
from framehaul_server.access.tls import TlsFiles
from framehaul_server.core.tenants import MAX_QUEUED
from framehaul_server.logs import LEVELS

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; port 0 picks a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`; IPv6 addresses stand in brackets.

        Raises:
            ValueError: not of that form.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not (host and colon and port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
            raise ValueError(f"{text!r}: must be HOST:PORT with a port of 0..{_MAX_PORT}, like 127.0.0.1:50051")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = _ip(self.host)
        return self.host == "localhost" if address is None else address.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        address = _ip(self.host)
        return address is not None and address.is_unspecified


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the server process can be told."""

    listen: Address = field(default_factory=lambda: Address(host="127.0.0.1", port=50051))
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    advertise: str | None = None
    """What `Locate` answers; None: the bound address, or this machine's name when that is a wildcard."""
    max_sessions: int = 64
    max_queued: int = 64
    """Sessions that wait for a place; 0: those without one are refused at once."""
    max_queued_bytes: int = 256 << 20
    """First requests of all sessions that wait for a place."""
    session_window_bytes: int = 64 << 20
    """Frames decoded, and not yet taken by the client, of one session."""
    session_latent_bytes: int = 16 << 20
    """Latents received, and not yet taken over by the worker, of one session."""
    max_request_bytes: int = 64 << 20
    first_request_timeout_s: float = 30.0
    session_journal_bytes: int = 64 << 20
    """Latents that the worker took over, kept for the case that it dies, of one session."""
    resume_window_s: float = 30.0
    """How long a resumable session waits for its client after the connection was lost."""
    keepalive_s: float = 10.0
    """Silence after which a connection is pinged."""
    stall_timeout_s: float = 600.0
    """A client that takes no frame and sends no latent for so long loses its session."""
    grace_s: float = 30.0
    """From the first signal until running sessions are ended."""
    allow_synthetic: bool = False
    reflection: bool = False
    tls: TlsFiles | None = None
    """Serve with these certificates; None: without TLS."""
    tokens: Path | None = None
    """Tenants and the digests of their tokens; None: everybody is let in, as one tenant."""
    insecure: bool = False
    """Listen beyond loopback even without TLS, or without asking who calls."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: names the field, its value and the range.
        """
        if self.exposed and not self.insecure:
            raise ValueError(
                f"listen={self.listen}: others than this machine reach it, which needs {self.exposed}; --insecure does "
                "without, for networks where every machine is trusted"
            )
        if self.advertise is not None:
            Address.parse(self.advertise)
        if self.log_level not in LEVELS:
            raise ValueError(f"log_level={self.log_level}: must be one of {', '.join(LEVELS)}")
        for name, value, low, high in (
            ("max_sessions", self.max_sessions, 1, 10_000),
            ("max_queued", self.max_queued, 0, MAX_QUEUED),
            ("max_queued_bytes", self.max_queued_bytes, 0, 1 << 40),
            ("session_window_bytes", self.session_window_bytes, 1 << 20, 1 << 40),
            ("session_latent_bytes", self.session_latent_bytes, 1 << 10, 1 << 40),
            ("max_request_bytes", self.max_request_bytes, 64 << 10, (1 << 31) - 1),
            ("session_journal_bytes", self.session_journal_bytes, 1 << 10, 1 << 40),
            ("resume_window_s", self.resume_window_s, 0.0, 3600.0),
            ("first_request_timeout_s", self.first_request_timeout_s, 0.01, 3600.0),
            ("keepalive_s", self.keepalive_s, 0.1, 3600.0),
            ("stall_timeout_s", self.stall_timeout_s, 0.1, 86400.0),
            ("grace_s", self.grace_s, 0.0, 3600.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}={value}: must be {low}..{high}")

    @property
    def exposed(self) -> str:
        """What a server that other machines reach lacks; empty when it lacks nothing, or only this one reaches it."""
        if self.listen.is_loopback:
            return ""
        lacking = [] if self.tls else ["TLS (--tls-cert and --tls-key)"]
        if not (self.tokens or (self.tls and self.tls.client_ca)):
            lacking.append("tokens (--tokens) or clients' certificates (--tls-client-ca)")
        return " and ".join(lacking)
