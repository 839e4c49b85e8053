"""The errors that this package raises on purpose, under one base class; pure.

If the server explained itself, its words are in the text: they name the field, the value and the allowed set.
"""

from __future__ import annotations


class FramehaulError(Exception):
    """Base class of the client's errors.

    Attributes:
        reason: the server's word for it where one code has several, such as `CLIENT_STALLED` (docs/protocol.md,
            "Statuses"); None if it gave none.
    """

    reason: str | None = None


class InvalidRequest(FramehaulError):
    """The request can't succeed as it stands: repeating it gives the same answer."""


class InvalidLatents(InvalidRequest):
    """Latents whose shape, dtype or number contradicts the session; found before they were sent."""


class NotFound(InvalidRequest):
    """The server doesn't know this model or session."""


class NotAuthenticated(InvalidRequest):
    """The server wants a token, and this client's is missing or unknown."""


class Unsupported(InvalidRequest):
    """The server doesn't offer this part of the protocol."""


class Refused(FramehaulError):
    """The server has no room now, or the request exceeds one of its limits.

    Attributes:
        retry_after_s: how long the server wants the client to wait before it asks again; None if it didn't say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Keep the server's `message`, and the wait that it asked for."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerUnavailable(FramehaulError):
    """No server answers at the target, or it is shutting down."""


class ConnectionLost(ServerUnavailable):
    """The connection broke while a session was running."""


class GaveUp(ConnectionLost):
    """The connection was lost, and every retry failed for as long as the caller wanted to try."""


class StreamFailed(FramehaulError):
    """The server ended the session for a reason of its own."""


class ProtocolError(StreamFailed):
    """The server said something that the protocol doesn't allow at this point."""


class DataLoss(StreamFailed):
    """Frames are missing, doubled, out of order, or differ from their checksum."""


class SessionDamaged(DataLoss):
    """The server found that latents, or frames decoded again, differ from their checksum; a new session can go on."""


class InvalidOption(FramehaulError):
    """An option that is impossible, or doesn't go with another."""


class LatentsFileError(FramehaulError):
    """A latents file that can't be read, or doesn't hold what it should."""


class OutputError(FramehaulError):
    """Frames couldn't be encoded or written."""


class OutputClosed(OutputError):
    """The output's reader has gone."""
