"""How the client reaches a server and identifies itself: TLS, certificates, token. Pure, but for reading the files."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from framehaul_client.core.session_config import SCHEME
from framehaul_client.errors import InvalidOption

TOKEN_VARIABLE: Final = "FRAMEHAUL_TOKEN"
TOKEN_FILE_VARIABLE: Final = "FRAMEHAUL_TOKEN_FILE"
TLS_VARIABLE: Final = "FRAMEHAUL_TLS"
CA_VARIABLE: Final = "FRAMEHAUL_CA"
CERT_VARIABLE: Final = "FRAMEHAUL_CERT"
KEY_VARIABLE: Final = "FRAMEHAUL_KEY"
SERVER_NAME_VARIABLE: Final = "FRAMEHAUL_TLS_SERVER_NAME"

Metadata = tuple[tuple[str, str], ...]

_NO_PASSWORD: Final = ""
"""Given where a key is encrypted: without it, OpenSSL would ask at the terminal."""
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a connection needs besides its target.

    Attributes:
        tls: encrypt, and check the server's identity. The other TLS options imply it.
        ca: PEM file of the authorities to trust; None for gRPC's own list.
        certificate: PEM file of this client's certificate, for servers that ask for one.
        key: PEM file of its key.
        server_name: the name in the server's certificate, if it differs from the target.
        token: identifies the caller; sent only over TLS or to this machine.
        insecure: send the token in the clear all the same; for networks whose every machine is trusted.
    """

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        """Check the combination.

        Raises:
            InvalidOption: a certificate without its key or the reverse, or a malformed token.
        """
        if (self.certificate is None) != (self.key is None):
            raise InvalidOption(f"certificate={self.certificate}, key={self.key}: must be given together")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InvalidOption("token: must be 1..4096 printable ASCII characters without spaces")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Access:
        """Read `FRAMEHAUL_TOKEN` and its kin. An empty variable counts as unset; a token's file goes before the token.

        Raises:
            InvalidOption: a variable has an impossible value, or the token's file can't be read.
        """

        def path(variable: str) -> Path | None:
            value = environment.get(variable)
            return Path(value) if value else None

        tls = environment.get(TLS_VARIABLE, "")
        if tls not in ("", "0", "1"):
            raise InvalidOption(f"{TLS_VARIABLE}={tls!r}: must be 0 or 1")
        token_file = path(TOKEN_FILE_VARIABLE)
        return cls(
            tls=tls == "1",
            ca=path(CA_VARIABLE),
            certificate=path(CERT_VARIABLE),
            key=path(KEY_VARIABLE),
            server_name=environment.get(SERVER_NAME_VARIABLE) or None,
            token=read_token(token_file) if token_file else environment.get(TOKEN_VARIABLE) or None,
        )

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or any((self.ca, self.certificate, self.server_name))

    def metadata(self, target: str) -> Metadata:
        """What to send with every call to `target`.

        Raises:
            InvalidOption: the token would cross a network in the clear.
        """
        if self.token is None:
            return ()
        if not (self.uses_tls or self.insecure or is_local(target)):
            raise InvalidOption(
                f"{target}: the token would cross the network in the clear: use --tls, or --insecure where every "
                "machine of the network is trusted"
            )
        return (("authorization", f"Bearer {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What a gRPC channel takes; None without TLS.

        Raises:
            InvalidOption: a file can't be read, or isn't what it should be.
        """
        if not self.uses_tls:
            return None
        files = _read(self.ca), _read(self.key), _read(self.certificate)
        self.context()  # of files that are no good gRPC says nothing but that no server answers
        return grpc.ssl_channel_credentials(*files)

    def context(self) -> ssl.SSLContext:
        """What any other connection takes.

        Raises:
            InvalidOption: a file can't be read, or isn't what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise InvalidOption(f"ca={self.ca}: must be PEM certificates of authorities ({error.strerror})") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=lambda: _NO_PASSWORD)
            except (OSError, ValueError) as error:
                raise InvalidOption(
                    f"cert={self.certificate}, key={self.key}: must be a PEM certificate chain and its unencrypted key "
                    f"({error})"
                ) from error
        return context


def is_local(target: str) -> bool:
    """Whether what goes to a gRPC target stays on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = SCHEME.sub("", target)
    host = host.partition("]")[0][1:] if host.startswith("[") else host.rpartition(":")[0] or host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """Read a token from a file that only this user can read.

    Raises:
        InvalidOption: it can't be read, or others may read it.
    """
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InvalidOption(
                    f"{path}: mode {stat.S_IMODE(mode):04o}: must be 0600, others may read it: chmod 600"
                )
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path}: the token can't be read: {getattr(error, 'strerror', error)}") from error


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}") from error
