"""A session's id: the epoch of its server, which says where it is, and 128 random bits. Pure.

Whoever knows the bits may resume the session, with the same tenant's credentials. The epoch is no secret.
"""

from __future__ import annotations

import secrets
from typing import Final

_EPOCH_BYTES: Final = 8
_SECRET_BYTES: Final = 16
SESSION_ID_BYTES: Final = _EPOCH_BYTES + _SECRET_BYTES


def new_session_id(epoch: int) -> bytes:
    """An id of the server with this `epoch`."""
    return epoch.to_bytes(_EPOCH_BYTES) + secrets.token_bytes(_SECRET_BYTES)


def epoch_of(session_id: bytes) -> int | None:
    """The epoch of the session's server; None for what is no id."""
    return int.from_bytes(session_id[:_EPOCH_BYTES]) if len(session_id) == SESSION_ID_BYTES else None
