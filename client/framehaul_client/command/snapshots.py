"""Reads what a server shows at its metrics address: snapshots, as JSON, over HTTP. Blocking; for a thread.

What comes is bounded, and is checked no further than that it is a JSON object: `top_screen` draws it.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from urllib.parse import urlsplit

from framehaul_client.access import Access
from framehaul_client.errors import (
    FramehaulError,
    InvalidRequest,
    NotAuthenticated,
    ProtocolError,
    Refused,
    ServerUnavailable,
)

DEFAULT_ADDRESS: Final = "127.0.0.1:9090"
SILENT_S: Final = 5.0
"""A server that says nothing for so long counts as lost; it says something each second."""
_MOST_BYTES: Final = 16 << 20
_SCHEME: Final = re.compile(r"https?://")
_ANSWERS: Final[dict[int, tuple[type[FramehaulError], str]]] = {
    401: (NotAuthenticated, "it wants a token, or another one: --token-file"),
    403: (InvalidRequest, "this token's tenant may not watch: watch = true in the server's tokens file"),
    503: (Refused, "too many look at it already"),
}


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where a server's `--metrics` listens."""

    host: str
    port: int
    encrypted: bool | None
    """None: as the other options say."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`, with `http://` or `https://` before it or not.

        Raises:
            ValueError: it is something else.
        """
        scheme = _SCHEME.match(text)
        try:
            parts = urlsplit(text if scheme else f"//{text}")
            host, port = parts.hostname, parts.port
            if host and port and not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc):
                return cls(host, port, None if scheme is None else parts.scheme == "https")
        except ValueError:
            pass
        raise ValueError(
            f"{text!r}: must be HOST:PORT of a server's --metrics, like {DEFAULT_ADDRESS}, with http:// or https:// "
            "before it or not"
        )

    def __str__(self) -> str:
        """Without the scheme."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Snapshots:
    """One connection to one server."""

    def __init__(self, address: MetricsAddress, access: Access) -> None:
        """Prepare.

        Raises:
            InvalidOption: the token would cross a network in the clear, or a certificate can't be read.
        """
        encrypted = access.uses_tls if address.encrypted is None else address.encrypted
        if encrypted:
            access = replace(access, tls=True)
        else:
            access = replace(access, tls=False, ca=None, certificate=None, key=None, server_name=None)
        self._address = address
        self._headers = dict(access.metadata(str(address)))
        self._context = access.context() if encrypted else None
        self._server_name = access.server_name or address.host
        self._connection: http.client.HTTPConnection | None = None

    def latest(self) -> dict[str, Any]:
        """Ask for one.

        Raises:
            ServerUnavailable: nobody answers.
            FramehaulError: somebody answers something else.
        """
        try:
            return _parse(self._get("/snapshot").read(_MOST_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error

    def follow(self) -> Iterator[dict[str, Any]]:
        """Give each that the server tells, about one a second.

        Raises:
            ServerUnavailable: nobody answers, or the connection is lost.
            FramehaulError: somebody answers something else.
        """
        try:
            response = self._get("/events")
            while line := response.readline(_MOST_BYTES):
                if line.startswith(b"data:"):
                    yield _parse(line[5:])
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        raise ServerUnavailable(f"{self._address}: the server has ended the connection")

    def close(self) -> None:
        """End the connection, also under another thread that reads from it; twice is fine."""
        if self._connection is not None and self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _get(self, path: str) -> http.client.HTTPResponse:
        address = self._address
        connection = self._connection = http.client.HTTPConnection(address.host, address.port, timeout=SILENT_S)
        connection.connect()
        if self._context is not None:
            connection.sock = self._context.wrap_socket(connection.sock, server_hostname=self._server_name)
        connection.request("GET", path, headers=self._headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            unknown = (InvalidRequest, f"it answers {response.status}: is it the address of a server's --metrics?")
            kind, text = _ANSWERS.get(response.status, unknown)
            raise kind(f"{address}: {text}")
        return response

    def _lost(self, error: Exception) -> ServerUnavailable:
        if self._connection is not None:
            self._connection.close()
        if isinstance(error, http.client.RemoteDisconnected):
            return ServerUnavailable(f"{self._address}: it hung up at once; perhaps it wants TLS: --tls")
        if isinstance(error, OSError):
            return ServerUnavailable(f"{self._address}: no server answers: {error.strerror or error}")
        return ServerUnavailable(
            f"{self._address}: it doesn't answer by HTTP: is it the address of a server's --metrics?"
        )


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError("what came is no snapshot of a server: is it the address of a server's --metrics?")
    return value
