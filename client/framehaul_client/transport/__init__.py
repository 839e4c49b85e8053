"""Calls to a server, over gRPC: one after another until a session is whole.

Runs on the caller's event loop. Of the client's folders the one that knows gRPC.
"""

__all__ = ["connection", "exchange", "queueing", "servers", "status", "trace"]
