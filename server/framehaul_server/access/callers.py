"""From a call's metadata to its `Caller`. Pure.

Tokens are compared as SHA-256 digests, with every digest known and in constant time, so that neither the time it
takes nor the tokens' file tells anything of them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from framehaul_server.core.tenants import EVERYONE, Caller, Tenant
from framehaul_server.errors import NotAuthenticated

Metadata = Iterable[tuple[str, str | bytes]]

AUTHORIZATION: Final = "authorization"
_SCHEME: Final = "bearer "


Identify = Callable[[Metadata], Caller]
"""Says whose call came with this metadata; raises `NotAuthenticated` when it is nobody's that this server knows."""


def as_everyone(metadata: Metadata) -> Caller:
    """Take everybody for the same tenant: a server without tokens."""
    del metadata
    return Caller(tenant=EVERYONE)


def by_token(tenants: Callable[[], Mapping[bytes, Tenant]]) -> Identify:
    """Know callers by bearer tokens: `tenants` is asked at each call for the tenant of each token's SHA-256 digest."""

    def identify(metadata: Metadata) -> Caller:
        digest = hashlib.sha256(_token(metadata)).digest()
        found = None
        for known, tenant in tenants().items():  # all of them: no early exit
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise NotAuthenticated
        return Caller(tenant=found)

    return identify


def _token(metadata: Metadata) -> bytes:
    """The one bearer token; empty when there is none, which is nobody's."""
    given = [value for key, value in metadata if key == AUTHORIZATION]
    if len(given) != 1 or not isinstance(given[0], str) or given[0][: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return given[0][len(_SCHEME) :].strip().encode()
