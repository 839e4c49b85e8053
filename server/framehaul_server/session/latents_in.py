"""A session's latents on their way in: checked, counted against its grant, and pushed to where frames come from.

Runs on the event loop, in the session's reader.
"""

from __future__ import annotations

import asyncio
from typing import Final

from framehaul_server.core.grant import LatentGrant
from framehaul_server.core.latents import LatentInput, check_finite, holds_latents
from framehaul_server.core.open_request import OpenRequest
from framehaul_server.session.connection import Request
from framehaul_server.session.decoding import Decoding

_CHECKED_AT_ONCE_BYTES: Final = 4 << 20
"""Latents checked before other sessions get a turn: about a millisecond."""


class LatentsIn:
    """One session's latents, through all of its connections."""

    def __init__(self, request: OpenRequest, decoding: Decoding, *, budget: int) -> None:
        """Expect the first latent of the session that `request` opened; `budget` of them may wait."""
        self._request = request
        self._decoding = decoding
        self.input = LatentInput(request)
        self.grant = LatentGrant(budget, request.first_latent)
        self._fed = asyncio.Event()
        """Pulsed when the worker took over latents."""

    # Grants, which EXPLICIT clients alone get

    @property
    def grant_overdue(self) -> bool:
        """Whether telling the client of its room is worth a message."""
        return self._request.explicit and self.grant.overdue and not self.input.ended

    def announce(self) -> int:
        """The value for a response's `latents_until`; 0 when there is nothing new to tell."""
        return self.grant.announce() if self._request.explicit and not self.input.ended else 0

    def repeat(self) -> int:
        """The value for the first response on a connection."""
        return self.grant.repeat() if self._request.explicit else 0

    def fed(self, num_fed: int) -> None:
        """Make room: the worker took over `num_fed` latents in all."""
        self.input.num_fed = num_fed
        self.grant.fed(num_fed)
        self._fed.set()

    # Latents

    def check(self, request: Request) -> list[memoryview]:
        """Check what a message says of latents, all but their values; nothing is taken.

        Returns:
            Its latents, to be given to `add`.

        Raises:
            PipelineError: they aren't what the session needs next, or can't end here.
            GrantExceeded: more than was granted.
        """
        header, latents = request.header, list[memoryview]()
        if holds_latents(request):
            latents_until = self.grant.until if self._request.explicit else None
            latents = self.input.accept(header, request.payload, latents_until=latents_until)
        if header.end_of_latents:
            self.input.check_end(len(latents))
        return latents

    async def check_values(self, latents: list[memoryview]) -> None:
        """Check the values of latents that passed `check`; nothing is taken.

        Cancellation: nothing has changed.

        Raises:
            InvalidInput: NaN or infinity.
        """
        checked_bytes = 0
        for index, latent in enumerate(latents, self.input.num_received):
            check_finite(latent, self._request.opening.dtype, index)
            checked_bytes += len(latent)
            if checked_bytes >= _CHECKED_AT_ONCE_BYTES:
                checked_bytes = 0
                await asyncio.sleep(0)  # others' turn

    async def add(self, latents: list[memoryview]) -> None:
        """Take latents that passed `check`.

        Cancellation: all of them or none were taken.

        Raises:
            InvalidInput: see `check_values`.
        """
        await self.check_values(latents)
        # In one step: a connection may break at any other time, and the next one is told what came.
        self.input.count(len(latents))
        for latent in latents:
            self._decoding.send_latent(latent)

    def end(self) -> None:
        """No more latents come; twice is fine.

        Raises:
            InvalidInput: fewer came than were declared.
        """
        if self.input.ended:
            return
        self.input.end()
        self._decoding.end_latents()

    async def pending_fit(self) -> None:
        """Wait until the latents that wait are within the budget.

        Cancellation: nothing is lost.
        """
        while self.input.num_pending >= self.grant.budget:
            self._fed.clear()
            await self._fed.wait()
