"""Calls to a server, over gRPC: one after another until a session is whole.

Runs on the caller's event loop. The one folder of the client that knows gRPC.
"""

__all__ = ["connection", "exchange", "queueing", "status", "stream"]
