"""The sessions that may be resumed, by id, and how long one waits for its client. Runs on the event loop.

A session is either served by a call, which then has the claim to its place, or detached, and has the claim itself until
it is taken up again or its time is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from framehaul_pipeline.errors import NotFound
from framehaul_server import logs
from framehaul_server.admission.places import Claim
from framehaul_server.core.tenants import Caller
from framehaul_server.session.connection import Request
from framehaul_server.session.session import Session

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Entry:
    session: Session
    claim: Claim | None = None
    """Held while detached."""
    expiry: asyncio.TimerHandle | None = None
    """Set while detached."""


class ResumableSessions:
    """Owner of the detached sessions."""

    def __init__(self, window_s: float, *, on_dropped: Callable[[Session, Claim], None]) -> None:
        """Keep a session for `window_s` after its connection was lost; `on_dropped` takes what ended so."""
        self._window_s = window_s
        self._on_dropped = on_dropped
        self._entries: dict[bytes, _Entry] = {}

    def count(self, caller: Caller) -> int:
        """Sessions that this caller may resume, those that are served included."""
        owned = (caller.owns(entry.session.caller) for entry in self._entries.values())
        return sum(owned)

    def add(self, session: Session) -> None:
        """Make a session that is served known by its id."""
        self._entries[_key(session.id)] = _Entry(session)

    def detach(self, session: Session, claim: Claim) -> None:
        """Keep a session whose connection was lost, together with the claim to its place."""
        entry = self._entries[_key(session.id)]
        entry.claim = claim
        entry.expiry = asyncio.get_running_loop().call_later(self._window_s, self._expire, session)

    def check(self, session_id: bytes, caller: Caller) -> None:
        """Refuse an id that this caller couldn't resume.

        Raises:
            NotFound: no such session, not any more, or another tenant's.
        """
        self._find(session_id, caller, "session_id")

    async def take(self, first: Request, caller: Caller) -> tuple[Session, Claim]:
        """Take over the session that a call's first request asks for; who served it has ended when this returns.

        Raises:
            NotFound: no such session, not any more, or another tenant's.
            PipelineError: it can't be resumed so; whoever serves it goes on.
            ServerError: likewise.

        Cancellation: the session stays detached.
        """
        session_id = first.header.open.resume.session_id
        session = self._find(session_id, caller, "open.resume.session_id").session
        await session.check_values(session.check_resume(first))
        while True:
            entry = self._find(session_id, caller, "open.resume.session_id")
            entry.session.check_resume(first)  # again, since the session went on meanwhile
            if entry.claim is not None:
                return entry.session, self._attach(entry)
            await entry.session.fence()

    def remove(self, session: Session) -> None:
        """Forget a session that has ended; an unknown one is fine."""
        self._entries.pop(_key(session.id), None)

    def drop_detached(self) -> None:
        """End the sessions that no connection serves."""
        for entry in [entry for entry in self._entries.values() if entry.claim is not None]:
            self._drop(entry)

    def _find(self, session_id: bytes, caller: Caller, field: str) -> _Entry:
        entry = self._entries.get(_key(session_id))
        if entry is None or not caller.owns(entry.session.caller):
            raise NotFound(
                f"{field}: no such session, or its time to be resumed is over: open a new one with start_frame"
            )
        return entry

    def _expire(self, session: Session) -> None:
        _log.info("%s", logs.line("session_expired", model=session.request.spec.name, window_s=self._window_s))
        self._drop(self._entries[_key(session.id)])

    def _drop(self, entry: _Entry) -> None:
        self.remove(entry.session)
        entry.session.close()
        self._on_dropped(entry.session, self._attach(entry))

    def _attach(self, entry: _Entry) -> Claim:
        """Take the claim of a detached session."""
        claim, expiry, entry.claim, entry.expiry = entry.claim, entry.expiry, None, None
        assert claim is not None, "held while detached"
        assert expiry is not None, "likewise"
        expiry.cancel()
        return claim


def _key(session_id: bytes) -> bytes:
    """Look-ups of a hash take no time that tells how much of a guessed id was right."""
    return hashlib.sha256(session_id).digest()
