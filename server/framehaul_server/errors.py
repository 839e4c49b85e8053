"""What can go wrong in the server itself, beside the pipeline's errors; `framehaul_server.rpc.status` maps both.

Pure. The texts may be shown to a client.
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of every error that the server raises on purpose."""


class CannotListen(ServerError):
    """The listening address can't be bound."""


class CannotWork(ServerError):
    """Settings that are each allowed, and can't work together or on this host."""


class UnusableFile(ServerError):
    """A certificate, key or tokens' file that the server can't start with."""


class ClientSilent(ServerError):
    """A call's request didn't come in time."""


class ClientLeft(ServerError):
    """The request stream ended before its session did: half-closed, or the connection is lost."""


class Elsewhere(ServerError):
    """A front was asked for what only a server does."""

    def __init__(self, targets: list[str]) -> None:
        """Name the servers to go to, the best first."""
        super().__init__(
            "this address is a front, which names servers: ask Locate, and go to what it answers"
            + (f"; {targets[0]}, say" if targets else "")
        )
        self.targets = targets


class ConnectionLost(ServerError):
    """The transport has lost the client; there is nobody to be told."""

    def __init__(self, reason: Exception) -> None:
        """Keep the transport's own error."""
        super().__init__(str(reason))
        self.reason = reason


class Fenced(ServerError):
    """Another connection has taken the session up."""


class ClientStalled(ServerError):
    """The client took no frame and sent no latent for too long."""


class GrantExceeded(ServerError):
    """The client sent more than it was granted; sending the same again would fail again."""


class NotAuthenticated(ServerError):
    """The call's token is missing or unknown; the text is the same for both."""

    def __init__(self) -> None:
        """Say what a call needs."""
        super().__init__("this server wants a known token: metadata `authorization: Bearer TOKEN`")


class NotPermitted(ServerError):
    """This server is configured to refuse what was asked."""


class SessionCancelled(ServerError):
    """The client asked for the session's end."""
