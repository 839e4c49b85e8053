"""The tokens' file: tenants, their limits, and the SHA-256 digests of their tokens; and a command that makes a token.

    [tenants.film]
    token_sha256 = ["9f86d081..."]   # several while one replaces another
    weight = 2
    max_sessions = 8
    max_queued = 16
    max_waiting_mib = 512
    max_priority = 10
    watch = true                     # it may see the whole server: metrics, page and traces

`python -m framehaul_server.access.tokens film film.token >> tokens.toml` makes a token: its file is the client's.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from framehaul.options import CommandParser
from framehaul.wire import MAX_PRIORITY
from framehaul_server.access.reload import read_private
from framehaul_server.core.tenants import MAX_QUEUED, Tenant

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TOKEN_BYTES: Final = 32
_RANGES: Final[Mapping[str, tuple[type, float, float]]] = MappingProxyType(
    {
        "weight": (float, 0.01, 100.0),
        "max_sessions": (int, 1, 10_000),
        "max_queued": (int, 0, MAX_QUEUED),
        "max_waiting_mib": (int, 1, 1 << 20),
        "max_priority": (int, -MAX_PRIORITY, MAX_PRIORITY),
    }
)
_TOKENS: Final = "token_sha256"
_WATCH: Final = "watch"


def read_tokens(path: Path) -> Mapping[bytes, Tenant]:
    """Read the file: the tenant of each token's digest.

    Raises:
        OSError: it can't be read.
        ValueError: others may read it, or it says something that it can't; the text names where.
    """
    raw = read_private(path)
    try:
        return MappingProxyType(parse_tokens(tomllib.loads(raw.decode())))
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_tokens(document: Mapping[str, object]) -> dict[bytes, Tenant]:
    """Make tenants of a parsed file.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    tenants = document.get("tenants")
    if set(document) != {"tenants"} or not isinstance(tenants, dict) or not tenants:
        raise ValueError("must hold tables [tenants.NAME], at least one, and nothing else")
    found: dict[bytes, Tenant] = {}
    for name, fields in tenants.items():
        where = f"tenants.{name}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{where}: a name must be 1..64 letters, digits, '_', '.' or '-'")
        if not isinstance(fields, dict):
            raise ValueError(f"{where}={fields!r}: must be a table")
        if unknown := set(fields) - {*_RANGES, _TOKENS, _WATCH}:
            raise ValueError(f"{where}.{min(unknown)}: must be one of {', '.join((_TOKENS, *_RANGES, _WATCH))}")
        tenant = _tenant(where, name, fields)
        for digest in _digests(where, fields.get(_TOKENS)):
            if digest in found:
                raise ValueError(f"{where}.{_TOKENS}: {digest.hex()[:8]}... is there twice")
            found[digest] = tenant
    return found


def _tenant(where: str, name: str, fields: Mapping[str, object]) -> Tenant:
    numbers = {field: _number(f"{where}.{field}", field, fields[field]) for field in _RANGES if field in fields}
    watch = fields.get(_WATCH, False)
    if not isinstance(watch, bool):
        raise ValueError(f"{where}.{_WATCH}={watch!r}: must be true or false")
    sessions, queued, mib = (numbers.get(field) for field in ("max_sessions", "max_queued", "max_waiting_mib"))
    return Tenant(
        name=name,
        weight=float(numbers.get("weight", 1.0)),
        max_sessions=None if sessions is None else int(sessions),
        max_queued=None if queued is None else int(queued),
        max_waiting_bytes=None if mib is None else int(mib) << 20,
        max_priority=int(numbers.get("max_priority", MAX_PRIORITY)),
        watch=watch,
    )


def _number(where: str, field: str, value: object) -> float:
    kind, low, high = _RANGES[field]
    wanted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        raise ValueError(f"{where}={value!r}: must be {low:g}..{high:g}{'' if kind is float else ', a whole number'}")
    return value


def _digests(where: str, value: object) -> list[bytes]:
    digests = value if isinstance(value, list) else []
    found = [bytes.fromhex(digest) for digest in digests if isinstance(digest, str) and _DIGEST.fullmatch(digest)]
    if not found or len(found) < len(digests):
        # Not shown: somebody may have put the token itself there.
        raise ValueError(f"{where}.{_TOKENS}: must be a list of tokens' SHA-256 digests, 64 digits 0-9a-f each")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a token."""
    parser = CommandParser(
        prog="python -m framehaul_server.access.tokens",
        description="Makes a token for a tenant. Prints the lines that go into the file that `server --tokens` reads.",
    )
    parser.add_argument("tenant", metavar="TENANT", help="letters, digits, '_', '.' and '-'")
    parser.add_argument("file", metavar="FILE", type=Path, help="new, for the token: `client --token-file` reads it")
    parsed = parser.parse_args(arguments)
    tenant: str = parsed.tenant
    if not _NAME.fullmatch(tenant):
        parser.error(f"{tenant!r}: must be 1..64 letters, digits, '_', '.' or '-'")
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        with open(os.open(parsed.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        parser.error(f"{parsed.file}: {error.strerror}")
    digest = hashlib.sha256(token.encode()).hexdigest()
    table = tenant if "." not in tenant else f'"{tenant}"'
    sys.stdout.write(f'[tenants.{table}]\ntoken_sha256 = ["{digest}"]\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
