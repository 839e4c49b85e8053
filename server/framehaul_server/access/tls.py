"""The server's TLS: credentials for gRPC, and a context for HTTP, that follow the certificate files.

gRPC asks for the certificates at each handshake, on threads of its own. New files are tried with the standard
library's `ssl` first, so that a certificate whose key has not been written yet never reaches gRPC.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from framehaul_server.access.reload import Watched, read_private, read_public

_NO_PASSWORD: Final = ""
"""Given where a key is encrypted: without it, OpenSSL would ask at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files."""

    certificate: Path
    """The server's own, followed by those between it and its authority."""
    key: Path
    client_ca: Path | None = None
    """Authorities of clients' certificates; without it clients need none."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))


class Certificates:
    """The newest good certificates."""

    def __init__(self, files: TlsFiles) -> None:
        """Read `files`.

        Raises:
            OSError: one can't be read.
            ValueError: one isn't what it should be.
        """
        self._files = files
        self._watched = Watched("certificates", files.paths, lambda: _read(files))

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC port takes; follows the files from then on."""
        shown = self._watched.current()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            # gRPC puts what it is given in place without a lock, under handshakes that use the last one: a crash, at
            # times. None leaves that be.
            nonlocal shown
            newest = self._watched.current()
            if newest is shown:
                return None
            shown = newest
            return newest[0]

        return grpc.dynamic_ssl_server_credentials(
            shown[0],
            changed,  # type: ignore[arg-type]  # the stubs lack None, which gRPC's documentation has
            require_client_authentication=bool(self._files.client_ca),
        )

    def context(self) -> ssl.SSLContext:
        """What any other port takes; follows the files from then on. For this use alone."""
        context = self._watched.current()[1]

        def show_newest(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            handshake.context = self._watched.current()[1]

        context.sni_callback = show_newest
        return context


def _read(files: TlsFiles) -> tuple[grpc.ServerCertificateConfiguration, ssl.SSLContext]:
    chain, key = read_public(files.certificate), read_private(files.key)
    authorities = read_public(files.client_ca) if files.client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: _NO_PASSWORD)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"{files.certificate}, {files.key}: must be a PEM certificate chain and its unencrypted key ({error})"
        ) from error
    if authorities is not None:
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{files.client_ca}: must be PEM certificates of authorities ({error})") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities), context
