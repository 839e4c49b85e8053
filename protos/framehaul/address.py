"""`HOST:PORT`, as it is written in options and named in answers. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

_MAX_PORT: Final = 65535
_NOT_IN_HOSTS: Final = frozenset("@/?# ")
"""What an address in a URL may have beside a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host and a port; port 0 picks a free one where something listens."""

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
        if _NOT_IN_HOSTS & set(host):
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
